package erofs

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"
)

// epoch is when everything was made, for images to be the same.
var epoch = time.Unix(1000, 0)

// That images show what overlays do is tested in runtime/internal/rootfs, by the
// kernel. Here a second reader of the format, fsck.erofs, looks at them, and
// what cannot be composed fails.

// layer makes a folder with files.
func layer(tb testing.TB, files map[string]string) string {
	tb.Helper()
	dir := tb.TempDir()
	for name, content := range files {
		path := filepath.Join(dir, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(content), 0o644)); err != nil {
			tb.Fatal(err)
		}
		if err := os.Chtimes(path, epoch, epoch); err != nil {
			tb.Fatal(err)
		}
	}
	for _, d := range []string{dir, filepath.Join(dir, "d")} {
		if err := os.Chtimes(d, epoch, epoch); err != nil && !errors.Is(err, unix.ENOENT) {
			tb.Fatal(err)
		}
	}
	return dir
}

func composed(tb testing.TB, layers ...string) (path string, info Info, err error) {
	tb.Helper()
	f, err := os.Create(filepath.Join(tb.TempDir(), "image"))
	if err != nil {
		tb.Fatal(err)
	}
	info, err = Compose(tb.Context(), f, layers)
	return f.Name(), info, errors.Join(err, f.Close())
}

func TestSameLayersSameBytes(t *testing.T) {
	files := map[string]string{"a": "1", "d/b": strings.Repeat("2", 10_000), "d/c": "", "d/e": "4"}
	upper := map[string]string{"a": "2", "f": "3"}
	first, info, err := composed(t, layer(t, upper), layer(t, files))
	if err != nil {
		t.Fatal(err)
	}
	second, again, err := composed(t, layer(t, upper), layer(t, files))
	if err != nil || again != info {
		t.Errorf("%+v, then %+v (%v)", info, again, err)
	}
	a, err := os.ReadFile(first)
	if err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(second)
	if err != nil || string(a) != string(b) {
		t.Errorf("the images differ (%v)", err)
	}
	if got := digest.FromBytes(a); got != info.Digest || int64(len(a)) != info.Size || info.Inodes != 7 {
		t.Errorf("%d bytes with digest %s; told %+v", len(a), got, info)
	}
}

// TestFsck lets the format's own tools check an image, and extract it.
func TestFsck(t *testing.T) {
	files := map[string]string{"empty": "", "small": "s", "odd": strings.Repeat("o", 4097), "big": strings.Repeat("b", 3<<20+5)}
	for i := range 500 {
		files[fmt.Sprintf("d/%d%s", i, strings.Repeat("n", i%100))] = strings.Repeat("c", i*7)
	}
	l := layer(t, files)
	if err := errors.Join(os.Symlink("small", filepath.Join(l, "link")), os.Link(filepath.Join(l, "odd"), filepath.Join(l, "d/hard")),
		unix.Setxattr(filepath.Join(l, "odd"), "user.x", []byte(strings.Repeat("v", 1000)), 0)); err != nil {
		t.Fatal(err)
	}
	image, _, err := composed(t, l)
	if err != nil {
		t.Fatal(err)
	}
	to := filepath.Join(t.TempDir(), "extracted")
	if out, err := exec.Command("fsck.erofs", "--extract="+to, image).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if out, err := exec.Command("diff", "-r", l, to).CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}

func TestCannotCompose(t *testing.T) {
	device := layer(t, nil)
	if err := unix.Mknod(filepath.Join(device, "null"), unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		layers []string
		want   string
	}{
		"no layers":     {nil, "no layers"},
		"missing layer": {[]string{"/nowhere"}, "/nowhere"},
		"device":        {[]string{device}, "device node"},
		"file as layer": {[]string{"/etc/passwd"}, "not a directory"},
	} {
		if _, _, err := composed(t, c.layers...); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Compose(ctx, nil, []string{layer(t, nil)}); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}

// BenchmarkCompose composes a layer of small files and one of large ones.
func BenchmarkCompose(b *testing.B) {
	small := map[string]string{}
	for i := range 10_000 {
		small[fmt.Sprintf("%d/%d", i%100, i)] = strings.Repeat("s", i%8000)
	}
	large := map[string]string{}
	for i := range 8 {
		large[fmt.Sprint(i)] = strings.Repeat("l", 32<<20)
	}
	for name, files := range map[string]map[string]string{"small": small, "large": large} {
		l := layer(b, files)
		b.Run(name, func(b *testing.B) {
			out := filepath.Join(b.TempDir(), "image")
			for b.Loop() {
				f, err := os.Create(out)
				if err != nil {
					b.Fatal(err)
				}
				info, err := Compose(b.Context(), f, []string{l})
				if err := errors.Join(err, f.Close()); err != nil {
					b.Fatal(err)
				}
				b.SetBytes(info.Size)
			}
		})
	}
}
