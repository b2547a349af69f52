package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// TestPeersRun sees that the peers take our configuration, and leave nothing.
func TestPeersRun(t *testing.T) {
	dir := t.TempDir()
	for d := dir; d != "/tmp" && d != "/"; d = filepath.Dir(d) {
		openFolder(t, d)
	}
	program, err := buildTrue(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	p, err := newPeers(dir, program, 2)
	if err != nil {
		t.Fatal(err)
	}
	for _, runtime := range []string{"crun", "runc"} {
		if _, err := exec.LookPath(runtime); err != nil {
			t.Fatalf("%v (make deps installs it)", err)
		}
		for range 3 {
			s, err := p.prepare(runtime)
			if err != nil {
				t.Fatal(err)
			}
			if err := p.run(t.Context(), s); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := p.close(); err != nil {
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
