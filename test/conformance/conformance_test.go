// Package conformance runs the same OCI bundles through TERO's native sandbox,
// crun and runc, and compares what a probe sees from the inside. TERO has to be
// the same or stricter; each difference is in a reviewed list with its reason,
// which docs/differences.md shows.
package conformance

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"testing"
	"time"

	"tero.internal/common/workload"
	"tero.internal/runtime/sandbox"
)

var update = flag.Bool("update", false, "write docs/differences.md")

// document is the list of differences for readers.
const document = "../../docs/differences.md"

// hang bounds one container; none takes a tenth of it.
const hang = 60 * time.Second

// seen is what is known of one run: what the probe told, what the cgroup says
// and the outcome.
type seen map[string]string

// contestant runs bundles.
type contestant interface {
	name() string
	run(ctx context.Context, b *bundle) (seen, error)
}

// TestDifferences is the comparison.
func TestDifferences(t *testing.T) {
	dir := t.TempDir()
	layer := makeLayer(t, dir)
	image := workload.Image{Reference: "localhost/probe:test", Layers: []string{layer}}
	driver := openDriver(t, dir)
	contestants := []contestant{&native{driver: driver, image: image}, newPeer(t, "crun", 1_910_000_000, dir, layer), newPeer(t, "runc", 1_920_000_000, dir, layer)}

	list := bundles(dir)
	if len(list) < 100 {
		t.Errorf("%d bundles", len(list))
	}
	results := make([][]seen, len(list)) // by bundle and contestant
	var wg sync.WaitGroup
	places := make(chan struct{}, runtime.NumCPU())
	for i := range list {
		b := &list[i]
		b.base(t, driver, image)
		results[i] = make([]seen, len(contestants))
		for k, c := range contestants {
			places <- struct{}{}
			wg.Go(func() {
				defer func() { <-places }()
				ctx, cancel := context.WithTimeout(t.Context(), hang)
				defer cancel()
				v, err := c.run(ctx, b)
				if err != nil {
					t.Errorf("%s: %s: %v", b.name, c.name(), err)
					v = seen{}
				}
				results[i][k] = v
			})
		}
	}
	wg.Wait()
	if t.Failed() {
		t.FailNow()
	}

	var all []finding
	for i := range list {
		for k, c := range contestants[1:] {
			all = append(all, compare(&list[i], c.name(), results[i][0], results[i][k+1])...)
		}
		if want := list[i].want; want != "" && results[i][0]["outcome"] != want {
			t.Errorf("%s: %s: %s, want %s", list[i].name, results[i][0]["outcome"], results[i][0]["said"], want)
		}
	}
	report(t, all, len(list))
}

// makeLayer makes the image: the probe and a few files to try things on.
func makeLayer(tb testing.TB, dir string) string {
	tb.Helper()
	layer := filepath.Join(dir, "layer")
	for _, d := range []string{"", "proc", "dev", "sys", "tmp", "run", "etc", "data", "mnt", "work", "closed"} {
		if err := os.MkdirAll(filepath.Join(layer, d), 0o755); err != nil {
			tb.Fatal(err)
		}
	}
	cmd := exec.CommandContext(tb.Context(), "go", "build", "-trimpath", "-ldflags", "-s -w", "-o", filepath.Join(layer, "probe"), "./testdata/probe")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		tb.Fatalf("build the probe: %v\n%s", err, out)
	}
	for name, f := range map[string]struct {
		content string
		mode    fs.FileMode
	}{
		"etc/passwd":  {"root:x:0:0:root:/root:/bin/sh\n", 0o644},
		"data/file":   {"of the image\n", 0o644},
		"plain":       {"#!/probe\n", 0o644},
		"script":      {"#!/probe exit\n", 0o755},
		"interpreter": {"#!/nothing\n", 0o755},
		"text":        {"no format\n", 0o755},
	} {
		if err := os.WriteFile(filepath.Join(layer, name), []byte(f.content), f.mode); err != nil {
			tb.Fatal(err)
		}
	}
	err := errors.Join(
		os.Symlink("/data", filepath.Join(layer, "link")),
		os.Symlink("../../../../data", filepath.Join(layer, "climb")),
		os.Chmod(filepath.Join(layer, "closed"), 0o700),
		os.Chmod(filepath.Join(layer, "tmp"), 0o777|fs.ModeSticky),
		os.Chmod(dir, 0o755),
		os.Chmod(filepath.Dir(dir), 0o755), // runc's container looks the path up as its own root
	)
	if err != nil {
		tb.Fatal(err)
	}
	return layer
}

// openDriver opens a native driver of the test's own.
func openDriver(t *testing.T, dir string) *sandbox.Native {
	t.Helper()
	initPath := filepath.Join(dir, "tero-init")
	cmd := exec.CommandContext(t.Context(), "go", "build", "-trimpath", "-o", initPath, "tero.internal/cmd/tero-init")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build tero-init: %v\n%s", err, out)
	}
	n, err := sandbox.OpenNative(t.Context(), sandbox.Config{
		StateDir: filepath.Join(dir, "state"), RunDir: filepath.Join(dir, "tero"), InitPath: initPath,
		CgroupParent: "tero-test-" + workload.NewID().Short(), Log: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx := context.WithoutCancel(t.Context())
		if err := n.Shutdown(ctx); err != nil {
			t.Error(err)
		}
		if b, err := os.ReadFile(filepath.Join(dir, "tero", "keeper.log")); t.Failed() && err == nil {
			t.Logf("keeper: %s", b)
		}
	})
	return n
}

// base makes the bundle's configuration: what TERO gives every container, changed.
func (b *bundle) base(t *testing.T, driver *sandbox.Native, image workload.Image) {
	t.Helper()
	args := b.args
	if args == nil {
		args = []string{"/probe", "look"}
	}
	spec, err := workload.Spec{Name: "bundle", Image: image.Reference, Network: workload.NetworkNone, Args: args}.Complete(image)
	if err != nil {
		t.Fatal(err)
	}
	if b.config, err = driver.Configure(spec, image); err != nil {
		t.Fatal(err)
	}
	// Debian's peers know no newer version, and nothing newer is used unless a bundle says so.
	b.config.Version = "1.0.2"
	if b.change != nil {
		b.change(b.config)
	}
	if len(args) != 2 || !slices.Contains([]string{"look", "brief", "hold"}, args[1]) {
		return
	}
	b.config.Process.Args = append(b.config.Process.Args, paths(b.config)...)
}

// String names the finding for people.
func (f finding) String() string {
	return fmt.Sprintf("%s: %s: %s: TERO %q, %s %q %s", f.class, f.bundle, f.key, f.tero, f.peer, f.theirs, f.said)
}
