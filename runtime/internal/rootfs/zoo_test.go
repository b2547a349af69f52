package rootfs

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// builder makes the folder of a layer; paths are relative to it.
type builder struct {
	tb  testing.TB
	dir string
}

func (b builder) path(name string) string {
	path := filepath.Join(b.dir, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		b.tb.Fatal(err)
	}
	return path
}

func (b builder) do(err error) {
	b.tb.Helper()
	if err != nil {
		b.tb.Fatal(err)
	}
}

func (b builder) file(name string, size int, mode uint32) {
	b.tb.Helper()
	content := make([]byte, size)
	rng := rand.NewChaCha8(sha256.Sum256([]byte(name)))
	_, _ = rng.Read(content)
	b.do(os.WriteFile(b.path(name), content, 0o600))
	b.do(unix.Chmod(b.path(name), mode))
}

func (b builder) folder(name string, mode uint32) {
	b.do(unix.Mkdir(b.path(name), mode))
	b.do(unix.Chmod(b.path(name), mode))
}
func (b builder) link(target, name string)      { b.do(os.Symlink(target, b.path(name))) }
func (b builder) hard(from, name string)        { b.do(os.Link(b.path(from), b.path(name))) }
func (b builder) node(name string, mode uint32) { b.do(unix.Mknod(b.path(name), mode, 0)) }
func (b builder) whiteout(name string)          { b.node(name, unix.S_IFCHR) }
func (b builder) opaque(name string)            { b.xattr(name, "trusted.overlay.opaque", "y") }
func (b builder) xattr(name, key, value string) {
	b.do(unix.Lsetxattr(b.path(name), key, []byte(value), 0))
}
func (b builder) own(name string, uid, gid int) { b.do(os.Lchown(b.path(name), uid, gid)) }
func (b builder) time(name string, sec, nsec int64) {
	ts := unix.Timespec{Sec: sec, Nsec: nsec}
	b.do(unix.UtimesNanoAt(unix.AT_FDCWD, b.path(name), []unix.Timespec{ts, ts}, unix.AT_SYMLINK_NOFOLLOW))
}

// zoo makes three layers, uppermost first, with all that layers can have.
func zoo(tb testing.TB) []string {
	tb.Helper()
	top := memory(tb)
	var layers [3]builder
	var dirs []string
	for i := range layers {
		layers[i] = builder{tb, filepath.Join(top, strconv.Itoa(i))}
		if err := os.Mkdir(layers[i].dir, 0o755); err != nil {
			tb.Fatal(err)
		}
		dirs = append(dirs, layers[i].dir)
	}
	bottom, middle, up := layers[2], layers[1], layers[0]

	for _, size := range []int{0, 1, 2047, 2048, 2049, 4095, 4096, 4097, 6144, 6145, 1 << 20, 1<<20 + 1, 3<<20 + 777} {
		bottom.file(fmt.Sprintf("sizes/%d", size), size, 0o644)
	}
	for i := range 1000 { // a folder of several blocks
		bottom.file(fmt.Sprintf("many/%04d-%s", i, strings.Repeat("n", i%200)), i%3, 0o644)
	}
	for _, name := range []string{"!", " ", "-", ".hidden", "..a", "a\nb", "\xff\xfe", "é", strings.Repeat("x", 255), ".wh", "~", "A", "a"} {
		bottom.file("odd/"+name, 5, 0o644)
	}
	for i, mode := range []uint32{0, 0o777, 0o4755, 0o2755, 0o1755, 0o6711, 0o7777} {
		bottom.file(fmt.Sprintf("modes/f%d", i), 3, mode)
		bottom.folder(fmt.Sprintf("modes/d%d", i), mode)
	}
	bottom.own("modes/f0", 1000, 1001)
	bottom.own("modes/d0", 65535, 0)
	bottom.own("modes/f1", 65536, 70000) // beyond the map: the kernel shows nobody's
	for _, n := range []int{1, 100, 2048, 2049, 4095} {
		bottom.link(strings.Repeat("t", n), fmt.Sprintf("links/%d", n))
	}
	bottom.link("../../../etc/passwd", "links/up")
	bottom.own("links/up", 7, 8)
	bottom.time("links/up", 5, 6)
	bottom.node("pipe", unix.S_IFIFO|0o640)
	bottom.node("sock", unix.S_IFSOCK|0o600)
	bottom.file("hard/a", 5000, 0o644)
	bottom.hard("hard/a", "hard/b")
	bottom.hard("hard/a", "other/c")
	bottom.hard("hard/a", "other/hidden")
	bottom.link("x", "hard/link")
	bottom.hard("hard/link", "hard/link2")
	middle.whiteout("other/hidden")
	for name, content := range map[string]string{
		"x/user": "user.a=b", "x/empty": "user.empty=", "x/long": "user." + strings.Repeat("k", 200) + "=" + strings.Repeat("v", 3000),
	} {
		bottom.file(name, 100, 0o644)
		key, value, _ := strings.Cut(content, "=")
		bottom.xattr(name, key, value)
	}
	bottom.xattr("x", "user.folder", "z")
	acl := "\x02\x00\x00\x00\x01\x00\x06\x00\xff\xff\xff\xff\x02\x00\x04\x00\xe8\x03\x00\x00\x04\x00\x04\x00\xff\xff\xff\xff\x10\x00\x04\x00\xff\xff\xff\xff\x20\x00\x04\x00\xff\xff\xff\xff"
	bottom.xattr("x/user", "system.posix_acl_access", acl)
	bottom.xattr("x", "system.posix_acl_default", acl)
	bottom.file("x/cap", 10, 0o755)
	bottom.xattr("x/cap", "security.capability", "\x01\x00\x00\x02\x00\x04\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00")
	bottom.file("x/old", 1, 0o644)
	bottom.time("x/old", -1000, 999999999)
	bottom.time("x", 1<<33, 1)
	bottom.file("sparse", 0, 0o644)
	bottom.do(os.Truncate(bottom.path("sparse"), 40<<20+17))
	f, err := os.OpenFile(bottom.path("sparse"), os.O_WRONLY, 0)
	bottom.do(err)
	_, err = f.WriteAt([]byte("in the middle"), 20<<20+5)
	bottom.do(errors.Join(err, f.Close()))
	bottom.file("deep/"+strings.Repeat("d/", 100)+"f", 1, 0o644)

	// What is above: replaced, removed, made anew, merged.
	bottom.file("replaced", 10, 0o600)
	middle.file("replaced", 20, 0o644)
	bottom.file("gone/x", 1, 0o644)
	middle.whiteout("gone")
	bottom.file("again/old", 1, 0o644)
	middle.whiteout("again")
	up.file("again/new", 1, 0o644)
	bottom.file("opaque/old", 1, 0o644)
	middle.file("opaque/new", 1, 0o644)
	middle.opaque("opaque")
	up.file("opaque/newer", 1, 0o644)
	bottom.file("merged/a", 1, 0o644)
	bottom.file("merged/sub/b", 1, 0o644)
	middle.folder("merged", 0o700)
	middle.own("merged", 5, 6)
	middle.xattr("merged", "user.mine", "1")
	middle.file("merged/sub/c", 1, 0o644)
	up.whiteout("merged/a")
	up.whiteout("merged/sub/b")
	bottom.file("file-then-folder", 1, 0o644)
	middle.file("file-then-folder/in", 1, 0o644)
	bottom.file("folder-then-file/in", 1, 0o644)
	middle.file("folder-then-file", 1, 0o644)
	bottom.file("sandwich/low", 1, 0o644)
	middle.file("sandwich", 1, 0o644) // hides what is below from what is above
	up.file("sandwich/high", 1, 0o644)
	up.whiteout("never/was")
	bottom.link("/run/nowhere", "etc/resolv.conf")
	bottom.file("etc/hosts/folder", 1, 0o644)
	bottom.file("etc/passwd", 100, 0o644)
	middle.opaque(".") // overlayfs knows no opaque root
	return dirs
}

// grow makes up to four layers, uppermost first, of steps of two bytes: what to
// make, and where. Steps that do not fit what is there are passed over.
func grow(tb testing.TB, steps []byte) []string {
	tb.Helper()
	top := memory(tb)
	var dirs []string
	var b builder
	next := func() {
		b = builder{tb, filepath.Join(top, strconv.Itoa(len(dirs)))}
		b.do(os.Mkdir(b.dir, 0o755))
		dirs = append([]string{b.dir}, dirs...)
	}
	next()
	names := []string{"a", "b", "c", "etc", "proc"}
	place := func(n byte) string { // one to three names deep
		path := ""
		for depth := range int(n>>6)%3 + 1 {
			path = filepath.Join(path, names[int(n>>(2*depth))%len(names)])
		}
		return path
	}
	last := "" // file made, for hard links
	for i := 0; i+1 < len(steps); i += 2 {
		name := place(steps[i+1])
		path := filepath.Join(b.dir, name)
		if os.MkdirAll(filepath.Dir(path), 0o755) != nil {
			continue
		}
		_, err := os.Lstat(path)
		there := err == nil
		switch what := steps[i] % 16; {
		case what == 0 && len(dirs) < 4 && i > len(steps)/5*len(dirs):
			next()
			last = ""
		case what == 1 && there:
			_ = unix.Lchown(path, int(steps[i]), int(steps[i+1]))
		case there:
		case what < 4:
			b.whiteout(name)
		case what < 6:
			b.folder(name, 0o700)
			b.opaque(name)
		case what < 8:
			b.folder(name, uint32(steps[i])<<3)
		case what < 9:
			b.link("../"+place(steps[i]), name)
		case what < 10:
			b.node(name, unix.S_IFIFO|0o600)
		case what < 12 && last != "":
			b.hard(last, name)
		default:
			b.file(name, int(steps[i])*int(steps[i+1])/4, 0o644)
			b.xattr(name, "user.step", strconv.Itoa(i))
			last = name
		}
	}
	return dirs
}
