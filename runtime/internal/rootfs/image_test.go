package rootfs

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

// TestErofsRoots mounts the three kinds of roots that there are with a composed image.
func TestErofsRoots(t *testing.T) {
	needComposed(t)
	s, ns := scaffold(t), userNS(t)
	image := compose(t, s, []string{layer(t, map[string]string{"a": "image's", "etc/hosts": "image's", "data/b": "image's"})})
	points := layer(t, map[string]string{"point/x": "", "a": "hidden"})
	upper := t.TempDir()
	if err := MakeUpper(upper, hostID); err != nil {
		t.Fatal(err)
	}
	for name, o := range map[string]Options{
		"read-only":  {},
		"points":     {Points: points},
		"writable":   {Upper: upper},
		"of no user": {NoSuid: true},
	} {
		t.Run(name, func(t *testing.T) {
			o.Erofs = image
			if !o.NoSuid {
				o.UserNS = ns
			}
			root, err := s.Mount(o)
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = root.Close() }()
			for file, want := range map[string]string{"a": "image's", "etc/hosts": "", "data/b": "image's"} {
				if got := read(t, root, file); got != want {
					t.Errorf("%s holds %q, want %q", file, got, want)
				}
			}
			var st unix.Stat_t
			if err := unix.Fstatat(int(root.Fd()), "a", &st, 0); err != nil {
				t.Fatal(err)
			}
			if want := map[bool]uint32{true: hostID, false: 0}[o.UserNS != nil]; st.Uid != want {
				t.Errorf("a is owned by %d, want %d", st.Uid, want)
			}
			if err := unix.Faccessat(int(root.Fd()), "point", unix.F_OK, 0); (err == nil) != (o.Points != "") {
				t.Errorf("mount point: %v", err)
			}
			fd, err := unix.Openat(int(root.Fd()), "new", unix.O_CREAT|unix.O_WRONLY|unix.O_CLOEXEC, 0o600)
			if err == nil {
				_ = unix.Close(fd)
			}
			if o.Upper == "" && !errors.Is(err, unix.EROFS) || o.Upper != "" && err != nil {
				t.Errorf("create: %v", err)
			}
			var fs unix.Statfs_t
			if err := unix.Fstatfs(int(root.Fd()), &fs); err != nil {
				t.Fatal(err)
			}
			want := int64(unix.ST_NODEV)
			if o.Upper == "" {
				want |= unix.ST_RDONLY
			}
			if o.NoSuid {
				want |= unix.ST_NOSUID
			}
			if got := fs.Flags & (unix.ST_NODEV | unix.ST_RDONLY | unix.ST_NOSUID); got != want {
				t.Errorf("flags %x, want %x", got, want)
			}
		})
	}
}

// TestForget: a container's root outlives the image's file and our mount of it,
// and the file's space comes back when both are gone.
func TestForget(t *testing.T) {
	needComposed(t)
	s := scaffold(t)
	image := compose(t, s, []string{layer(t, map[string]string{"a": "x"})})
	open := func() (n int) {
		s.images.mu.RLock()
		defer s.images.mu.RUnlock()
		return len(s.images.mounts)
	}
	root, err := s.Mount(Options{Erofs: image})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = root.Close() }()
	if err := os.Remove(image); err != nil {
		t.Fatal(err)
	}
	s.Forget(image)
	s.Forget(image)
	if n := open(); n != 0 {
		t.Errorf("%d mounts are open", n)
	}
	if got := read(t, root, "a"); got != "x" {
		t.Errorf("a holds %q", got)
	}
	if _, err := s.Mount(Options{Erofs: image}); !errors.Is(err, unix.ENOENT) {
		t.Errorf("mount of a removed image: %v", err)
	}
}

// TestImagesAtOnce hammers the lock: mounts, clones and forgets of one image.
func TestImagesAtOnce(t *testing.T) {
	needComposed(t)
	s := scaffold(t)
	image := compose(t, s, []string{layer(t, map[string]string{"a": "x"})})
	var group sync.WaitGroup
	errs := make(chan error, 8)
	for i := range 8 {
		group.Go(func() {
			for range 50 {
				root, err := s.Mount(Options{Erofs: image})
				if err == nil {
					err = errors.Join(unix.Faccessat(int(root.Fd()), "a", unix.F_OK, 0), root.Close())
				}
				if err != nil {
					errs <- err
					return
				}
				if i == 0 {
					s.Forget(image)
				}
			}
		})
	}
	group.Wait()
	close(errs)
	for err := range errs {
		t.Error(err)
	}
}

func TestHas(t *testing.T) {
	needComposed(t)
	s := scaffold(t)
	l := layer(t, map[string]string{"data/file": "x"})
	for target, name := range map[string]string{"data": "link", "/etc": "absolute", "../../../../data": "up", "/nowhere": "dangling"} {
		if err := os.Symlink(target, filepath.Join(l, name)); err != nil {
			t.Fatal(err)
		}
	}
	image := compose(t, s, []string{l})
	for path, want := range map[string][2]bool{ // as a folder, as something else
		"/data": {true, false}, "/data/": {true, false}, "/data/file": {false, true}, "/etc/hosts": {false, true}, "/none": {}, "/data/none": {},
		"/link": {true, false}, "/link/file": {false, true}, "/absolute/hosts": {false, true}, "/up/file": {false, true}, "/dangling": {}, "/absolute/shadow": {},
	} {
		for i, folder := range []bool{true, false} {
			if got, err := s.Has(image, path, folder); got != want[i] || err != nil {
				t.Errorf("%s, folder %v: %v, %v; want %v", path, folder, got, err, want[i])
			}
		}
	}
	if _, err := s.Has(image+"-none", "/data", true); !errors.Is(err, unix.ENOENT) {
		t.Errorf("missing image: %v", err)
	}
}

// TestProbe: a disk can hold composed images, a tmpfs cannot, and neither is left changed.
func TestProbe(t *testing.T) {
	needComposed(t)
	s := scaffold(t)
	for dir, want := range map[string]bool{t.TempDir(): true, memory(t): false} {
		if err := s.Probe(t.Context(), dir); (err == nil) != want {
			t.Errorf("%s: %v", dir, err)
		}
		if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
			t.Errorf("left in %s: %v, %v", dir, left, err)
		}
	}
}

func TestDamagedImage(t *testing.T) {
	s := scaffold(t)
	for name, damage := range map[string]func(f *os.File) error{
		"superblock": func(f *os.File) error { _, err := f.WriteAt([]byte("x"), 1024+60); return err },
		"empty":      func(f *os.File) error { return f.Truncate(0) },
	} {
		image := compose(t, s, nil)
		f, err := os.OpenFile(image, os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(damage(f), f.Close()); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Mount(Options{Erofs: image}); err == nil || !strings.Contains(err.Error(), image) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// BenchmarkMount makes the root of a read-only container: an overlay of an
// image's layers, or a clone of its composed image.
func BenchmarkMount(b *testing.B) {
	needComposed(b)
	ns := userNS(b)
	s, err := OpenScaffold(b.TempDir())
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(s.Close)
	for _, n := range []int{1, 4, 10} {
		var layers []string
		for i := range n {
			dir := filepath.Join(b.TempDir(), "layer")
			if err := os.MkdirAll(filepath.Join(dir, fmt.Sprint(i)), 0o755); err != nil {
				b.Fatal(err)
			}
			layers = append(layers, dir)
		}
		image := compose(b, s, layers)
		for _, c := range []struct {
			name  string
			o     Options
			upper bool
		}{
			{"overlay", Options{Layers: layers}, false},
			{"erofs", Options{Erofs: image}, false},
			{"writable-overlay", Options{Layers: layers}, true},
			{"writable-erofs", Options{Erofs: image}, true},
		} {
			c.o.UserNS, c.o.NoSuid = ns, true
			b.Run(fmt.Sprintf("%s/layers=%d", c.name, n), func(b *testing.B) {
				uppers := b.TempDir()
				for i := 0; b.Loop(); i++ {
					b.StopTimer()
					if c.upper {
						c.o.Upper = filepath.Join(uppers, fmt.Sprint(i))
						if err := errors.Join(os.Mkdir(c.o.Upper, 0o700), MakeUpper(c.o.Upper, hostID)); err != nil {
							b.Fatal(err)
						}
					}
					b.StartTimer()
					root, err := s.Mount(c.o)
					if err != nil {
						b.Fatal(err)
					}
					b.StopTimer() // the end of a mount is not the launch's
					if err := root.Close(); err != nil {
						b.Fatal(err)
					}
					b.StartTimer()
				}
			})
		}
	}
}
