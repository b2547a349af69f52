package e2e

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"tero.internal/test/testnode"
)

// TestContainersOutliveTheDaemon kills terod with SIGKILL while a container
// writes and another ends, and looks for their output and exit code afterwards.
func TestContainersOutliveTheDaemon(t *testing.T) {
	n := started(t, "outlive")
	tero(t, n, 0, "run", "-d", "--name", "web", "web:v1")
	tero(t, n, 0, "run", "-d", "--name", "client", "client:v1", "-timeout", "1s", "http://web:8080/")
	// Before it serves it may not hear the signal below yet: a Go program that is
	// the first of its PID namespace then ends with code 2, with any runtime.
	if err := testnode.WaitFor(t.Context(), func() (bool, string) {
		return strings.Contains(tero(t, n, 0, "logs", "web").Stdout, "msg=serving"), "web does not serve"
	}); err != nil {
		t.Fatal(err)
	}
	before := inspect(t, n, "web")
	if err := n.Kill9(); err != nil {
		t.Fatal(err)
	}
	// The client, refused each second, writes on while no daemon is there; web
	// is told to end and does.
	if err := syscall.Kill(before.PID, syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := testnode.WaitFor(t.Context(), func() (bool, string) {
		err := syscall.Kill(before.PID, 0)
		return err != nil, "web did not end"
	}); err != nil {
		t.Fatal(err)
	}
	if err := n.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	r := tero(t, n, 0, "wait", "web")
	if strings.TrimSpace(r.Stdout) != "0" {
		t.Errorf("exit code of web: %q, want 0", r.Stdout)
	}
	if logs := tero(t, n, 0, "logs", "web"); !strings.Contains(logs.Stdout, "msg=serving") || !strings.Contains(logs.Stdout, "msg=ending") {
		t.Errorf("web's log is not whole:\n%s\nstandard error: %s", logs.Stdout, logs.Stderr)
	}
	after := inspect(t, n, "client")
	if after.State != running || after.PID == 0 {
		t.Errorf("client after the crash: %+v", after)
	}
	tero(t, n, 0, "kill", "client")
	if got := strings.TrimSpace(tero(t, n, 0, "wait", "client").Stdout); got != "137" {
		t.Errorf("exit code of client: %s, want 137", got)
	}
}

// TestDemoIsRepeatable plays the demo, kills it in the middle, and plays it again.
func TestDemoIsRepeatable(t *testing.T) {
	bin, err := binaries()
	if err != nil {
		t.Fatal(err)
	}
	demo := filepath.Join(t.TempDir(), "demo")
	if out, err := exec.CommandContext(t.Context(), "go", "build", "-o", demo, "../demo").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	play := func(killAt string) {
		out, err := os.CreateTemp(t.TempDir(), "demo")
		if err != nil {
			t.Fatal(err)
		}
		defer out.Close()
		cmd := exec.CommandContext(t.Context(), demo, "-bin", bin)
		cmd.Dir, cmd.Stdout, cmd.Stderr = filepath.Dir(bin), out, out
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		said := func() string {
			b, err := os.ReadFile(out.Name())
			if err != nil {
				t.Error(err)
			}
			return string(b)
		}
		if killAt == "" {
			if err := cmd.Wait(); err != nil {
				t.Fatalf("the demo failed: %v\n%s", err, said())
			}
			return
		}
		if err := testnode.WaitFor(t.Context(), func() (bool, string) {
			return strings.Contains(said(), killAt), "the demo never came to " + killAt
		}); err != nil {
			t.Fatal(err)
		}
		if err := cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		_ = cmd.Wait()
	}
	play("")
	play("\n2. ")
	play("")
	play("\n5. ")
	play("\n8. ")
	play("")
}
