package e2e

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"tero.internal/test/testnode"
)

// lasting is what of a container's JSON tells its life.
type lasting struct {
	ID             string `json:"id"`
	State          string `json:"state"`
	PID            int    `json:"pid"`
	RecordSequence string `json:"recordSequence"`
	RestartCount   int    `json:"restartCount"`
	RestartEnded   string `json:"restartEnded"`
	Exit           struct {
		Code int `json:"code"`
	} `json:"exit"`
	Health struct {
		Status string `json:"status"`
	} `json:"health"`
	Limits, Spec struct {
		MemoryBytes string `json:"memoryBytes"`
		Pids        string `json:"pids"`
	}
}

// life looks at the container web.
func life(t *testing.T, n *testnode.Node) lasting {
	t.Helper()
	var l lasting
	r := tero(t, n, 0, "inspect", "-o", "json", "web")
	if err := json.Unmarshal([]byte(r.Stdout), &l); err != nil {
		t.Fatalf("%v: %s", err, r.Stdout)
	}
	return l
}

// until waits for the container web to be as wanted.
func until(t *testing.T, n *testnode.Node, what string, is func(lasting) bool) (l lasting) {
	t.Helper()
	if err := testnode.WaitFor(t.Context(), func() (bool, string) {
		l = life(t, n)
		return is(l), "web never was " + what
	}); err != nil {
		t.Fatalf("%v: %+v", err, l)
	}
	return l
}

// serving waits until the container web has begun to serve in that many runs.
func serving(t *testing.T, n *testnode.Node, runs int) {
	t.Helper()
	if err := testnode.WaitFor(t.Context(), func() (bool, string) {
		out := tero(t, n, 0, "logs", "web").Stdout
		return strings.Count(out, "msg=serving") == runs, "the log was never of that many runs:\n" + out
	}); err != nil {
		t.Fatal(err)
	}
}

// crashed kills a container's first process behind TERO's back.
func crashed(t *testing.T, l lasting) {
	t.Helper()
	if err := syscall.Kill(l.PID, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
}

// TestRestart lets a container crash, with and without a daemon, then takes its
// image's key away.
func TestRestart(t *testing.T) {
	n := started(t, "restart")
	tero(t, n, 0, "run", "-d", "--name", "web", "--restart", "on-failure", "--writable", "web:v1")
	first := life(t, n)
	serving(t, n, 1)
	crashed(t, first)
	second := until(t, n, "restarted", func(l lasting) bool { return l.State == running && l.RestartCount == 1 })
	if second.ID != first.ID || second.RecordSequence == first.RecordSequence || second.Exit.Code != 137 {
		t.Errorf("first %+v, second %+v; want the same container with a new launch record", first, second)
	}
	serving(t, n, 2) // the log has both runs
	if err := n.Kill9(); err != nil {
		t.Fatal(err)
	}
	crashed(t, second)
	if err := n.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	third := until(t, n, "restarted by the next daemon", func(l lasting) bool { return l.State == running && l.RestartCount == 2 })

	key := filepath.Join(n.StateDir(), "trust", "images", "test.pub")
	if err := os.Rename(key, key+".away"); err != nil {
		t.Fatal(err)
	}
	crashed(t, third)
	refusedAt := until(t, n, "refused", func(l lasting) bool { return l.State == "STATE_EXITED" })
	if !strings.Contains(refusedAt.RestartEnded, "not signed") {
		t.Errorf("the restarting ended with %q", refusedAt.RestartEnded)
	}
	refused(t, n.Tero(t.Context(), "start", "web"), 126, "not signed")
	if err := os.Rename(key+".away", key); err != nil {
		t.Fatal(err)
	}
	tero(t, n, 0, "start", "web")
	if l := life(t, n); l.State != running || l.RestartCount != 0 || l.RestartEnded != "" {
		t.Errorf("after a start: %+v", l)
	}
	tero(t, n, 0, "restart", "-t", "5", "web")
	tero(t, n, 0, "update", "--restart", "always", "web")
	if r := tero(t, n, 0, "stop", "-t", "0", "web"); !strings.Contains(r.Stdout, "137") {
		t.Errorf("stop -t 0 waited for %q", r.Stdout)
	}
	if l := life(t, n); l.State != "STATE_EXITED" {
		t.Errorf("restarted after a stop: %+v", l)
	}
	if out := tero(t, n, 0, "logs", "web").Stdout; strings.Count(out, "msg=serving") < 3 { // the last was killed early
		t.Errorf("the log has not all runs:\n%s", out)
	}
	refused(t, n.Tero(t.Context(), "run", "-d", "--rm", "--restart", "always", "web:v1"), 125, "cannot be restarted")
}

// TestPauseAndUpdate changes a running container, also over the end of the daemon.
func TestPauseAndUpdate(t *testing.T) {
	n := started(t, "pause")
	tero(t, n, 0, "run", "-d", "--name", "web", "-m", "64MiB", "web:v1")
	tero(t, n, 0, "update", "--memory", "128MiB", "--pids-limit", "99", "web")
	refused(t, n.Tero(t.Context(), "update", "--memory", "1KiB", "web"), 125, "4 MiB")
	l := life(t, n)
	if l.Limits.MemoryBytes != "134217728" || l.Limits.Pids != "99" || l.Spec.MemoryBytes != "67108864" {
		t.Errorf("present limits %+v, launched with %+v", l.Limits, l.Spec)
	}
	tero(t, n, 0, "pause", "web")
	refused(t, n.Tero(t.Context(), "exec", "web", "/web", "-check"), 125, "paused", "tero unpause web")
	if err := n.Kill9(); err != nil {
		t.Fatal(err)
	}
	if err := n.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	if out := tero(t, n, 0, "ps").Stdout; !strings.Contains(out, "paused") {
		t.Errorf("after the crash:\n%s", out)
	}
	tero(t, n, 0, "unpause", "web")
	tero(t, n, 0, "exec", "web", "/web", "-check")
	tero(t, n, 0, "pause", "web")
	if r := tero(t, n, 0, "stop", "web"); !strings.Contains(r.Stdout, "exit code 0") {
		t.Errorf("a paused one did not end by its stop signal: %s", r.Stdout)
	}
	tero(t, n, 0, "start", "web")
	if l := life(t, n); l.Spec.MemoryBytes != "134217728" {
		t.Errorf("the next launch has the limits %+v", l.Spec)
	}
}

// TestHealth stops a server from answering.
func TestHealth(t *testing.T) {
	n := started(t, "health")
	tero(t, n, 0, "run", "-d", "--name", "web", "--health-cmd", `["/web", "-check"]`, "--health-interval", "50ms", "--health-timeout", "500ms",
		"--health-start-interval", "50ms", "--health-retries", "2", "--health-on-failure", "restart", "--stop-timeout", "0", "web:v1")
	healthy := func(l lasting) bool { return l.State == running && l.Health.Status == "healthy" }
	first := until(t, n, "healthy", healthy)
	if out := tero(t, n, 0, "ps").Stdout; !strings.Contains(out, "(healthy)") {
		t.Errorf("ps does not say so:\n%s", out)
	}
	if err := syscall.Kill(first.PID, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	until(t, n, "restarted", func(l lasting) bool { return l.RestartCount == 1 })
	until(t, n, "healthy again", healthy)
	if out := tero(t, n, 0, "inspect", "web").Stdout; !strings.Contains(out, "healthy: 200 OK") {
		t.Errorf("inspect does not show the check's output:\n%s", out)
	}
}
