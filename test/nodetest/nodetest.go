// Package nodetest gives tests a node of their own, made of the binaries of the
// tree under test, that must have left nothing when the test ends.
package nodetest

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"tero.internal/client"
	"tero.internal/test/testnode"
)

// Binaries builds everything once, from the tree that holds this package, and
// gives the folder.
func Binaries() (string, error) { return build() }

var build = sync.OnceValues(func() (string, error) {
	root, err := root()
	if err != nil {
		return "", err
	}
	// Tests of several packages run at a time, and must not build over another.
	lock, err := os.Open(filepath.Join(root, "Makefile"))
	if err != nil {
		return "", err
	}
	defer lock.Close() // unlocks
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX); err != nil {
		return "", os.NewSyscallError("flock", err)
	}
	if out, err := exec.Command("make", "-s", "-C", root, "build", "examples").CombinedOutput(); err != nil {
		return "", fmt.Errorf("make: %w: %s", err, out)
	}
	return filepath.Join(root, "bin"), nil
})

// root is the folder of the module that the test is in.
func root() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for d := dir; ; d = filepath.Dir(d) {
		if _, err := os.Stat(filepath.Join(d, "go.mod")); err == nil {
			return d, nil
		}
		if d == filepath.Dir(d) {
			return "", fmt.Errorf("no go.mod above %s", dir)
		}
	}
}

// New gives a node that is cleared up, and checked to have left nothing, when
// the test ends.
func New(t testing.TB, name string, args ...string) *testnode.Node {
	t.Helper()
	bin, err := Binaries()
	if err != nil {
		t.Fatal(err)
	}
	n := testnode.New(bin, name, args...)
	ctx := context.WithoutCancel(t.Context())
	if err := n.Clear(ctx); err != nil {
		t.Fatalf("clear up after an earlier test: %v", err)
	}
	if err := n.MakeNetNS(ctx); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if _, err := os.Stat(n.StateDir()); err == nil {
			if err := n.Down(ctx); err != nil {
				t.Errorf("down: %v\n%s", err, n.Log())
			}
		}
		if left, err := n.Left(ctx); err != nil || len(left) > 0 {
			t.Errorf("left behind: %s (%v)", strings.Join(left, "; "), err)
		}
		if err := n.Clear(ctx); err != nil {
			t.Errorf("clear: %v", err)
		}
	})
	return n
}

// Start gives a running node with the signed image "subject:v1" of test/subject.
func Start(t testing.TB, name string, args ...string) *testnode.Node {
	t.Helper()
	n := New(t, name, args...)
	if err := n.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	program := filepath.Join(t.TempDir(), "subject")
	cmd := exec.CommandContext(t.Context(), "go", "build", "-trimpath", "-ldflags", "-s -w", "-o", program, "tero.internal/test/subject")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("go build: %v: %s", err, out)
	}
	if err := n.AddImages(t.Context(), testnode.Image{Name: "subject:v1", Path: program}); err != nil {
		t.Fatal(err)
	}
	return n
}

// Client gives a client of the node's API, also of one that is started again.
func Client(t testing.TB, n *testnode.Node) *client.Client {
	t.Helper()
	c, err := client.Dial(client.Options{Socket: n.Socket()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	return c
}
