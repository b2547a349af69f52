package sandboxtest

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"tero.internal/common/fault"
	"tero.internal/common/workload"
	"tero.internal/runtime/sandbox"
)

// withLayer gives the suite with an image that has a further layer on top: link
// targets by name, or for names that end in "!" the content of a program.
func (s *Suite) withLayer(t *testing.T, files map[string]string) *Suite {
	t.Helper()
	dir := openFolder(t)
	for name, content := range files {
		path := filepath.Join(dir, strings.TrimSuffix(name, "!"))
		err := os.MkdirAll(filepath.Dir(path), 0o755) //nolint:gosec // public inside
		if strings.HasSuffix(name, "!") {
			err = errors.Join(err, os.WriteFile(path, []byte(content), 0o755)) //nolint:gosec // a program
		} else {
			err = errors.Join(err, os.Symlink(content, path))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	other := *s
	other.Image.Erofs = ""
	other.Image.Layers = append([]string{dir}, s.Image.Layers...)
	return &other
}

// meanImages have links where the setup of a container opens, makes and mounts
// things: into the host, and into what configures the kernel.
func (s *Suite) meanImages(t *testing.T) {
	host := filepath.Join(openFolder(t), "host")
	if err := os.WriteFile(host, []byte("the host's"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, files := range map[string]map[string]string{
		"devices": {
			"dev/null": host, "dev/console": "/proc/sysrq-trigger", "dev/ptmx": "/proc/sys/kernel/core_pattern", "dev/tty": host,
			"dev/pts": "/proc/sys", "dev/shm": "/", "dev/fd": "/proc", "dev/stdin": host,
		},
		"files of the network": {"etc/hosts": host, "etc/resolv.conf": "/proc/sys/kernel/core_pattern", "etc/hostname": "../../../../../.." + host},
		"users":                {"etc/passwd": host, "etc/group": "/proc/self/mem"},
		"folders":              {"tmp": "/proc/sys", "run": host},
		"all of /dev":          {"dev": "/proc/sys"},
		"all of /etc":          {"etc": "/proc/sys/kernel"},
	} {
		t.Run(name, func(t *testing.T) {
			o := s.withLayer(t, files)
			for _, terminal := range []bool{false, true} {
				spec := o.Spec(t, "look")
				spec.Terminal = terminal
				id, err := o.TryLaunch(t, spec)
				if err != nil {
					if kind := fault.KindOf(err); kind == fault.Internal || fault.HintOf(err) == "" {
						t.Errorf("not a clear refusal: %v (%v)", err, kind)
					}
					continue
				}
				o.End(t, id)
				o.checkMean(t, ParseView(t, o.Output(t, id)), terminal)
			}
			if b, err := os.ReadFile(host); err != nil || string(b) != "the host's" { //nolint:gosec // the test's own
				t.Errorf("the host's file: %q, %v", b, err)
			}
		})
	}
}

// checkMean checks that a container of a mean image is what any is.
func (s *Suite) checkMean(t *testing.T, v View, terminal bool) {
	t.Helper()
	s.checkView(t, v)
	if v.TTY != terminal {
		t.Errorf("console %v", v.TTY)
	}
	// Of /proc itself checkView has read: what is listed here may lie below it.
	points := map[string]string{}
	for _, m := range v.Mounts {
		before, after, _ := strings.Cut(m, " - ")
		if f := strings.Fields(before); len(f) > 4 && (f[4] != "/proc" || strings.HasPrefix(after, "proc ")) {
			points[f[4]] = after
		}
	}
	for point, want := range map[string]string{"/proc": "proc ", "/proc/sys": "proc ", "/sys": "sysfs "} {
		if !strings.HasPrefix(points[point], want) {
			t.Errorf("%s is %q", point, points[point])
		}
	}
	if console, ok := points["/dev/console"]; ok != terminal || terminal && !strings.HasPrefix(console, "devpts ") {
		t.Errorf("/dev/console is %q", console)
	}
}

// linkedProc is an image whose /proc is a link (CVE-2019-19921, CVE-2023-27561):
// what is masked there must be masked, or the image refused.
func (s *Suite) linkedProc(t *testing.T) {
	for _, name := range []string{"proc", "sys"} {
		t.Run(name, func(t *testing.T) {
			o := s.withLayer(t, map[string]string{name: "/elsewhere", "elsewhere/sys/kernel/x!": "", "elsewhere/self/x!": ""})
			id, err := o.TryLaunch(t, o.Spec(t, "try"))
			if err != nil {
				if kind := fault.KindOf(err); kind == fault.Internal || fault.HintOf(err) == "" {
					t.Errorf("not a clear refusal: %v (%v)", err, kind)
				}
				return
			}
			o.End(t, id)
			if out := o.Output(t, id); !strings.Contains(out, `"firmware":""`) || !strings.Contains(out, `"interrupts":""`) || strings.Contains(out, "kcore read") {
				t.Errorf("masks are missing: %s", out)
			}
		})
	}
}

// linkedMounts are mount points that are links into what confines a container.
func (s *Suite) linkedMounts(t *testing.T) {
	o := s.withLayer(t, map[string]string{"link": "/proc", "deep/link": "../proc/sys", "out": "../../../../.."})
	for _, destination := range []string{"/link", "/link/sys", "/deep/link", "/out/proc/sys/kernel"} {
		t.Run(destination, func(t *testing.T) {
			config, err := o.Configure(o.Spec(t, "look"), o.Image)
			if err != nil {
				t.Fatal(err)
			}
			config.Mounts = append(config.Mounts, tmpfs(destination))
			id := workload.NewID()
			_, err = o.Create(t.Context(), id, config, o.Image)
			if err == nil {
				t.Cleanup(func() { o.destroyNow(t, id) })
				err = o.Start(t.Context(), id, nil)
			}
			if err != nil {
				if kind := fault.KindOf(err); kind == fault.Internal || fault.HintOf(err) == "" {
					t.Errorf("not a clear refusal: %v (%v)", err, kind)
				}
				return
			}
			o.End(t, id)
			o.checkMean(t, ParseView(t, o.Output(t, id)), false)
		})
	}
}

func tmpfs(destination string) specs.Mount {
	return specs.Mount{Destination: destination, Type: "tmpfs", Source: "tmpfs", Options: []string{"size=64k", "mode=755"}}
}

func (s *Suite) destroyNow(t *testing.T, id workload.ID) {
	if err := s.Destroy(context.WithoutCancel(t.Context()), id); err != nil {
		t.Error(err)
	}
}

// intruders are programs that ask for whatever executes them to be executed
// inside, and processes that come in by Exec; both are watched from inside by one
// that tries to write to their program (CVE-2019-5736). All that it may find is
// the sealed copy in memory that the keeper runs from.
func (s *Suite) intruders(t *testing.T) {
	o := s.withLayer(t, map[string]string{"trap!": "#!/proc/self/exe\n", "link": "/proc/self/exe"})
	for _, privileged := range []bool{false, true} {
		spec := o.Spec(t, "guard")
		if privileged {
			spec.CapAdd, spec.NoLandlock = everyCapability(), true
		}
		id := o.Launch(t, spec)
		o.Expect(t, id, "watching\n")
		for _, command := range [][]string{{"/trap"}, {"/link"}, {"/proc/self/exe"}, {"/probe", "true"}} {
			for range 8 {
				p, err := o.Exec(t.Context(), id, sandbox.ExecSpec{Args: command})
				if err == nil {
					_, err = p.Wait(t.Context())
				}
				if kind := fault.KindOf(err); err != nil && kind == fault.Internal {
					t.Errorf("exec of %s: %v", command, err)
				}
			}
		}
		o.execute(t, id, sandbox.ExecSpec{Args: []string{"/probe", "touch", "/tmp/stop"}})
		o.End(t, id)
		lines := strings.Split(strings.TrimSpace(o.Output(t, id)), "\n")
		if len(lines) < 2 || lines[len(lines)-1] != "saw some" {
			t.Errorf("the guard: %q", lines)
		}
		for _, line := range lines[1 : len(lines)-1] {
			if program, answer, _ := strings.Cut(line, ": "); !strings.HasPrefix(program, "/memfd:") || answer == "done" {
				t.Errorf("privileged %v: reached %s", privileged, line)
			}
		}
	}
}

// workingFolders are descriptors that might be open to the host (CVE-2024-21626).
func (s *Suite) workingFolders(t *testing.T) {
	id := s.Launch(t, s.Spec(t, "hold"))
	s.Expect(t, id, "holding\n")
	for fd := range 24 {
		for _, folder := range []string{"/proc/self/fd/%d", "/proc/self/fd/%d/../../..", "/proc/1/fd/%d"} {
			folder = fmt.Sprintf(folder, fd)
			p, err := s.Exec(t.Context(), id, sandbox.ExecSpec{Args: []string{"/probe", "look"}, Cwd: folder})
			if err == nil {
				exit, _ := p.Wait(t.Context())
				t.Errorf("exec in %s: %+v", folder, exit)
			}
		}
		spec := s.Spec(t, "look")
		spec.WorkingDir = fmt.Sprintf("/proc/self/fd/%d", fd)
		if _, err := s.TryLaunch(t, spec); err == nil {
			t.Errorf("launch in %s", spec.WorkingDir)
		}
	}
	spec := s.Spec(t, "look")
	spec.WorkingDir = "/../../.."
	if _, out := s.Run(t, spec); ParseView(t, out).Cwd != "/" {
		t.Errorf("launch in %s: %s", spec.WorkingDir, out)
	}
}

// redTeam are the tests that try to get out. Those that need an image of their
// own make it of layers, so they are left out where the suite's is composed.
func (s *Suite) redTeam() map[string]func(*testing.T) {
	tests := map[string]func(*testing.T){"attacks": s.attacks}
	if s.Image.Erofs == "" {
		maps.Copy(tests, map[string]func(*testing.T){
			"mean images": s.meanImages, "links for proc and sys": s.linkedProc, "links as mount points": s.linkedMounts,
			"intruders": s.intruders, "working folders": s.workingFolders,
		})
	}
	return tests
}
