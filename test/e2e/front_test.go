package e2e

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"tero.internal/test/testnode"
)

// program is "tero run" in the foreground, by the front or by the CLI.
type program struct {
	*exec.Cmd
	out, errs output
}

// output is read while it is written.
type output struct {
	mu sync.Mutex // guards b
	b  bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.String()
}

func start(t *testing.T, n *testnode.Node, name string, args ...string) *program {
	t.Helper()
	return startFed(t, n, nil, name, args...)
}

func startFed(t *testing.T, n *testnode.Node, stdin io.Reader, name string, args ...string) *program {
	t.Helper()
	bin, err := binaries()
	if err != nil {
		t.Fatal(err)
	}
	p := &program{Cmd: exec.CommandContext(t.Context(), filepath.Join(bin, name), args...)}
	p.Env = append(os.Environ(), "TERO_SOCKET="+n.Socket(), "NO_COLOR=1")
	p.Stdin, p.Stdout, p.Stderr = stdin, &p.out, &p.errs
	if err := p.Start(); err != nil {
		t.Fatal(err)
	}
	return p
}

// end waits for the exit code.
func (p *program) end(t *testing.T) int {
	t.Helper()
	_ = p.Wait() // the code says more
	return p.ProcessState.ExitCode()
}

// says waits until the program has written something on standard output.
func (p *program) says(t *testing.T, text string) {
	t.Helper()
	if err := testnode.WaitFor(t.Context(), func() (bool, string) {
		return strings.Contains(p.out.String(), text), fmt.Sprintf("no %q: %s%s", text, &p.out, &p.errs)
	}); err != nil {
		t.Fatal(err)
	}
}

// TestFront runs containers in the foreground by both programs, which must not
// differ in what people see.
func TestFront(t *testing.T) {
	n := started(t, "front")
	speak := filepath.Join(n.WorkDir(), "speak")
	cmd := exec.CommandContext(t.Context(), "go", "build", "-o", speak, "./testdata/speak")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	tero(t, n, 0, "image", "build", "-t", "speak:v1", "--layout", "images", speak)
	tero(t, n, 0, "image", "sign", "--key", "test.key", "--layout", "images", "speak:v1")
	tero(t, n, 0, "image", "import", "images")
	for _, name := range []string{"tero", "tero-cli"} {
		t.Run(name, func(t *testing.T) {
			t.Run("code", func(t *testing.T) {
				p := start(t, n, name, "run", "--rm", "speak:v1", "code", "42")
				if code := p.end(t); code != 42 || p.errs.String() != "" {
					t.Errorf("%d: %s", code, &p.errs)
				}
			})
			t.Run("outputs", func(t *testing.T) {
				var out, errs strings.Builder
				for i := range 2000 {
					fmt.Fprintln(&out, "out", i)
					fmt.Fprintln(&errs, "err", i)
				}
				p := start(t, n, name, "run", "--rm", "speak:v1", "outputs")
				code := p.end(t)
				if diff := cmp.Diff([]any{0, out.String(), errs.String()}, []any{code, p.out.String(), p.errs.String()}); diff != "" {
					t.Error(diff)
				}
			})
			t.Run("signals", func(t *testing.T) {
				p := start(t, n, name, "run", "--rm", "speak:v1", "signals")
				p.says(t, "ready")
				for _, s := range []syscall.Signal{syscall.SIGHUP, syscall.SIGUSR1, syscall.SIGUSR2, syscall.SIGQUIT, syscall.SIGTERM} {
					if err := p.Process.Signal(s); err != nil {
						t.Fatal(err)
					}
					p.says(t, s.String())
				}
				if code := p.end(t); code != 7 {
					t.Errorf("exit code %d: %s", code, &p.errs)
				}
			})
			t.Run("impatience", func(t *testing.T) {
				impatience(t, n, start(t, n, name, "run", "--name", "deaf", "speak:v1", "signals"))
			})
			t.Run("impatience with input that nobody takes", func(t *testing.T) {
				impatience(t, n, startFed(t, n, zeros{}, name, "run", "-i", "--name", "deaf", "speak:v1", "signals"))
			})
			t.Run("node killed", func(t *testing.T) { nodeKilled(t, n, name) })
		})
	}
	t.Run("one name again and again", func(t *testing.T) {
		for range 20 {
			tero(t, n, 0, "run", "--rm", "--name", "job", "true:v1")
		}
	})
	for what, args := range map[string][]string{
		"refused": {"run", "--name", "rogue", "rogue:v1"}, "no image": {"run", "nosuch:v1"}, "no program": {"run", "--rm", "--entrypoint", "/x", "true:v1"},
		"malformed": {"run", "--name", "No_Good", "web:v1"}, "wrong flag": {"run", "--nonsense", "web:v1"}, "nothing": {"run"},
	} {
		t.Run(what, func(t *testing.T) {
			front, cli := start(t, n, "tero", args...), start(t, n, "tero-cli", args...)
			codes := []int{front.end(t), cli.end(t)}
			decision := regexp.MustCompile(`policy why [0-9a-f]+`) // each has its own
			said := decision.ReplaceAllString(front.errs.String(), "policy why")
			if want := decision.ReplaceAllString(cli.errs.String(), "policy why"); said != want || said == "" || codes[0] != codes[1] || codes[0] == 0 {
				t.Errorf("%v\n%s\n%s", codes, said, want)
			}
		})
	}
}

// zeros never end.
type zeros struct{}

func (zeros) Read(b []byte) (int, error) {
	clear(b)
	return len(b), nil
}

// impatience leaves a container named deaf that does not act on interrupts.
func impatience(t *testing.T, n *testnode.Node, p *program) {
	t.Helper()
	p.says(t, "ready")
	ended := make(chan int, 1)
	go func() { ended <- p.end(t) }()
	code := -1
	if err := testnode.WaitFor(t.Context(), func() (bool, string) {
		_ = p.Process.Signal(syscall.SIGINT) // it may have ended
		select {
		case code = <-ended:
			return true, ""
		default:
			return false, "it waits on"
		}
	}); err != nil {
		t.Fatal(err)
	}
	if code != 125 || !strings.Contains(p.errs.String(), "three interrupts") {
		t.Errorf("exit code %d: %s", code, &p.errs)
	}
	if c := inspect(t, n, "deaf"); c.State != running {
		t.Errorf("the container is %s", c.State)
	}
	tero(t, n, 0, "rm", "-f", "deaf")
}

// nodeKilled kills the node under a conversation.
func nodeKilled(t *testing.T, n *testnode.Node, name string) {
	p := start(t, n, name, "run", "--name", "left", "speak:v1", "signals")
	p.says(t, "ready")
	if err := n.Kill9(); err != nil {
		t.Fatal(err)
	}
	want := "tero: error: the node at " + n.Socket() + " closed the connection\n"
	if code := p.end(t); code != 125 || !strings.HasPrefix(p.errs.String(), want) {
		t.Errorf("exit code %d: %s", code, &p.errs)
	}
	if err := n.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	if c := inspect(t, n, "left"); c.State != running {
		t.Errorf("the container is %s", c.State)
	}
	tero(t, n, 0, "rm", "-f", "left")
}
