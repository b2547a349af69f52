package sandbox_test

import (
	"context"
	"os"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"tero.internal/runtime/sandbox/sandboxtest"
)

// cleanup is the context of clean-up, when a test's own has ended.
func cleanup() context.Context { return context.Background() }

// tmpfs mounts a file system in memory until the test ends.
func tmpfs(tb testing.TB, size string) string {
	tb.Helper()
	dir := tb.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size="+size); err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := unix.Unmount(dir, 0); err != nil {
			tb.Error(err)
		}
	})
	return dir
}

// mustConfigure gives the configuration of a container that does nothing.
func mustConfigure(tb testing.TB, n *node, s *sandboxtest.Suite) *specs.Spec {
	tb.Helper()
	config, err := n.Configure(s.Spec(tb, "true"), image())
	if err != nil {
		tb.Fatal(err)
	}
	return config
}

// pipe gives the ends of a pipe that are closed with the test.
func pipe(tb testing.TB) (r, w *os.File) {
	tb.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _, _ = r.Close(), w.Close() }) // most are closed before
	return r, w
}
