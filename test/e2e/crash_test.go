package e2e

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"tero.internal/test/testnode"
)

// TestContainersOutliveTheDaemon kills terod with SIGKILL while a container
// writes and another ends, and looks for their output and exit code afterwards.
func TestContainersOutliveTheDaemon(t *testing.T) {
	n := started(t, "outlive")
	tero(t, n, 0, "run", "-d", "--name", "web", "web:v1")
	tero(t, n, 0, "run", "-d", "--name", "client", "client:v1", "-timeout", "1s", "http://web:8080/")
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
	if logs := tero(t, n, 0, "logs", "web").Stdout; !strings.Contains(logs, "msg=serving") || !strings.Contains(logs, "msg=ending") {
		t.Errorf("web's log is not whole:\n%s", logs)
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

// TestKilledAtAnyPoint kills terod again and again while launches, execs, stops
// and removals go on. Nothing that was acknowledged may be lost, and newNode
// checks that nothing is left in the end.
func TestKilledAtAnyPoint(t *testing.T) {
	n := started(t, "anypoint")
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	const rounds = 12
	for round := range rounds {
		acknowledged := load(t, n, round, time.Duration(random.IntN(120))*time.Millisecond)
		if err := n.Start(t.Context()); err != nil {
			t.Fatalf("round %d: %v", round, err)
		}
		for name := range acknowledged {
			if c := inspect(t, n, name); c.State != running {
				t.Errorf("round %d: %s was acknowledged and is %s: %+v", round, name, c.State, c.Exit)
			}
			tero(t, n, 0, "rm", "-f", name)
		}
		for line := range strings.Lines(tero(t, n, 0, "ps", "-a", "-q").Stdout) {
			tero(t, n, 0, "rm", "-f", strings.TrimSpace(line)) // launched, and killed before anybody was told
		}
	}
	// Nothing is held any more; addresses rest for a minute before they are given again.
	for args, wrong := range map[string]string{
		"ps -a -q":                "c-",
		"network inspect default": "Endpoint",
		"identity ls -q":          "spiffe:",
		"status":                  "NO LAUNCH IS POSSIBLE",
	} {
		if got := tero(t, n, 0, strings.Fields(args)...).Stdout; strings.Contains(got, wrong) {
			t.Errorf("after it all, tero %s says\n%s", args, got)
		}
	}
	tero(t, n, 0, "run", "--rm", "true:v1")
}

// load works on the node from three sides until it is killed after d, and gives
// the containers that were acknowledged as running and not asked to go.
func load(t *testing.T, n *testnode.Node, round int, d time.Duration) map[string]bool {
	t.Helper()
	var mu sync.Mutex
	acknowledged := map[string]bool{}
	ctx, cancel := context.WithCancel(t.Context())
	var work sync.WaitGroup
	for w := range 3 {
		work.Go(func() {
			for i := 0; ctx.Err() == nil; i++ {
				name := fmt.Sprintf("c-%d-%d-%d", round, w, i)
				if r := n.Tero(ctx, "run", "-d", "--name", name, "web:v1"); r.Code != 0 {
					return
				}
				mu.Lock()
				acknowledged[name] = true
				mu.Unlock()
				n.Tero(ctx, "exec", name, "/web", "-check")
				if i%2 == 0 {
					mu.Lock()
					delete(acknowledged, name) // from here on it may be gone
					mu.Unlock()
					n.Tero(ctx, "rm", "-f", name)
				}
			}
		})
	}
	select {
	case <-time.After(d):
	case <-ctx.Done():
	}
	if err := n.Kill9(); err != nil {
		t.Error(err)
	}
	cancel()
	work.Wait()
	return acknowledged
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
