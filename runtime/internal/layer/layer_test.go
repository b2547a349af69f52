package layer

import (
	"archive/tar"
	"bytes"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"tero.internal/common/fault"
	"tero.internal/runtime/internal/imagetest"
)

func reg(name string) *tar.Header { return imagetest.Entry(name, tar.TypeReg, "x") }

func dir(name string) *tar.Header                         { return imagetest.Entry(name, tar.TypeDir, "") }
func with(h *tar.Header, f func(*tar.Header)) *tar.Header { f(h); return h }

// unpack unpacks plain layers, lowest first, below top. It gives their folders,
// uppermost first.
func unpack(t *testing.T, top string, layers ...[]byte) (dirs []string, err error) {
	t.Helper()
	limits := Limits{Bytes: 1 << 30, Entries: 10_000}
	for i, b := range layers {
		d := filepath.Join(top, strconv.Itoa(i))
		l := Layer{Digest: digest.FromBytes(b), DiffID: digest.FromBytes(b)}
		if _, err := Unpack(t.Context(), bytes.NewReader(b), d, l, dirs, limits); err != nil {
			return nil, err
		}
		dirs = append([]string{d}, dirs...)
	}
	return dirs, nil
}

// TestMaliciousLayers holds layers that must be refused with their reason, and
// nothing of which may be written beside their folder.
func TestMaliciousLayers(t *testing.T) {
	outside := filepath.Join(t.TempDir(), "victim")
	deep := strings.Repeat("d/", 200) + "f"
	var implied []*tar.Header // 100 entries, of which each implies 127 folders
	for i := range 100 {
		implied = append(implied, reg(strconv.Itoa(i)+strings.Repeat("/d", 126)+"/f"))
	}
	long := strings.Repeat("x/", 2048) // one byte longer than a path can be
	for name, c := range map[string]struct {
		entries []*tar.Header
		want    string
	}{
		"parent in name":         {[]*tar.Header{reg("../evil")}, "leads upwards"},
		"parent inside name":     {[]*tar.Header{reg("a/../../evil")}, "leads upwards"},
		"parent that stays":      {[]*tar.Header{reg("a/../b")}, "leads upwards"},
		"absolute name":          {[]*tar.Header{reg(outside)}, "absolute"},
		"absolute folder":        {[]*tar.Header{dir(outside)}, "absolute"},
		"through a link out":     {[]*tar.Header{imagetest.Entry("a", tar.TypeSymlink, "/"), reg("a" + outside)}, "symbolic link"},
		"through a link up":      {[]*tar.Header{imagetest.Entry("a", tar.TypeSymlink, "../../.."), reg("a/evil")}, "symbolic link"},
		"through a link inside":  {[]*tar.Header{dir("b"), imagetest.Entry("a", tar.TypeSymlink, "b"), reg("a/evil")}, "symbolic link"},
		"folder over a link":     {[]*tar.Header{imagetest.Entry("a", tar.TypeSymlink, "/etc"), dir("a")}, "a symbolic link"},
		"file over a link":       {[]*tar.Header{imagetest.Entry("a", tar.TypeSymlink, outside), reg("a")}, "twice"},
		"file over a hard link":  {[]*tar.Header{reg("b"), imagetest.Entry("a", tar.TypeLink, "b"), reg("a")}, "twice"},
		"hard link out":          {[]*tar.Header{imagetest.Entry("a", tar.TypeLink, "../../../../etc/passwd")}, "outside"},
		"absolute hard link":     {[]*tar.Header{imagetest.Entry("a", tar.TypeLink, "/etc/passwd")}, "outside"},
		"hard link via link":     {[]*tar.Header{imagetest.Entry("l", tar.TypeSymlink, "/etc"), imagetest.Entry("a", tar.TypeLink, "l/passwd")}, "does not have before it"},
		"hard link to nothing":   {[]*tar.Header{imagetest.Entry("a", tar.TypeLink, "b")}, "does not have before it"},
		"hard link to folder":    {[]*tar.Header{dir("b"), imagetest.Entry("a", tar.TypeLink, "b")}, "a folder"},
		"hard link to whiteout":  {[]*tar.Header{reg(".wh.b"), imagetest.Entry("a", tar.TypeLink, "b")}, "a folder or a whiteout"},
		"hard link to itself":    {[]*tar.Header{reg("a"), imagetest.Entry("a", tar.TypeLink, "a")}, "twice"},
		"character device":       {[]*tar.Header{with(imagetest.Entry("null", tar.TypeChar, ""), func(h *tar.Header) { h.Devmajor, h.Devminor = 1, 3 })}, "device nodes"},
		"block device":           {[]*tar.Header{with(imagetest.Entry("sda", tar.TypeBlock, ""), func(h *tar.Header) { h.Devmajor = 8 })}, "device nodes"},
		"overlay's own whiteout": {[]*tar.Header{imagetest.Entry("a", tar.TypeChar, "")}, "device nodes"},
		"file twice":             {[]*tar.Header{reg("a"), reg("a")}, "twice"},
		"file then folder":       {[]*tar.Header{reg("a"), dir("a")}, "something else before"},
		"folder then file":       {[]*tar.Header{dir("a"), reg("a")}, "twice"},
		"below a file":           {[]*tar.Header{reg("a"), reg("a/b")}, "something else before"},
		"same name, other form":  {[]*tar.Header{reg("a"), reg("./a")}, "twice"},
		"too deep":               {[]*tar.Header{reg(deep)}, "folders deep"},
		"name too long":          {[]*tar.Header{reg(strings.Repeat("n", 256))}, "longer than 255"},
		"path too long":          {[]*tar.Header{reg(strings.Repeat("n/", 2200) + "f")}, "longer than 4095"},
		"whiteout of nothing":    {[]*tar.Header{reg(".wh.")}, "names no file"},
		"whiteout of itself":     {[]*tar.Header{reg("a/.wh..")}, "names no file"},
		"whiteout of the parent": {[]*tar.Header{reg("a/.wh...")}, "names no file"},
		"root is a file":         {[]*tar.Header{reg("./.")}, "root is not a folder"},
		"negative owner":         {[]*tar.Header{with(reg("a"), func(h *tar.Header) { h.Uid = -2 })}, "owner"},
		"owner too large":        {[]*tar.Header{with(reg("a"), func(h *tar.Header) { h.Gid = 1 << 32 })}, "owner"},
		"overlay attribute":      {[]*tar.Header{with(dir("a"), func(h *tar.Header) { h.PAXRecords = map[string]string{"SCHILY.xattr.trusted.overlay.redirect": "/etc"} })}, "not for images"},
		"user overlay attribute": {[]*tar.Header{with(dir("a"), func(h *tar.Header) { h.PAXRecords = map[string]string{"SCHILY.xattr.user.overlay.opaque": "y"} })}, "not for images"},
		"empty link":             {[]*tar.Header{imagetest.Entry("a", tar.TypeSymlink, "")}, "target is empty"},
		"link too long":          {[]*tar.Header{imagetest.Entry("a", tar.TypeSymlink, long)}, "target is longer than 4095"},
		"hard link too long":     {[]*tar.Header{reg("b"), imagetest.Entry("a", tar.TypeLink, long)}, "target is longer than 4095"},
		"file with a long link":  {[]*tar.Header{with(reg("a"), func(h *tar.Header) { h.Linkname = long })}, "target is longer than 4095"},
		"implied folders":        {implied, "more than 10000 entries"},
	} {
		t.Run(name, func(t *testing.T) {
			top := t.TempDir()
			_, err := unpack(t, top, imagetest.Tar(t, c.entries...))
			if err == nil || !strings.Contains(err.Error(), c.want) || fault.KindOf(err) != fault.Invalid {
				t.Errorf("error %v (%s), want invalid: %q", err, fault.KindOf(err), c.want)
			}
			if beside, rerr := os.ReadDir(top); rerr != nil || len(beside) > 1 {
				t.Errorf("beside the layer: %v, %v", beside, rerr)
			}
			if _, err := os.Lstat(outside); err == nil {
				t.Errorf("%s was written", outside)
			}
		})
	}
}

// look gives what a layer's folder holds: "type mode uid:gid content".
func look(t *testing.T, root string) map[string]string {
	t.Helper()
	out := map[string]string{}
	err := filepath.WalkDir(root, func(p string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		var st unix.Stat_t
		if err := unix.Lstat(p, &st); err != nil {
			return err
		}
		name, _ := filepath.Rel(root, p)
		typ := map[uint32]string{unix.S_IFDIR: "dir", unix.S_IFREG: "file", unix.S_IFLNK: "link", unix.S_IFCHR: "char", unix.S_IFIFO: "fifo"}[st.Mode&unix.S_IFMT]
		s := fmt.Sprintf("%s %o %d:%d", typ, st.Mode&0o7777, st.Uid, st.Gid)
		switch typ {
		case "file":
			b, err := os.ReadFile(p)
			if err != nil {
				return err
			}
			s += " " + string(b)
		case "link":
			target, err := os.Readlink(p)
			if err != nil {
				return err
			}
			s += " " + target
		case "char":
			s = fmt.Sprintf("char %d", st.Rdev)
		case "dir":
			b := make([]byte, 8)
			if n, err := unix.Lgetxattr(p, "trusted.overlay.opaque", b); err == nil {
				s += " opaque=" + string(b[:n])
			}
		}
		out[name] = s
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func TestUnpackKeepsWhatLayersSay(t *testing.T) {
	lower := imagetest.Tar(t,
		with(dir("./"), func(h *tar.Header) { h.Mode = 0o751 }),
		with(dir("tmp"), func(h *tar.Header) { h.Mode = 0o1777 }),
		with(dir("home/u"), func(h *tar.Header) { h.Uid, h.Gid, h.Mode = 1000, 1001, 0o700 }),
		with(reg("home/u/f"), func(h *tar.Header) { h.Uid, h.Gid = 1000, 1001 }),
		with(reg("su"), func(h *tar.Header) { h.Mode = 0o4755 }),
		imagetest.Entry("su2", tar.TypeLink, "su"),
		imagetest.Entry("up", tar.TypeSymlink, "../../etc/passwd"),
		imagetest.Entry("abs", tar.TypeSymlink, "/etc/passwd"),
		imagetest.Entry("pipe", tar.TypeFifo, ""),
		dir("tmp/"), // again: allowed for folders
		dir("gone"), reg("gone/x"), reg("file"), dir("opq"), reg("opq/old"),
	)
	upper := imagetest.Tar(t,
		reg("tmp/new"), reg("home/u/new"), // folders without entries look as below
		reg(".wh.gone"), reg(".wh.file"), reg("opq/.wh..wh..opq"), reg("opq/new"),
		reg(".wh..wh.plnk"),                // of aufs
		reg(".wh.again"), reg("again/new"), // deleted below, new here: opaque
		reg("both"), reg(".wh.both"), // the file hides the lower one
		dir("later"), reg(".wh.later"), // the whiteout comes after the folder
		reg(".wh.refile"), reg("refile"),
	)
	layers, err := unpack(t, t.TempDir(), lower, upper)
	if err != nil {
		t.Fatal(err)
	}
	wantLower := map[string]string{
		".": "dir 751 0:0", "tmp": "dir 1755 0:0", "home": "dir 755 0:0", "home/u": "dir 700 1000:1001", "home/u/f": "file 644 1000:1001 x",
		"su": "file 4755 0:0 x", "su2": "file 4755 0:0 x", "up": "link 777 0:0 ../../etc/passwd", "abs": "link 777 0:0 /etc/passwd",
		"pipe": "fifo 644 0:0", "gone": "dir 755 0:0", "gone/x": "file 644 0:0 x", "file": "file 644 0:0 x", "opq": "dir 755 0:0", "opq/old": "file 644 0:0 x",
	}
	wantLower["tmp"] = "dir 755 0:0" // the later entry holds
	if diff := cmp.Diff(wantLower, look(t, layers[1])); diff != "" {
		t.Errorf("lower layer (-want +got):\n%s", diff)
	}
	wantUpper := map[string]string{
		".": "dir 751 0:0", "tmp": "dir 755 0:0", "tmp/new": "file 644 0:0 x", "home": "dir 755 0:0", "home/u": "dir 700 1000:1001", "home/u/new": "file 644 0:0 x",
		"gone": "char 0", "file": "char 0", "opq": "dir 755 0:0 opaque=y", "opq/new": "file 644 0:0 x",
		"again": "dir 755 0:0 opaque=y", "again/new": "file 644 0:0 x", "both": "file 644 0:0 x", "later": "dir 755 0:0 opaque=y", "refile": "file 644 0:0 x",
	}
	if diff := cmp.Diff(wantUpper, look(t, layers[0])); diff != "" {
		t.Errorf("upper layer (-want +got):\n%s", diff)
	}
	var a, b unix.Stat_t
	if err := unix.Lstat(filepath.Join(layers[1], "su"), &a); err != nil {
		t.Fatal(err)
	}
	if err := unix.Lstat(filepath.Join(layers[1], "su2"), &b); err != nil || a.Ino != b.Ino {
		t.Errorf("su2 is no hard link to su (%v)", err)
	}
	if a.Mtim.Sec != 1000 {
		t.Errorf("time %d, want 1000", a.Mtim.Sec)
	}
	testOverlay(t, layers)
}

// testOverlay mounts the layers and looks at what a container would see.
func testOverlay(t *testing.T, layers []string) {
	t.Helper()
	at := t.TempDir()
	if err := unix.Mount("overlay", at, "overlay", unix.MS_RDONLY, "lowerdir="+strings.Join(layers, ":")); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := unix.Unmount(at, 0); err != nil {
			t.Error(err)
		}
	}()
	got := look(t, at)
	for _, gone := range []string{"gone", "file", "opq/old"} {
		if s, ok := got[gone]; ok {
			t.Errorf("%s is still there: %s", gone, s)
		}
	}
	for _, there := range []string{"tmp/new", "opq/new", "home/u/f", "home/u/new", "again/new", "su"} {
		if _, ok := got[there]; !ok {
			t.Errorf("%s is missing", there)
		}
	}
}

func TestExtendedAttributes(t *testing.T) {
	const capability = "\x01\x00\x00\x02\x00\x04\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00" // cap_net_bind_service
	layers, err := unpack(t, t.TempDir(), imagetest.Tar(t, with(reg("ping"), func(h *tar.Header) {
		h.Uid = 7
		h.Size = 0
		h.PAXRecords = map[string]string{
			"SCHILY.xattr.security.capability": capability, "SCHILY.xattr.user.note": "n", "SCHILY.xattr.security.selinux": "label",
		}
	})))
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(layers[0], "ping")
	b := make([]byte, 64)
	for name, want := range map[string]string{"security.capability": capability, "user.note": "n"} {
		if n, err := unix.Lgetxattr(file, name, b); err != nil || string(b[:max(n, 0)]) != want {
			t.Errorf("%s = %q, %v", name, b[:max(n, 0)], err)
		}
	}
}

// FuzzUnpack unpacks foreign bytes and checks that nothing was written beside.
func FuzzUnpack(f *testing.F) {
	f.Add(imagetest.Tar(f, reg("a/b"), reg(".wh.c"), imagetest.Entry("l", tar.TypeSymlink, "/etc"), imagetest.Entry("h", tar.TypeLink, "a/b")))
	f.Add(imagetest.Tar(f, imagetest.Entry("l", tar.TypeSymlink, "../.."), reg("l/x")))
	f.Add(imagetest.Tar(f, reg("../../x"), reg("/x"), dir("a/../..")))
	f.Add([]byte{0x1f, 0x8b, 8, 0})
	f.Add([]byte{0x28, 0xb5, 0x2f, 0xfd, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		top, err := os.MkdirTemp("/dev/shm", "tero-fuzz-") //nolint:usetesting // durable writes are cheap there
		if err != nil {
			t.Fatal(err)
		}
		defer func() {
			if err := os.RemoveAll(top); err != nil {
				t.Error(err)
			}
		}()
		l := Layer{Digest: digest.FromBytes(b), DiffID: digest.FromBytes(b)}
		limits := Limits{Bytes: 1 << 20, Entries: 100}
		_, _ = Unpack(t.Context(), bytes.NewReader(b), filepath.Join(top, "layer"), l, nil, limits)
		entries, err := os.ReadDir(top)
		if err != nil || len(entries) > 1 {
			t.Fatalf("beside the layer: %v, %v", entries, err)
		}
	})
}
