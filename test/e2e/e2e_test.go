// Package e2e tests the built binaries on the real kernel: what a person would
// type, and what must hold when things go wrong.
package e2e

import (
	"encoding/json"
	"path/filepath"
	"strings"
	"testing"

	"tero.internal/test/nodetest"
	"tero.internal/test/testnode"
)

// binaries builds everything once, and gives the folder.
func binaries() (string, error) { return nodetest.Binaries() }

// newNode gives a node that is cleared up, and checked to have left nothing,
// when the test ends.
func newNode(t *testing.T, name string, args ...string) *testnode.Node {
	t.Helper()
	return nodetest.New(t, name, args...)
}

// started gives a running node with the signed images web:v1, client:v1 and
// true:v1, and the unsigned rogue:v1.
func started(t *testing.T, name string, args ...string) *testnode.Node {
	t.Helper()
	n := newNode(t, name, args...)
	if err := n.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	importImages(t, n)
	return n
}

func importImages(t *testing.T, n *testnode.Node) {
	t.Helper()
	var images []testnode.Image
	for _, p := range []string{"web", "client", "true", "rogue"} {
		images = append(images, testnode.Image{Name: p + ":v1", Path: filepath.Join(n.Examples(), p), Unsigned: p == "rogue"})
	}
	if err := n.AddImages(t.Context(), images...); err != nil {
		t.Fatal(err)
	}
}

// tero runs a command that must end with code, and gives its output.
func tero(t *testing.T, n *testnode.Node, code int, args ...string) testnode.Result {
	t.Helper()
	r := n.Tero(t.Context(), args...)
	if r.Code != code {
		t.Fatalf("tero %s ended with code %d, want %d\n%s%s", strings.Join(args, " "), r.Code, code, r.Stdout, r.Stderr)
	}
	return r
}

// container is a container in JSON.
type container struct {
	ID    string `json:"id"`
	Name  string `json:"name"`
	State string `json:"state"`
	PID   int    `json:"pid"`
	Exit  struct {
		Code    int    `json:"code"`
		Message string `json:"message"`
	} `json:"exit"`
	Level    string `json:"level"`
	Endpoint struct {
		Address string `json:"address"`
	} `json:"endpoint"`
}

func inspect(t *testing.T, n *testnode.Node, name string) container {
	t.Helper()
	var c container
	r := tero(t, n, 0, "inspect", "-o", "json", name)
	if err := json.Unmarshal([]byte(r.Stdout), &c); err != nil {
		t.Fatalf("%v: %s", err, r.Stdout)
	}
	return c
}

// refused checks an error as people see it: what was wrong and a hint.
func refused(t *testing.T, r testnode.Result, code int, wants ...string) {
	t.Helper()
	if r.Code != code {
		t.Errorf("exit code %d, want %d", r.Code, code)
	}
	for _, w := range append(wants, "error: ", "hint: ") {
		if !strings.Contains(r.Stderr, w) {
			t.Errorf("standard error does not say %q:\n%s", w, r.Stderr)
		}
	}
	for _, leak := range []string{"goroutine", "*fault", "rpc error", "&{"} {
		if strings.Contains(r.Stderr, leak) {
			t.Errorf("standard error shows %q:\n%s", leak, r.Stderr)
		}
	}
}

const running = "STATE_RUNNING"
