package e2e

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"tero.internal/test/testnode"
)

// watched gives a node with the image watch:v1, which the tests of this file
// look into.
func watched(t *testing.T, name string) *testnode.Node {
	t.Helper()
	n := started(t, name)
	program := filepath.Join(n.WorkDir(), "watch")
	cmd := exec.CommandContext(t.Context(), "go", "build", "-o", program, "./testdata/watch")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	tero(t, n, 0, "image", "build", "-t", "watch:v1", "--layout", "images", program)
	tero(t, n, 0, "image", "sign", "--key", "test.key", "--layout", "images", "watch:v1")
	tero(t, n, 0, "image", "import", "images")
	return n
}

// flood is the line that "watch flood" writes as its i-th, and how long it is.
func flood(i int) string {
	return fmt.Sprintf("%012d one of very many lines that somebody wants to see, every one of them\n", i)
}

// TestFlood lets containers write far more than their logs may hold: who is
// attached sees every byte, who reads the log later its end, and is told.
func TestFlood(t *testing.T) {
	n := watched(t, "flood")
	const size = 20 << 20
	lines := (size + len(flood(0)) - 1) / len(flood(0))
	r := tero(t, n, 0, "run", "--rm", "--log-opt", "max-size=256k", "--log-opt", "max-file=1", "watch:v1", "flood", fmt.Sprint(size))
	if got := strings.Count(r.Stdout, "\n"); got != lines || !strings.HasSuffix(r.Stdout, flood(lines-1)) {
		t.Errorf("in the foreground: %d lines of %d", got, lines)
	}
	tero(t, n, 0, "run", "-d", "--name", "noisy", "--log-opt", "max-size=1m", "--log-opt", "max-file=2", "watch:v1", "flood", fmt.Sprint(size))
	tero(t, n, 0, "wait", "noisy")
	r = tero(t, n, 0, "logs", "noisy")
	kept := strings.Count(r.Stdout, "\n")
	if kept < lines/100 || kept > lines/5 || !strings.HasSuffix(r.Stdout, flood(lines-1)) || !strings.Contains(r.Stdout, flood(lines-kept+1)+flood(lines-kept+2)) {
		t.Errorf("log of %d lines, beginning %.200q", kept, r.Stdout)
	}
	if !strings.Contains(r.Stderr, "output is missing") {
		t.Errorf("standard error does not tell what is missing: %q", r.Stderr)
	}
	if got := tero(t, n, 0, "logs", "--tail", "3", "noisy"); got.Stdout != flood(lines-3)+flood(lines-2)+flood(lines-1) || got.Stderr != "" {
		t.Errorf("tail: %q, %q", got.Stdout, got.Stderr)
	}
	if got := tero(t, n, 0, "logs", "--since", "1h", "--until", "30m", "noisy").Stdout; got != "" {
		t.Errorf("until: %q", got)
	}
	if got := tero(t, n, 0, "logs", "--since", "10m", "noisy").Stdout; strings.Count(got, "\n") != kept {
		t.Errorf("since: %d lines", strings.Count(got, "\n"))
	}
	logs, err := filepath.Glob(filepath.Join(n.StateDir(), "sandboxes/containers/*/log*"))
	if err != nil || len(logs) != 2 {
		t.Errorf("log files %v, %v", logs, err)
	}
	tero(t, n, 0, "rm", "noisy")
}

// TestInsight looks at what a container uses and who runs in it.
func TestInsight(t *testing.T) {
	n := watched(t, "insight")
	tero(t, n, 0, "run", "-d", "--name", "busy", "-m", "64MiB", "--pids-limit", "50", "watch:v1", "flood", "1000000000000")
	tero(t, n, 0, "run", "-d", "--name", "calm", "--network", "none", "-u", "7:7", "watch:v1", "hold")
	var s struct {
		Name        string  `json:"name"`
		CPU         float64 `json:"cpuPercent"`
		Memory      string  `json:"memoryBytes"`
		MemoryLimit string  `json:"memoryLimitBytes"`
		Pids        string  `json:"pids"`
		PidsLimit   string  `json:"pidsLimit"`
	}
	r := tero(t, n, 0, "stats", "--no-stream", "-o", "json", "busy")
	if err := json.Unmarshal([]byte(r.Stdout), &s); err != nil {
		t.Fatalf("%v: %s", err, r.Stdout)
	}
	if s.Name != "busy" || s.CPU <= 0 || s.Memory == "0" || s.MemoryLimit != "67108864" || s.Pids == "0" || s.PidsLimit != "50" {
		t.Errorf("stats: %+v", s)
	}
	r = tero(t, n, 0, "stats", "--no-stream")
	if !strings.Contains(r.Stdout, "busy") || !strings.Contains(r.Stdout, "calm") || !strings.Contains(r.Stdout, "64 MiB (") {
		t.Errorf("stats of all:\n%s", r.Stdout)
	}
	r = tero(t, n, 0, "top", "calm", "pid,ppid,hpid,user,args")
	want := fmt.Sprintf("1     0      %d", inspect(t, n, "calm").PID)
	if !strings.Contains(r.Stdout, "HPID") || !strings.Contains(r.Stdout, want) || !strings.HasSuffix(r.Stdout, "7      /watch hold\n") {
		t.Errorf("top:\n%swant %q", r.Stdout, want)
	}
	refused(t, n.Tero(t.Context(), "top", "calm", "colour"), 125, "colour", "--help")
	tero(t, n, 0, "rm", "-f", "busy")
	tero(t, n, 0, "kill", "calm")
	tero(t, n, 0, "wait", "calm")
	refused(t, n.Tero(t.Context(), "stats", "--no-stream", "calm"), 125, "has exited")
}

// TestDetach leaves a container and a process in it by keys, comes back after a
// crash of terod, and has several attached at once.
func TestDetach(t *testing.T) {
	n := watched(t, "detach")
	bin, err := binaries()
	if err != nil {
		t.Fatal(err)
	}
	command := filepath.Join(bin, "tero") + " "
	leave := func(args, keys string) {
		t.Helper()
		out, err := typing(t, n, command+args, "holding", keys)
		if err != nil || !strings.Contains(out, "detached") {
			t.Errorf("tero %s: %v\n%s", args, err, out)
		}
		if c := inspect(t, n, "box"); c.State != running {
			t.Fatalf("after tero %s the container is %s", args, c.State)
		}
	}
	leave("run -it --name box watch:v1 hold", "\x10\x11")
	leave("exec -it --detach-keys=ctrl-a,d box /watch hold", "\x01d")
	if got := tero(t, n, 0, "top", "box", "args").Stdout; strings.Count(got, "watch hold") != 2 {
		t.Errorf("the process of exec did not run on:\n%s", got)
	}
	if err := n.Kill9(); err != nil {
		t.Fatal(err)
	}
	if err := n.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	leave("attach --all --detach-keys=x box", "x")
	var attached []*exec.Cmd
	for range 3 {
		cmd := exec.CommandContext(t.Context(), filepath.Join(bin, "tero"), "attach", "--all", "--no-stdin", "box")
		cmd.Env = append(os.Environ(), "TERO_SOCKET="+n.Socket())
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		if line, err := bufio.NewReader(out).ReadString('\n'); err != nil || line != "holding\r\n" {
			t.Errorf("attached: %q, %v", line, err)
		}
		attached = append(attached, cmd)
	}
	tero(t, n, 0, "kill", "box")
	for _, cmd := range attached {
		_ = cmd.Wait() // the code tells more
		if code := cmd.ProcessState.ExitCode(); code != 137 {
			t.Errorf("attached: exit code %d", code)
		}
	}
}
