package filetree_test

import (
	"archive/tar"
	"bytes"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"tero.internal/common/fault"
	"tero.internal/common/filetree"
)

// fill makes files: "name/" is a folder, "name>target" a link, others hold their name.
func fill(t *testing.T, dir string, names ...string) {
	t.Helper()
	for _, n := range names {
		var err error
		link, to, isLink := strings.Cut(n, ">")
		switch {
		case isLink:
			err = os.Symlink(to, filepath.Join(dir, link))
		case strings.HasSuffix(n, "/"):
			err = os.MkdirAll(filepath.Join(dir, n), 0o755)
		default:
			err = os.WriteFile(filepath.Join(dir, n), []byte(n), 0o644)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

// tree lists what is in a folder, as fill takes it.
func tree(t *testing.T, dir string) []string {
	t.Helper()
	var list []string
	err := filepath.WalkDir(dir, func(name string, d fs.DirEntry, err error) error {
		if err != nil || name == dir {
			return err
		}
		rel, _ := filepath.Rel(dir, name)
		switch {
		case d.IsDir():
			rel += "/"
		case d.Type() == fs.ModeSymlink:
			to, err := os.Readlink(name)
			if err != nil {
				return err
			}
			rel += ">" + to
		}
		list = append(list, rel)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return list
}

// root opens a folder as a root to resolve paths in.
func root(t *testing.T, dir string) *filetree.Root {
	t.Helper()
	f, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
	r, err := filetree.In(f)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// copyTree copies as "tero cp" does.
func copyTree(from *filetree.Root, src string, to *filetree.Root, dst string) (filetree.Summary, error) {
	var archive bytes.Buffer
	var source filetree.Source
	packed, err := filetree.Pack(&archive, from, src, false, func(s filetree.Source) error { source = s; return nil })
	if err != nil {
		return packed, err
	}
	target, err := to.Target(dst, source, false)
	if err != nil {
		return packed, err
	}
	defer target.Close()
	got, err := filetree.Unpack(&archive, target, true)
	got.Skipped += packed.Skipped
	return got, err
}

// TestSemantics holds copies against what Docker's cp and cp(1) do.
func TestSemantics(t *testing.T) {
	source := []string{"dir/", "dir/sub/", "dir/sub/a", "dir/b", "file", "link>dir", "loose>/nowhere"}
	for name, c := range map[string]struct {
		src, dst string
		before   []string
		want     []string // nil: as before
		kind     fault.Kind
		code     bool // an error is wanted
	}{
		"file to nothing":           {src: "file", dst: "new", want: []string{"new"}},
		"file to a folder":          {src: "file", dst: "d", before: []string{"d/"}, want: []string{"d/", "d/file"}},
		"file to a folder, slash":   {src: "file", dst: "d/", before: []string{"d/"}, want: []string{"d/", "d/file"}},
		"file over a file":          {src: "file", dst: "old", before: []string{"old"}, want: []string{"old"}},
		"file where a link leads":   {src: "file", dst: "l", before: []string{"d/", "d/f", "l>/d/f"}, want: []string{"d/", "d/f", "l>/d/f"}},
		"file, link to nothing":     {src: "file", dst: "l", before: []string{"d/", "l>d/new"}, want: []string{"d/", "d/new", "l>d/new"}},
		"file, link outwards":       {src: "file", dst: "l", before: []string{"l>../../x"}, want: []string{"l>../../x", "x"}},
		"file, links in circles":    {src: "file", dst: "l", before: []string{"l>l"}, code: true, kind: fault.Invalid},
		"file to no folder":         {src: "file", dst: "new/", code: true, kind: fault.NotFound},
		"file below nothing":        {src: "file", dst: "no/new", code: true, kind: fault.NotFound},
		"file to a file, slash":     {src: "file", dst: "old/", before: []string{"old"}, code: true, kind: fault.Invalid},
		"folder to nothing":         {src: "dir", dst: "new", want: []string{"new/", "new/b", "new/sub/", "new/sub/a"}},
		"folder to nothing, slash":  {src: "dir", dst: "new/", want: []string{"new/", "new/b", "new/sub/", "new/sub/a"}},
		"folder to a folder":        {src: "dir", dst: "d", before: []string{"d/"}, want: []string{"d/", "d/dir/", "d/dir/b", "d/dir/sub/", "d/dir/sub/a"}},
		"folder, slash, to folder":  {src: "dir/", dst: "d", before: []string{"d/"}, want: []string{"d/", "d/dir/", "d/dir/b", "d/dir/sub/", "d/dir/sub/a"}},
		"folder into itself merged": {src: "dir", dst: ".", before: []string{"dir/", "dir/c"}, want: []string{"dir/", "dir/b", "dir/c", "dir/sub/", "dir/sub/a"}},
		"folder over a file":        {src: "dir", dst: "old", before: []string{"old"}, code: true, kind: fault.Invalid},
		"contents to nothing":       {src: "dir/.", dst: "new", want: []string{"new/", "new/b", "new/sub/", "new/sub/a"}},
		"contents to a folder":      {src: "dir/.", dst: "d", before: []string{"d/", "d/c"}, want: []string{"d/", "d/b", "d/c", "d/sub/", "d/sub/a"}},
		"contents over a file":      {src: "dir/.", dst: "old", before: []string{"old"}, code: true, kind: fault.Invalid},
		"all":                       {src: "/", dst: "d", before: []string{"d/"}, want: []string{"d/", "d/dir/", "d/dir/b", "d/dir/sub/", "d/dir/sub/a", "d/file", "d/link>dir", "d/loose>/nowhere"}},
		"link":                      {src: "link", dst: "new", want: []string{"new>dir"}},
		"link to nothing":           {src: "loose", dst: "new", want: []string{"new>/nowhere"}},
		"link, slash":               {src: "link/", dst: "new", want: []string{"new/", "new/b", "new/sub/", "new/sub/a"}},
		"file, slash":               {src: "file/", dst: "new", code: true, kind: fault.Invalid},
		"nothing":                   {src: "none", dst: "new", code: true, kind: fault.NotFound},
		"file over a folder":        {src: "dir/.", dst: "d", before: []string{"d/", "d/b/"}, code: true, kind: fault.Invalid},
		"folder over a link":        {src: "dir/.", dst: "d", before: []string{"d/", "e/", "d/sub>../e"}, code: true, kind: fault.Invalid},
	} {
		t.Run(name, func(t *testing.T) {
			from, to := t.TempDir(), t.TempDir()
			fill(t, from, source...)
			fill(t, to, c.before...)
			_, err := copyTree(root(t, from), c.src, root(t, to), c.dst)
			if (err != nil) != c.code || err != nil && fault.KindOf(err) != c.kind {
				t.Fatalf("%v (%v)", err, fault.KindOf(err))
			}
			if err == nil {
				if diff := cmp.Diff(c.want, tree(t, to)); diff != "" {
					t.Error(diff)
				}
			}
		})
	}
}

// TestAttributes copies modes, times, owners, holes and further names, and no
// more than that.
func TestAttributes(t *testing.T) {
	from, to := t.TempDir(), t.TempDir()
	fill(t, from, "d/", "d/a", "d/zero")
	for _, err := range []error{
		os.Chmod(filepath.Join(from, "d/a"), 0o4751|fs.ModeSetuid|fs.ModeSetgid), os.Chown(filepath.Join(from, "d/a"), 12, 34),
		os.Link(filepath.Join(from, "d/a"), filepath.Join(from, "d/b")), os.Truncate(filepath.Join(from, "d/zero"), 8<<20),
		unix.Mkfifo(filepath.Join(from, "d/pipe"), 0o600), unix.Mknod(filepath.Join(from, "d/null"), unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))),
		os.Chmod(filepath.Join(from, "d"), 0o555),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	s, err := copyTree(root(t, from), "d", root(t, to), "e")
	if err != nil || s.Skipped != 2 || s.Entries != 4 {
		t.Fatalf("%+v, %v", s, err)
	}
	var a, b, zero, dir unix.Stat_t
	for name, st := range map[string]*unix.Stat_t{"a": &a, "b": &b, "zero": &zero, ".": &dir} {
		if err := unix.Lstat(filepath.Join(to, "e", name), st); err != nil {
			t.Fatal(err)
		}
	}
	if a.Ino != b.Ino || a.Mode&0o7777 != 0o751 || a.Uid != 12 || a.Gid != 34 {
		t.Errorf("%+v and %+v", a, b)
	}
	if zero.Size != 8<<20 || zero.Blocks > 64 {
		t.Errorf("a hole of %d bytes takes %d blocks", zero.Size, zero.Blocks)
	}
	if dir.Mode&0o7777 != 0o555 {
		t.Errorf("mode of the folder %o", dir.Mode)
	}
}

// TestKernelFiles refuses the kernel's file systems on both sides.
func TestKernelFiles(t *testing.T) {
	dir := t.TempDir()
	fill(t, dir, "file")
	if _, err := copyTree(filetree.Host(), "/proc/self/status", root(t, dir), "x"); fault.KindOf(err) != fault.Invalid {
		t.Error(err)
	}
	for _, dst := range []string{"/proc/self", "/proc/self/comm", "/sys/"} {
		if _, err := copyTree(root(t, dir), "file", filetree.Host(), dst); fault.KindOf(err) != fault.Invalid {
			t.Errorf("%s: %v", dst, err)
		}
	}
	if _, err := copyTree(filetree.Host(), "/dev/null", root(t, dir), "x"); fault.KindOf(err) != fault.Invalid {
		t.Error(err)
	}
}

// TestRace copies in a root where a folder is swapped for a link that leads out
// of it, again and again.
func TestRace(t *testing.T) {
	outer := t.TempDir()
	inside := filepath.Join(outer, "inside")
	fill(t, outer, "inside/", "out/", "inside/real/", "inside/out/", "inside/up>../../out")
	for name, content := range map[string]string{"out/secret": "outside", "inside/real/secret": "inside", "inside/out/secret": "inside", "planted": "planted"} {
		if err := os.WriteFile(filepath.Join(outer, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	stop := make(chan struct{})
	var racer sync.WaitGroup
	racer.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
			}
			for _, name := range []string{"real", "up"} {
				_ = os.Rename(filepath.Join(inside, name), filepath.Join(inside, "swap"))
				_ = os.Rename(filepath.Join(inside, "swap"), filepath.Join(inside, name))
			}
		}
	})
	defer racer.Wait()
	defer close(stop)
	r := root(t, inside)
	for range 500 {
		var archive bytes.Buffer
		if _, err := filetree.Pack(&archive, r, "swap/secret", true, func(filetree.Source) error { return nil }); err == nil {
			tr := tar.NewReader(&archive)
			if _, err := tr.Next(); err != nil {
				t.Fatal(err)
			}
			if b, err := io.ReadAll(tr); err != nil || string(b) != "inside" {
				t.Fatalf("read %q, %v", b, err)
			}
		}
		_, _ = copyTree(root(t, outer), "planted", r, "swap") // may find nothing there
		if got := tree(t, filepath.Join(outer, "out")); len(got) != 1 {
			t.Fatalf("written outside: %v", got)
		}
	}
}

// archive makes a tar.
func archive(t testing.TB, headers ...tar.Header) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, h := range headers {
		if h.Typeflag == tar.TypeReg {
			h.Size = 4
		}
		h.Mode |= 0o600
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if h.Typeflag == tar.TypeReg {
			if _, err := w.Write([]byte("data")); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// hostile are archives that must not reach beyond where they are unpacked.
func hostile(t testing.TB) map[string][]byte {
	t.Helper()
	file := func(name string) tar.Header { return tar.Header{Name: name, Typeflag: tar.TypeReg} }
	link := func(name, to string) tar.Header {
		return tar.Header{Name: name, Typeflag: tar.TypeSymlink, Linkname: to}
	}
	return map[string][]byte{
		"absolute":          archive(t, file("/victim/planted")),
		"upwards":           archive(t, file("../victim/planted")),
		"upwards inside":    archive(t, file("a/../../victim/planted")),
		"through a link":    archive(t, link("a", "../victim"), file("a/planted")),
		"through two links": archive(t, link("a", "."), link("a/b", "../victim"), file("a/b/planted")),
		"over a link":       archive(t, link("a", "../victim/file"), file("a")),
		"folder over link":  archive(t, link("a", "../victim"), tar.Header{Name: "a/", Typeflag: tar.TypeDir}, file("a/planted")),
		"hard link out":     archive(t, tar.Header{Name: "a", Typeflag: tar.TypeLink, Linkname: "../victim/file"}, file("a")),
		"hard link by link": archive(t, link("a", "../victim"), tar.Header{Name: "b", Typeflag: tar.TypeLink, Linkname: "a/file"}, file("b")),
		"device":            archive(t, tar.Header{Name: "a", Typeflag: tar.TypeChar, Devmajor: 1, Devminor: 3}),
		"pipe":              archive(t, tar.Header{Name: "a", Typeflag: tar.TypeFifo}),
		"cut short":         archive(t, file("a"))[:514],
		"other source":      archive(t, file("x"), file("y/z")),
	}
}

// unpack unpacks where a victim is beside, and checks what the archive did to it.
func unpack(t *testing.T, b []byte, raw bool) error {
	t.Helper()
	outer := t.TempDir()
	fill(t, outer, "victim/", "victim/file", "here/", "here/link>../victim")
	target, err := filetree.Host().Target(filepath.Join(outer, "here"), filetree.Source{Name: "source"}, raw)
	if err != nil {
		t.Fatal(err)
	}
	defer target.Close()
	_, err = filetree.Unpack(bytes.NewReader(b), target, false)
	if diff := cmp.Diff([]string{"file"}, tree(t, filepath.Join(outer, "victim"))); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]string{"here", "victim"}, names(t, outer)); diff != "" {
		t.Error(diff)
	}
	if content, err := os.ReadFile(filepath.Join(outer, "victim/file")); err != nil || string(content) != "victim/file" {
		t.Errorf("%q, %v", content, err)
	}
	walkErr := filepath.WalkDir(filepath.Join(outer, "here"), func(name string, d fs.DirEntry, err error) error {
		if err == nil && d.Type()&(fs.ModeDevice|fs.ModeNamedPipe|fs.ModeSocket) != 0 {
			t.Errorf("%s is a %v", name, d.Type())
		}
		return nil
	})
	if walkErr != nil {
		t.Error(walkErr)
	}
	return err
}

func names(t *testing.T, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var list []string
	for _, e := range entries {
		list = append(list, e.Name())
	}
	return list
}

func TestHostileArchives(t *testing.T) {
	harmless := map[string]bool{"over a link": true, "device": true, "pipe": true, "other source": true}
	for name, b := range hostile(t) {
		t.Run(name, func(t *testing.T) {
			if err := unpack(t, b, true); (err == nil) != harmless[name] {
				t.Errorf("%v", err)
			}
			_ = unpack(t, b, false) // names are replaced: what matters is that nothing is outside
		})
	}
}

func FuzzUnpack(f *testing.F) {
	for _, b := range hostile(f) {
		f.Add(b, true)
	}
	f.Fuzz(func(t *testing.T, b []byte, raw bool) { _ = unpack(t, b, raw) })
}
