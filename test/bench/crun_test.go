package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// TestPeerRuns sees that crun takes our configuration, and leaves nothing.
func TestPeerRuns(t *testing.T) {
	dir := t.TempDir()
	for d := dir; d != "/tmp" && d != "/"; d = filepath.Dir(d) {
		openFolder(t, d)
	}
	program := filepath.Join(dir, "true")
	build := exec.CommandContext(t.Context(), "go", "build", "-o", program, "tero.internal/examples/true")
	build.Env = append(build.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	c, err := newCrun(dir, program)
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if err := c.prepare(); err != nil {
			t.Fatal(err)
		}
		if err := c.run(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if err := c.close(); err != nil {
		t.Error(err)
	}
	if left, err := filepath.Glob("/sys/fs/cgroup/*" + peerCgroup + "*"); err != nil || left != nil {
		t.Errorf("left: %v, %v", left, err)
	}
}

// openFolder lets the container's user through, which TempDir does not.
func openFolder(t *testing.T, dir string) {
	t.Helper()
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
}
