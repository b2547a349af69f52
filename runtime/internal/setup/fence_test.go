package setup

import (
	"bytes"
	"os"
	"slices"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"tero.internal/runtime/internal/landlock"
	"tero.internal/runtime/internal/program"
	"tero.internal/runtime/internal/seccomp"
)

// compileProcess gives the program of a further process, with a Landlock of the given version.
func compileProcess(t *testing.T, config *specs.Spec, abi int) *Setup {
	t.Helper()
	f := &Filters{abi: abi}
	f.once.Do(func() {})
	c, err := f.Process(config, config.Process, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	if _, err := program.Decode(c.Program().Encode(), len(c.Files())); err != nil {
		t.Fatal(err)
	}
	return c
}

// order gives the system calls of a program that confine, in their order.
func order(c *Setup) []uint32 {
	confining := []uint32{
		unix.SYS_LANDLOCK_CREATE_RULESET, unix.SYS_LANDLOCK_RESTRICT_SELF, unix.SYS_SECCOMP, unix.SYS_CAPSET, unix.SYS_EXECVE,
	}
	var list []uint32
	for i, step := range c.Steps() {
		in := &c.Program().Code[i]
		if in.Number == unix.SYS_WRITE && (strings.HasPrefix(step, StepAppArmor) || strings.HasPrefix(step, StepSELinux)) ||
			in.Flags&(program.FlagStore|program.FlagSkip|program.FlagFail) == 0 && slices.Contains(confining, in.Number) {
			list = append(list, in.Number)
		}
	}
	return list
}

// TestOrder: labels are asked for while /proc can be reached, and nothing is
// closed that a later step needs open.
func TestOrder(t *testing.T) {
	config := plain()
	config.Linux.Seccomp = seccomp.DefaultProfile()
	config.Process.ApparmorProfile, config.Process.SelinuxLabel = "web", "u:r:t:s0"
	for name, c := range map[string]struct {
		abi         int
		noNewPrivs  bool
		landlockOff bool
		want        []uint32
	}{
		"no new privileges": {7, true, false, []uint32{
			unix.SYS_WRITE, unix.SYS_WRITE, unix.SYS_LANDLOCK_CREATE_RULESET, unix.SYS_CAPSET, unix.SYS_LANDLOCK_RESTRICT_SELF, unix.SYS_SECCOMP, unix.SYS_EXECVE,
		}},
		"new privileges": {7, false, false, []uint32{
			unix.SYS_WRITE, unix.SYS_WRITE, unix.SYS_LANDLOCK_CREATE_RULESET, unix.SYS_LANDLOCK_RESTRICT_SELF, unix.SYS_SECCOMP, unix.SYS_CAPSET, unix.SYS_EXECVE,
		}},
		"no Landlock": {0, true, false, []uint32{unix.SYS_WRITE, unix.SYS_WRITE, unix.SYS_CAPSET, unix.SYS_SECCOMP, unix.SYS_EXECVE}},
		"not wanted":  {7, true, true, []uint32{unix.SYS_WRITE, unix.SYS_WRITE, unix.SYS_CAPSET, unix.SYS_SECCOMP, unix.SYS_EXECVE}},
	} {
		t.Run(name, func(t *testing.T) {
			config.Process.NoNewPrivileges, config.Annotations = c.noNewPrivs, nil
			if c.landlockOff {
				config.Annotations = map[string]string{landlock.Annotation: landlock.Off}
			}
			if got := order(compileProcess(t, config, c.abi)); !slices.Equal(got, c.want) {
				t.Errorf("got %v, want %v", got, c.want)
			}
		})
	}
}

// TestLabelsByHostProc: what the labels are written to is found from the host's
// /proc alone, over no mount and no magic link (CVE-2019-16884, CVE-2019-19921,
// CVE-2025-52881).
func TestLabelsByHostProc(t *testing.T) {
	config := plain()
	config.Process.ApparmorProfile, config.Process.SelinuxLabel = "web", "u:r:t:s0"
	c := compileProcess(t, config, 0)
	opened := 0
	for i, step := range c.Steps() {
		in := &c.Program().Code[i]
		if !strings.HasPrefix(step, StepAppArmor) && !strings.HasPrefix(step, StepSELinux) || in.Flags&program.FlagSkip != 0 {
			continue
		}
		switch in.Number {
		case unix.SYS_OPENAT2:
			opened++
			if in.Kinds[0] != program.File {
				t.Fatalf("%s: opened from an argument of kind %d", step, in.Kinds[0])
			}
			var st unix.Statfs_t
			if err := unix.Fstatfs(int(c.Files()[in.Args[0]].Fd()), &st); err != nil || st.Type != unix.PROC_SUPER_MAGIC {
				t.Errorf("%s: not opened from a procfs", step)
			}
			const resolve = unix.RESOLVE_BENEATH | unix.RESOLVE_NO_XDEV | unix.RESOLVE_NO_MAGICLINKS
			if how := c.Program().Data[in.Args[2]:]; how[16] != resolve {
				t.Errorf("%s: resolved with %#x", step, how[16])
			}
		case unix.SYS_WRITE:
			want := map[bool]string{true: "exec web", false: "u:r:t:s0"}[strings.HasPrefix(step, StepAppArmor)]
			if got := c.Program().Data[in.Args[1]:][:in.Args[2]]; !bytes.Equal(got, []byte(want)) {
				t.Errorf("%s: writes %q", step, got)
			}
		}
	}
	if opened != 3 {
		t.Errorf("%d files opened", opened)
	}
	if c := compileProcess(t, plain(), 0); slices.ContainsFunc(c.Files(), func(f *os.File) bool { return f.Name() == "/proc" }) {
		t.Error("/proc is sent along without a label")
	}
}
