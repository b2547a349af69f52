package e2e

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"tero.internal/test/testnode"
)

func TestBadInput(t *testing.T) {
	n := started(t, "badinput")
	tests := map[string]struct {
		args  []string
		code  int
		wants []string
	}{
		"unknown image":       {[]string{"run", "nosuch:v1"}, 127, []string{"localhost/nosuch:v1", "tero image ls"}},
		"malformed reference": {[]string{"run", "Web:v1:v2"}, 125, []string{"Web:v1:v2"}},
		"malformed name":      {[]string{"run", "--name", "No_Good", "web:v1"}, 125, []string{"No_Good", "DNS label"}},
		"unknown network":     {[]string{"run", "--rm", "--network", "moon", "true:v1"}, 127, []string{"moon"}},
		"unknown user":        {[]string{"run", "--rm", "-u", "nobody", "true:v1"}, 127, []string{"nobody"}},
		"unknown command":     {[]string{"run", "--rm", "--entrypoint", "/bin/sh", "true:v1"}, 127, []string{"/bin/sh"}},
		"tiny memory limit":   {[]string{"run", "--rm", "-m", "1KiB", "true:v1"}, 125, []string{"4 MiB"}},
		"capability":          {[]string{"run", "--rm", "--cap-add", "CAP_SYS_ADMIN", "true:v1"}, 126, []string{"refused by policy", "allow-signed"}},
		"unsigned image":      {[]string{"run", "--rm", "rogue:v1"}, 126, []string{"not signed", "tero policy why"}},
		"unreachable level":   {[]string{"run", "--rm", "--min-level", "L2", "true:v1"}, 126, []string{"L2"}},
		"unknown container":   {[]string{"stop", "ghost"}, 127, []string{"ghost", "tero ps"}},
		"unknown flag":        {[]string{"run", "--nonsense"}, 125, []string{"--nonsense"}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			refused(t, n.Tero(t.Context(), tt.args...), tt.code, tt.wants...)
		})
	}
	if got := tero(t, n, 0, "ps", "-a", "-q").Stdout; got != "" {
		t.Errorf("refused launches left containers: %s", got)
	}
}

func TestNameIsTaken(t *testing.T) {
	n := started(t, "taken")
	tero(t, n, 0, "run", "-d", "--name", "web", "web:v1")
	refused(t, n.Tero(t.Context(), "run", "-d", "--name", "web", "web:v1"), 125, `"web" is taken`, "--name")
	refused(t, n.Tero(t.Context(), "rm", "web"), 125, "is running", "tero stop web")
	refused(t, n.Tero(t.Context(), "image", "rm", "web:v1"), 125, "web")
	if c := inspect(t, n, "web"); c.State != running {
		t.Errorf("web is %s", c.State)
	}
}

func TestCorruptLayerIsRefusedAndNothingStored(t *testing.T) {
	n := newNode(t, "corrupt")
	if err := n.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	tero(t, n, 0, "image", "build", "-t", "web:v1", "--layout", "images", filepath.Join(n.Examples(), "web"))
	var largest string
	var size int64
	blobs := filepath.Join(n.WorkDir(), "images", "blobs", "sha256")
	entries, err := os.ReadDir(blobs)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if fi, err := e.Info(); err == nil && fi.Size() > size {
			largest, size = e.Name(), fi.Size()
		}
	}
	b, err := os.ReadFile(filepath.Join(blobs, largest))
	if err != nil {
		t.Fatal(err)
	}
	b[len(b)/2] ^= 1
	if err := os.WriteFile(filepath.Join(blobs, largest), b, 0o600); err != nil {
		t.Fatal(err)
	}
	refused(t, n.Tero(t.Context(), "image", "import", "images"), 125, largest)
	if got := tero(t, n, 0, "image", "ls", "-q").Stdout; got != "" {
		t.Errorf("a corrupt image was stored: %s", got)
	}
}

func TestWrongConfiguration(t *testing.T) {
	n := newNode(t, "config")
	if err := os.MkdirAll(n.WorkDir(), 0o700); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(n.WorkDir(), "terod.yaml")
	tests := map[string]struct {
		content string
		env     string
		args    []string
		wants   []string
	}{
		"unknown key":      {content: "nodeName: n1\nstateDri: /x\n", wants: []string{file + ":2", "stateDri", "stateDir"}},
		"bad value":        {content: "network:\n  pool: banana\n", wants: []string{file + ":2", "network.pool", "banana"}},
		"senseless value":  {content: "network:\n  pool: 10.0.0.1/16\n", wants: []string{file + ":2", "network.pool"}},
		"unknown variable": {env: "TERO_STATE_DRI=/x", wants: []string{"TERO_STATE_DRI", "TERO_STATE_DIR"}},
		"unknown flag":     {args: []string{"--nonsense"}, wants: []string{"nonsense"}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			if err := os.WriteFile(file, []byte(tt.content), 0o600); err != nil {
				t.Fatal(err)
			}
			refused(t, terod(t, n, tt.env, append(tt.args, "--config="+file)...), 125, tt.wants...)
		})
	}
}

// terod runs the daemon where it must refuse to start.
func terod(t *testing.T, n *testnode.Node, env string, args ...string) testnode.Result {
	t.Helper()
	var errs bytes.Buffer
	cmd := n.Command(args...)
	cmd.Stderr = &errs
	cmd.Env = append(os.Environ(), env)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait() // the code is checked by the caller
	return testnode.Result{Code: cmd.ProcessState.ExitCode(), Stderr: errs.String()}
}

func TestSecondNodeOnTheSameState(t *testing.T) {
	n := started(t, "second")
	tero(t, n, 0, "run", "-d", "--name", "web", "web:v1")
	refused(t, terod(t, n, ""), 125, "another terod uses", n.StateDir(), "--state-dir")
	if c := inspect(t, n, "web"); c.State != running {
		t.Errorf("the first node's container is %s", c.State)
	}
}

// TestFullDisk fills the file system of the state directory and checks that
// every refusal says so, that nothing acknowledged is lost, and that all works
// again when there is space.
func TestFullDisk(t *testing.T) {
	n := newNode(t, "fulldisk")
	for _, d := range []string{n.StateDir(), n.WorkDir()} {
		if err := os.MkdirAll(d, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	// The policy engine keeps rings of 24 MiB, the images take 30 more.
	if err := syscall.Mount("tmpfs", n.StateDir(), "tmpfs", 0, "size=96m"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(n.StateDir(), syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	if err := n.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := n.Down(t.Context()); err != nil {
			t.Errorf("down: %v", err)
		}
		if left, err := n.Left(t.Context()); err != nil || len(left) > 1 { // the tmpfs itself
			t.Errorf("left behind: %s (%v)", strings.Join(left, "; "), err)
		}
		if err := os.RemoveAll(n.Base() + "/state/lock"); err != nil {
			t.Error(err)
		}
	}()
	importImages(t, n)
	tero(t, n, 0, "run", "-d", "--name", "before", "web:v1")

	filler := filepath.Join(n.StateDir(), "filler")
	if out, err := exec.Command("sh", "-c", "cat /dev/zero > "+filler).CombinedOutput(); err == nil {
		t.Fatalf("the disk did not fill up: %s", out)
	}
	r := n.Tero(t.Context(), "run", "-d", "--name", "during", "web:v1")
	refused(t, r, 125, "full")
	refused(t, n.Tero(t.Context(), "image", "build", "-t", "more:v1", filepath.Join(n.Examples(), "web"), "another"), 125, "full")
	if c := inspect(t, n, "before"); c.State != running {
		t.Errorf("the container from before is %s", c.State)
	}

	// Also a crash on the full disk loses nothing.
	if err := n.Kill9(); err != nil {
		t.Fatal(err)
	}
	if err := n.Start(t.Context()); err != nil {
		t.Fatalf("a node must start on a full disk: %v", err)
	}
	if c := inspect(t, n, "before"); c.State != running {
		t.Errorf("after the crash the container is %s", c.State)
	}
	if err := os.Remove(filler); err != nil {
		t.Fatal(err)
	}
	tero(t, n, 0, "run", "-d", "--name", "after", "web:v1")
	tero(t, n, 0, "rm", "-f", "before", "after")
}
