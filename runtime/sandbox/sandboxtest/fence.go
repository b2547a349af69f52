package sandboxtest

import (
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"tero.internal/common/testenv"
	"tero.internal/common/workload"
	"tero.internal/runtime/internal/landlock"
	"tero.internal/runtime/sandbox"
)

// ordinary does in a container what ordinary programs do: what fences it in must
// not be in their way.
func (s *Suite) ordinary(t *testing.T) {
	for name, c := range map[string]struct {
		writable, terminal bool
		user               string
		dirs               []string
	}{
		"read-only root":          {dirs: []string{"/tmp", "/run", "/dev/shm"}},
		"writable root":           {dirs: []string{"/", "/etc", "/dev/shm"}, writable: true},
		"user":                    {dirs: []string{"/tmp", "/dev/shm"}, user: "1000:1000"},
		"terminal":                {dirs: []string{"/tmp"}, terminal: true},
		"terminal, writable root": {dirs: []string{"/"}, terminal: true, writable: true},
	} {
		t.Run(name, func(t *testing.T) {
			args := append([]string{"work"}, c.dirs...)
			spec := s.Spec(t, args...)
			spec.WritableRootfs, spec.Terminal = c.writable, c.terminal
			if c.user != "" {
				spec.User = c.user
			}
			if _, out := s.Run(t, spec); strings.TrimSpace(out) != "failed 0" {
				t.Error(out)
			}
			spec.Args = []string{"/probe", "hold"}
			id := s.Launch(t, spec)
			s.Expect(t, id, "holding")
			if out, _ := s.execute(t, id, sandbox.ExecSpec{Args: append([]string{"/probe"}, args...)}); strings.TrimSpace(out) != "failed 0" {
				t.Errorf("executed: %s", out)
			}
		})
	}
}

// leaks hands a folder of the host to processes of a container, as a leaked
// descriptor would: what lies below it must be out of their reach.
func (s *Suite) leaks(t *testing.T) {
	if landlock.ABI() < landlock.MinABI {
		testenv.Lacks(t, "this kernel has no Landlock that containers can live with; \"tero doctor\" says so")
	}
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "secret"), nil, 0o644); err != nil { //nolint:gosec // to be read by others, if they can
		t.Fatal(err)
	}
	for d := dir; d != "/"; d = filepath.Dir(d) { // nothing but the fence keeps anybody out
		if st, err := os.Stat(d); err == nil && st.Mode().Perm()&0o005 != 0o005 && strings.HasPrefix(d, os.TempDir()+"/") {
			if err := os.Chmod(d, 0o755); err != nil { //nolint:gosec // as said above
				t.Fatal(err)
			}
		}
	}
	const refused, reached = "reached secret: permission denied\n", "reached secret: <nil>\n"
	for name, c := range map[string]struct {
		off  bool
		want string
	}{"fenced": {false, refused}, "not fenced": {true, reached}} {
		t.Run(name, func(t *testing.T) {
			spec := s.Spec(t, "receive", "/tmp/socket", "secret")
			spec.NoLandlock = c.off
			id := s.Launch(t, spec)
			s.Expect(t, id, "listening\n")
			folder, err := os.Open(dir) //nolint:gosec // the test's own
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = folder.Close() }()
			out, _ := s.execute(t, id, sandbox.ExecSpec{Args: []string{"/probe", "reach", "secret"}, Stdin: folder})
			if out != c.want {
				t.Errorf("executed: %q", out)
			}
			s.sendInto(t, id, "/tmp/socket", folder)
			s.End(t, id)
			if out := s.Output(t, id); out != "listening\n"+c.want {
				t.Errorf("first process: %q", out)
			}
		})
	}
}

// sendInto sends a file to a socket of a container.
func (s *Suite) sendInto(t *testing.T, id workload.ID, socket string, f *os.File) {
	t.Helper()
	list, err := s.List(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range list {
		if l.ID != id {
			continue
		}
		c, err := (&net.Dialer{}).DialContext(t.Context(), "unix", "/proc/"+strconv.Itoa(l.PID)+"/root"+socket)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = c.Close() }()
		if _, _, err := c.(*net.UnixConn).WriteMsgUnix([]byte{0}, unix.UnixRights(int(f.Fd())), nil); err != nil {
			t.Fatal(err)
		}
		return
	}
	t.Fatalf("container %s is not there", id.Short())
}

// labels asks for what this machine may not have: it must be given or refused.
func (s *Suite) labels(t *testing.T) {
	spec := s.Spec(t, "true")
	spec.AppArmor = "unconfined"
	if exit, _ := s.Run(t, spec); exit.Code != 0 {
		t.Errorf("unconfined: %+v", exit)
	}
}
