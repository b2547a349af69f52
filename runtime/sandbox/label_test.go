package sandbox_test

import (
	"bytes"
	"os/exec"
	"strings"
	"testing"

	"tero.internal/common/fault"
	"tero.internal/common/workload"
	"tero.internal/runtime/internal/lsm"
	"tero.internal/runtime/sandbox"
)

// TestAppArmor runs a container under a profile of its own where the kernel has
// AppArmor. Where it has none, to ask for a profile is refused.
func TestAppArmor(t *testing.T) {
	n := newNode(t)
	s := n.suite()
	profile := "tero-test-" + workload.NewID().Short()
	spec := s.Spec(t, "print", "/proc/self/attr/current", "/etc/hostname")
	spec.AppArmor = profile
	if !lsm.AppArmor() {
		if _, err := s.TryLaunch(t, spec); fault.KindOf(err) != fault.Unsupported || fault.HintOf(err) == "" {
			t.Errorf("a profile without AppArmor: %v", err)
		}
		return
	}
	if _, err := s.TryLaunch(t, spec); fault.KindOf(err) != fault.NotFound || err == nil || !strings.Contains(err.Error(), profile) {
		t.Errorf("a profile that is not loaded: %v", err)
	}
	parser, err := exec.LookPath("apparmor_parser")
	if err != nil {
		t.Fatal("this machine has AppArmor and no apparmor_parser to load a profile with: install apparmor")
	}
	load := func(option string) {
		cmd := exec.CommandContext(cleanup(), parser, option, "--skip-cache")
		cmd.Stdin = strings.NewReader("profile " + profile + " flags=(attach_disconnected,mediate_deleted) {\n" +
			"  file,\n  network,\n  capability,\n  signal,\n  ptrace,\n  unix,\n  deny /etc/hostname r,\n}\n")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
	load("--add")
	t.Cleanup(func() { load("--remove") })
	check := func(what, out string) {
		if !strings.HasPrefix(out, profile+" (enforce)\n") {
			t.Errorf("%s runs under %q", what, out)
		}
		if !strings.Contains(out, "open /etc/hostname: permission denied") {
			t.Errorf("%s reads what the profile denies: %q", what, out)
		}
	}
	_, out := s.Run(t, spec)
	check("the container", out)

	args := spec.Args
	spec.Args = []string{"/probe", "hold"}
	id := s.Launch(t, spec)
	s.Expect(t, id, "holding\n")
	out = execute(t, n, id, args...)
	check("a further process", out)
}

// TestSELinux: see TestAppArmor.
func TestSELinux(t *testing.T) {
	s := newNode(t).suite()
	spec := s.Spec(t, "print", "/proc/self/attr/current")
	spec.SELinux = "system_u:system_r:container_t:s0"
	if !lsm.SELinux() {
		if _, err := s.TryLaunch(t, spec); fault.KindOf(err) != fault.Unsupported || fault.HintOf(err) == "" {
			t.Errorf("a label without SELinux: %v", err)
		}
		return
	}
	if _, out := s.Run(t, spec); strings.TrimRight(out, "\x00\n") != spec.SELinux {
		t.Errorf("the container runs under %q", out)
	}
}

// execute runs a further process and gives its output.
func execute(t *testing.T, n *node, id workload.ID, args ...string) string {
	t.Helper()
	r, w := pipe(t)
	p, err := n.Exec(t.Context(), id, sandbox.ExecSpec{Args: args, Stdout: w})
	_ = w.Close()
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	if _, err := out.ReadFrom(r); err != nil {
		t.Fatal(err)
	}
	if _, err := p.Wait(t.Context()); err != nil {
		t.Fatal(err)
	}
	return out.String()
}
