package image

import (
	"archive/tar"
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"

	"tero.internal/common/fault"
	"tero.internal/common/testenv"
	"tero.internal/common/workload"
	"tero.internal/runtime/internal/imagetest"
	"tero.internal/runtime/internal/manifest"
	"tero.internal/runtime/internal/rootfs"
)

func (s *Store) mustResolve(t testing.TB, name string) workload.Image {
	t.Helper()
	img, err := s.Resolve(t.Context(), name)
	if err != nil {
		t.Fatal(err)
	}
	s.Release(img)
	return img
}

// needComposed ends a test where the kernel cannot mount composed images (before 6.15).
func needComposed(t *testing.T) {
	t.Helper()
	s, err := rootfs.OpenScaffold(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if err := s.Probe(t.Context(), t.TempDir()); err != nil {
		testenv.Lacks(t, err)
	}
}

// entries counts what is in a folder.
func entries(t testing.TB, dir string) int {
	t.Helper()
	list, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	return len(list)
}

// TestComposed follows composed images from import to removal.
func TestComposed(t *testing.T) {
	needComposed(t)
	var removed []string
	s := newStore(t, func(c *Config) { c.Removed = func(path string) { removed = append(removed, path) } })
	base := imagetest.Tar(t, imagetest.Entry("app", tar.TypeReg, "one"))
	top := imagetest.Tar(t, imagetest.Entry("etc/hosts", tar.TypeReg, "image's"), imagetest.Entry(".wh.app", tar.TypeReg, ""))
	s.mustImport(t, imagetest.Archive(t, "web:v1", base))
	s.mustImport(t, imagetest.Archive(t, "web:v2", base, top))
	lay := imagetest.NewLayout(t)
	twin := lay.Image(func(img *v1.Image, _ *v1.Manifest) { img.Config.User = "1" }, imagetest.PlainLayer(base))
	s.mustImport(t, lay.Name(twin, "twin:v1").Pack())

	first, second := s.mustResolve(t, "web:v1"), s.mustResolve(t, "web:v2")
	if got := s.mustResolve(t, "twin:v1").Erofs; got != first.Erofs || got == second.Erofs || entries(t, s.roots()) != 2 {
		t.Errorf("composed %s and %s, and of the same layers %s", first.Erofs, second.Erofs, got)
	}
	b, err := os.ReadFile(first.Erofs)
	if err != nil || digest.FromBytes(b).Encoded() != filepath.Base(first.Erofs) {
		t.Errorf("%s is not named by its digest (%v)", first.Erofs, err)
	}
	scaffold, err := rootfs.OpenScaffold(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer scaffold.Close()
	for _, c := range []struct {
		path string
		has  bool
	}{{"/app", false}, {"/etc/hosts", true}, {"/etc/hostname", true}} {
		if has, err := scaffold.Has(second.Erofs, c.path, false); err != nil || has != c.has {
			t.Errorf("%s is there: %v, %v", c.path, has, err)
		}
	}
	for _, name := range []string{"web:v1", "web:v2", "twin:v1"} {
		if _, err := s.Remove(t.Context(), name); err != nil {
			t.Fatal(err)
		}
	}
	if len(removed) != 2 {
		t.Errorf("told of %q", removed)
	}
	s.isEmpty(t)
}

// TestComposeMissing opens stores whose images have no composed image that counts.
func TestComposeMissing(t *testing.T) {
	needComposed(t)
	for name, spoil := range map[string]func(t *testing.T, s *Store, img workload.Image) error{
		"of another version": func(t *testing.T, s *Store, img workload.Image) error {
			t.Helper()
			return s.db.SetComposed(img.Digest, manifest.Composed{Digest: digest.FromString("old"), Version: -1})
		},
		"never made": func(t *testing.T, s *Store, img workload.Image) error {
			t.Helper()
			return s.db.SetComposed(img.Digest, manifest.Composed{})
		},
		"file lost": func(_ *testing.T, _ *Store, img workload.Image) error { return os.Remove(img.Erofs) },
	} {
		t.Run(name, func(t *testing.T) {
			c := Config{Root: filepath.Join(t.TempDir(), "images"), Log: discard()}
			s, err := Open(t.Context(), c)
			if err != nil {
				t.Fatal(err)
			}
			s.mustImport(t, imagetest.Archive(t, "web:v1", imagetest.Tar(t, imagetest.Entry("app", tar.TypeReg, "one"))))
			before := s.mustResolve(t, "web:v1")
			if err := spoil(t, s, before); err != nil {
				t.Fatal(err)
			}
			if got := s.mustResolve(t, "web:v1"); got.Erofs != "" || len(got.Layers) != 1 {
				t.Errorf("spoilt: %+v", got)
			}
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			if s, err = Open(t.Context(), c); err != nil {
				t.Fatal(err)
			}
			defer func() { _ = s.Close() }()
			s.composing.Wait()
			if got := s.mustResolve(t, "web:v1"); got.Erofs != before.Erofs {
				t.Errorf("composed %q, want %q as before", got.Erofs, before.Erofs)
			}
			if n := entries(t, s.roots()); n != 1 {
				t.Errorf("%d composed images, want 1", n)
			}
		})
	}
}

// TestComposeNotHere: where the kernel cannot mount composed images, none are made.
func TestComposeNotHere(t *testing.T) {
	s := newStore(t, func(c *Config) { c.Root = filepath.Join(smallDisk(t, "8m"), "images") })
	s.mustImport(t, imagetest.Archive(t, "web:v1", imagetest.Tar(t, imagetest.Entry("app", tar.TypeReg, "one"))))
	if img := s.mustResolve(t, "web:v1"); img.Erofs != "" || len(img.Layers) != 1 || entries(t, s.roots()) != 0 {
		t.Errorf("image %+v", img)
	}
}

// TestFullDiskWhileComposing has room for an archive and its layers, and not
// for one copy more.
func TestFullDiskWhileComposing(t *testing.T) {
	s := newStore(t, func(c *Config) { c.Root = filepath.Join(smallDisk(t, "5m"), "images") })
	s.composes = true // a tmpfs can hold composed images, though not mount them
	archive := imagetest.Archive(t, "big:v1", imagetest.Tar(t, imagetest.Entry("big", tar.TypeReg, strings.Repeat("x", 1700<<10))))
	_, err := s.Import(t.Context(), bytes.NewReader(archive), ImportOptions{})
	if fault.KindOf(err) != fault.Exhausted || !strings.Contains(err.Error(), "compose") || fault.HintOf(err) == "" {
		t.Errorf("%v (%s)", err, fault.KindOf(err))
	}
	s.isEmpty(t)
}

// killVariable makes the test binary an importer that is killed, see TestKilledWhileComposing.
const killVariable = "TERO_TEST_IMPORTER"

func TestMain(m *testing.M) {
	if os.Getenv(killVariable) != "" {
		fmt.Fprintln(os.Stderr, importUntilKilled())
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// importUntilKilled imports its standard input to images in the working folder,
// and says when a composition begins.
func importUntilKilled() error {
	ctx := context.Background()
	s, err := Open(ctx, Config{Root: "images", Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		return err
	}
	go func() {
		for {
			if list, err := filepath.Glob(filepath.Join(s.ingest(), "compose-*")); err != nil || len(list) > 0 {
				fmt.Println("composing", err)
				return
			}
		}
	}()
	_, err = s.Import(ctx, os.Stdin, ImportOptions{})
	fmt.Println("imported", err)
	return errors.Join(err, s.Close())
}

// TestKilledWhileComposing kills an import at several moments of its composition:
// what is there afterwards is all or nothing, and nothing is left over.
func TestKilledWhileComposing(t *testing.T) {
	needComposed(t)
	var files []*tar.Header
	for i := range 300 {
		files = append(files, imagetest.Entry(fmt.Sprintf("d/%d", i), tar.TypeReg, strings.Repeat("x", 1+i*100)))
	}
	archive := imagetest.Archive(t, "web:v1", imagetest.Tar(t, files...))
	for i := range 4 {
		root := filepath.Join(t.TempDir(), "images")
		cmd := exec.CommandContext(t.Context(), os.Args[0])
		cmd.Env = append(os.Environ(), killVariable+"=1")
		cmd.Dir, cmd.Stdin = filepath.Dir(root), bytes.NewReader(archive)
		cmd.Stderr = os.Stderr
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		line, err := bufio.NewReader(out).ReadString('\n')
		if err != nil || !strings.Contains(line, "<nil>") {
			t.Errorf("importer: %q, %v", line, err)
		}
		for range i * 200 { // a little later each time
			_ = unix.Access(root, unix.F_OK)
		}
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		s := newStore(t, func(c *Config) { c.Root = root })
		s.composing.Wait()
		if n := entries(t, s.ingest()); n != 0 {
			t.Errorf("%d entries are left in ingest", n)
		}
		infos, err := s.List(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if len(infos) == 0 {
			s.isEmpty(t)
			continue
		}
		img := s.mustResolve(t, "web:v1")
		b, err := os.ReadFile(img.Erofs)
		if err != nil || digest.FromBytes(b).Encoded() != filepath.Base(img.Erofs) || entries(t, s.roots()) != 1 {
			t.Errorf("composed image %s of %d bytes, %v", img.Erofs, len(b), err)
		}
	}
}
