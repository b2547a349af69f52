package sandbox_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"tero.internal/common/testenv"
	"tero.internal/common/workload"
	"tero.internal/runtime/internal/rootfs"
	"tero.internal/runtime/sandbox"
	"tero.internal/runtime/sandbox/sandboxtest"
	"tero.internal/runtime/volume"
)

// built are the binaries that the tests run, made once by TestMain.
var built struct{ init, layer, erofs string }

func TestMain(m *testing.M) {
	if o := os.Getenv(ownerVariable); o != "" {
		fmt.Fprintln(os.Stderr, play(o))
		os.Exit(1)
	}
	if call := os.Getenv(hiddenVariable); call != "" {
		if err := openWithout(call); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
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
	if err := os.Mkdir(filepath.Join(built.layer, "mnt"), 0o755); err != nil {
		return err
	}
	return composeProbe(dir)
}

// composeProbe composes the probe's image, where the kernel can mount it.
func composeProbe(dir string) error {
	s, err := rootfs.OpenScaffold(filepath.Join(dir, "scaffold"))
	if err != nil {
		return err
	}
	defer s.Close()
	if err := s.Probe(context.Background(), dir); err != nil {
		fmt.Fprintln(os.Stderr, "composed images cannot be tested here:", err)
		return nil
	}
	f, err := os.Create(filepath.Join(dir, "erofs"))
	if err != nil {
		return err
	}
	built.erofs = f.Name()
	_, err = s.Compose(context.Background(), f, []string{built.layer})
	return errors.Join(err, f.Close())
}

// node is a driver with directories of its own.
type node struct {
	*sandbox.Native
	config sandbox.Config
}

func newNode(tb testing.TB) *node { return newNodeWithPool(tb, 0) }

// newNodeWithPool is newNode with sandboxes that are prepared ahead of time.
func newNodeWithPool(tb testing.TB, pool int) *node {
	tb.Helper()
	config := configIn(tb, tb.TempDir())
	config.Pool = pool
	return openNode(tb, config)
}

// configIn gives the configuration of a node with its directories in state.
func configIn(tb testing.TB, state string) sandbox.Config {
	tb.Helper()
	volumes, err := volume.Open(filepath.Join(state, "volumes"))
	if err != nil {
		tb.Fatal(err)
	}
	return sandbox.Config{
		StateDir: filepath.Join(state, "state"), RunDir: filepath.Join(state, "run"), InitPath: built.init,
		CgroupParent: "tero-test-" + workload.NewID().Short(),
		Protected:    []string{state},
		Volumes:      volumes,
		Log:          slog.New(slog.DiscardHandler),
	}
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
	return workload.Image{Reference: "localhost/probe:test", Layers: []string{built.layer}, Erofs: built.erofs}
}

func (n *node) suite() *sandboxtest.Suite {
	return &sandboxtest.Suite{Driver: n.Native, Image: image()}
}

func TestConformance(t *testing.T) {
	s := newNodeWithPool(t, 2).suite()
	t.Run("composed", func(t *testing.T) {
		if built.erofs == "" {
			testenv.Lacks(t, "the kernel cannot mount composed images, as TestMain said")
		}
		s.TestAll(t)
	})
	pool := 0
	if built.erofs == "" { // then the composed ones have not tested it
		pool = 2
	}
	layers := newNodeWithPool(t, pool).suite()
	layers.Image.Erofs = ""
	t.Run("layers", func(t *testing.T) { layers.TestAll(t) })
}

// TestMountPointOfImage: a mount point that the image has needs no overlay,
// one that it lacks gets one.
func TestMountPointOfImage(t *testing.T) {
	if built.erofs == "" {
		testenv.Lacks(t, "the kernel cannot mount composed images, as TestMain said")
	}
	n := newNode(t)
	s := n.suite()
	folder, file := t.TempDir(), filepath.Join(built.layer, "probe")
	for name, c := range map[string]struct {
		source, destination string
		overlay             bool
	}{
		"folder that is there": {folder, "/mnt", false},
		"file that is there":   {file, "/probe", false},
		"file that is not":     {file, "/etc/none", true},
		"folder that is not":   {folder, "/data/deep", true},
	} {
		t.Run(name, func(t *testing.T) {
			config, err := n.Configure(s.Spec(t, "true"), s.Image)
			if err != nil {
				t.Fatal(err)
			}
			config.Mounts = append(config.Mounts, specs.Mount{Type: "bind", Source: c.source, Destination: c.destination, Options: []string{"bind", "ro"}})
			id := workload.NewID()
			if _, err := n.Create(t.Context(), id, config, s.Image); err != nil {
				t.Fatal(err)
			}
			_, err = os.Stat(filepath.Join(n.config.StateDir, "containers", string(id), "points"))
			if (err == nil) != c.overlay {
				t.Errorf("mount points of its own: %v", err)
			}
			if err := n.Start(t.Context(), id, nil); err != nil {
				t.Error(err)
			} else if exit := s.End(t, id); exit.Code != 0 {
				t.Errorf("exit %+v", exit)
			}
			if err := n.Destroy(cleanup(), id); err != nil {
				t.Error(err)
			}
		})
	}
}
