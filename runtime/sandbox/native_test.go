package sandbox_test

import (
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"tero.internal/common/workload"
	"tero.internal/runtime/sandbox"
	"tero.internal/runtime/sandbox/sandboxtest"
)

// built are the binaries that the tests run, made once by TestMain.
var built struct{ init, layer string }

func TestMain(m *testing.M) {
	if o := os.Getenv(ownerVariable); o != "" {
		fmt.Fprintln(os.Stderr, play(o))
		os.Exit(1)
	}
	dir, err := os.MkdirTemp("", "tero-sandbox-")
	if err == nil {
		err = build(dir)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	code := m.Run()
	_ = os.RemoveAll(dir)
	os.Exit(code)
}

func build(dir string) error {
	built.init, built.layer = filepath.Join(dir, "tero-init"), filepath.Join(dir, "layer")
	if err := os.Chmod(dir, 0o755); err != nil {
		return err
	}
	for target, source := range map[string]string{built.init: "../../cmd/tero-init", filepath.Join(built.layer, "probe"): "./sandboxtest/testdata/probe"} {
		cmd := exec.Command("go", "build", "-trimpath", "-o", target, source)
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("build %s: %w\n%s", source, err, out)
		}
	}
	return nil
}

// node is a driver with directories of its own.
type node struct {
	*sandbox.Native
	config sandbox.Config
}

func newNode(tb testing.TB) *node {
	tb.Helper()
	state := tb.TempDir()
	config := sandbox.Config{
		StateDir: filepath.Join(state, "state"), RunDir: filepath.Join(state, "run"), InitPath: built.init,
		CgroupParent: "tero-test-" + workload.NewID().Short(),
		Log:          slog.New(slog.DiscardHandler),
	}
	return openNode(tb, config)
}

func openNode(tb testing.TB, config sandbox.Config) *node {
	tb.Helper()
	n, err := sandbox.OpenNative(tb.Context(), config)
	if err != nil {
		tb.Fatal(err)
	}
	x := &node{n, config}
	tb.Cleanup(func() { x.end(tb) })
	return x
}

// end destroys what is left and ends the keeper.
func (n *node) end(tb testing.TB) {
	list, err := n.List(cleanup())
	if err != nil {
		tb.Error(err)
	}
	for _, s := range list {
		if err := n.Destroy(cleanup(), s.ID); err != nil {
			tb.Error(err)
		}
	}
	if err := n.Shutdown(cleanup()); err != nil {
		tb.Error(err)
	}
	if tb.Failed() {
		b, _ := os.ReadFile(filepath.Join(n.config.RunDir, "keeper.log"))
		tb.Logf("keeper: %s", b)
	}
}

func image() workload.Image {
	return workload.Image{Reference: "localhost/probe:test", Layers: []string{built.layer}}
}

func (n *node) suite() *sandboxtest.Suite {
	return &sandboxtest.Suite{Driver: n.Native, Image: image()}
}

func TestConformance(t *testing.T) {
	n := newNode(t)
	n.suite().TestAll(t)
}
