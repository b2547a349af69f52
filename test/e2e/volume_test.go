package e2e

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestGrants gives containers volumes, paths and devices of the node, and looks
// for them also after the daemon was killed.
func TestGrants(t *testing.T) {
	n := watched(t, "grants")
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "file"), []byte("of the node\n"), 0o600); err != nil {
		t.Fatal(err)
	}

	tero(t, n, 0, "volume", "create", "-l", "tier=db", "data")
	tero(t, n, 0, "run", "--rm", "-v", "data:/data", "watch:v1", "write", "/data/note", "kept")
	if got := tero(t, n, 0, "run", "--rm", "-v", "data:/data:ro", "watch:v1", "read", "/data/note").Stdout; got != "kept" {
		t.Errorf("the volume holds %q", got)
	}
	if got := tero(t, n, 0, "run", "--rm", "-v", dir+":/in:ro", "watch:v1", "read", "/in/file").Stdout; got != "of the node\n" {
		t.Errorf("the bind mount shows %q", got)
	}
	r := n.Tero(t.Context(), "run", "--rm", "-v", dir+":/in:ro", "watch:v1", "write", "/in/file", "x")
	if r.Code != 1 || !strings.Contains(r.Stdout, "read-only file system") {
		t.Errorf("wrote to a read-only mount: %+v", r)
	}

	tero(t, n, 0, "run", "-d", "--name", "holder", "-v", "data:/data", "-v", dir+":/in:ro", "--device", "/dev/fuse:r",
		"--sysctl", "net.core.somaxconn=9", "--ulimit", "core=1000", "watch:v1", "hold")
	var c struct {
		Spec struct {
			Mounts []struct{ Source, Target string }
		}
	}
	if err := json.Unmarshal([]byte(tero(t, n, 0, "inspect", "-o", "json", "holder").Stdout), &c); err != nil || len(c.Spec.Mounts) != 2 {
		t.Errorf("%+v, %v", c, err)
	}
	for _, args := range [][]string{{"ps"}, {"inspect", "holder"}} {
		out := tero(t, n, 0, args...).Stdout
		for _, want := range []string{"volume data", "bind " + dir + ":ro", "device /dev/fuse:r", "sysctl net.core.somaxconn", "ulimit core"} {
			if !strings.Contains(out, want) {
				t.Errorf("%v does not say %q:\n%s", args, want, out)
			}
		}
	}

	if err := n.Kill9(); err != nil {
		t.Fatal(err)
	}
	left := filepath.Join(n.StateDir(), "volumes", ".new-half") // as a kill at the right moment leaves
	if err := os.MkdirAll(filepath.Join(left, "data"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := n.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(left); err == nil {
		t.Error("a volume that was half made is left")
	}
	refused(t, n.Tero(t.Context(), "volume", "rm", "data"), 125, "is mounted in 1 containers")
	if got := tero(t, n, 0, "volume", "prune").Stdout; strings.Contains(got, "data") {
		t.Errorf("pruned what is in use: %s", got)
	}
	tero(t, n, 0, "rm", "-f", "holder")
	if got := tero(t, n, 0, "volume", "ls", "-q").Stdout; got != "data\n" {
		t.Errorf("volumes: %q", got)
	}
	tero(t, n, 0, "volume", "rm", "data")
	refused(t, n.Tero(t.Context(), "volume", "inspect", "data"), 127, `no volume "data"`)
}

// TestRefusedGrants asks for what no container may have, as people would.
func TestRefusedGrants(t *testing.T) {
	n := started(t, "refusedgrants")
	for name, c := range map[string]struct {
		args  []string
		wants []string
	}{
		"whole node":        {[]string{"-v", "/:/host"}, []string{"whole file system"}},
		"state directory":   {[]string{"-v", n.StateDir() + ":/state"}, []string{"TERO's own"}},
		"API socket":        {[]string{"-v", n.Socket() + ":/tero.sock"}, []string{"TERO's own"}},
		"kernel's files":    {[]string{"-v", "/proc/sys:/x"}, []string{"proc"}},
		"parameter of node": {[]string{"--sysctl", "kernel.core_pattern=x"}, []string{"whole node"}},
		"on /proc":          {[]string{"--tmpfs", "/proc/x"}, []string{"belongs to the sandbox"}},
		"not a disk":        {[]string{"--device-read-bps", "/dev/null:1m"}, []string{"not a block device"}},
		"no such CPU":       {[]string{"--cpuset-cpus", "4000"}, []string{"refuses a resource limit"}},
	} {
		t.Run(name, func(t *testing.T) {
			refused(t, n.Tero(t.Context(), append(append([]string{"run", "--rm"}, c.args...), "true:v1")...), 125, c.wants...)
		})
	}
}
