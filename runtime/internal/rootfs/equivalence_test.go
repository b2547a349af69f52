package rootfs

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"tero.internal/common/testenv"
)

// hostID is where the id range of the tests begins.
const hostID = 0x70000000

// userNS gives a user namespace with 65,536 ids from hostID on.
func userNS(tb testing.TB) *os.File {
	tb.Helper()
	cmd := exec.Command("cat")
	stdin, err := cmd.StdinPipe()
	if err != nil {
		tb.Fatal(err)
	}
	ids := []syscall.SysProcIDMap{{ContainerID: 0, HostID: hostID, Size: 1 << 16}}
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWUSER, UidMappings: ids, GidMappings: ids}
	if err := cmd.Start(); err != nil {
		tb.Fatal(err)
	}
	ns, err := os.Open("/proc/" + strconv.Itoa(cmd.Process.Pid) + "/ns/user")
	if err := errors.Join(err, stdin.Close(), cmd.Wait()); err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = ns.Close() })
	return ns
}

// compose makes the image of layers in a file that is removed with the test.
func compose(tb testing.TB, s *Scaffold, layers []string) string {
	tb.Helper()
	f, err := os.Create(filepath.Join(tb.TempDir(), "image"))
	if err != nil {
		tb.Fatal(err)
	}
	_, err = s.Compose(tb.Context(), f, layers)
	if err := errors.Join(err, f.Close()); err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { s.Forget(f.Name()) })
	return f.Name()
}

// memory gives a folder on a tmpfs, where making layers is quick.
func memory(tb testing.TB) string {
	tb.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "tero-test-") //nolint:usetesting // see above
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			tb.Error(err)
		}
	})
	return dir
}

// needComposed ends a test where the kernel cannot mount composed images (before 6.15).
func needComposed(tb testing.TB) {
	tb.Helper()
	if err := scaffold(tb).Probe(tb.Context(), tb.TempDir()); err != nil {
		testenv.Lacks(tb, err)
	}
}

func scaffold(tb testing.TB) *Scaffold {
	tb.Helper()
	s, err := OpenScaffold(memory(tb))
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(s.Close)
	return s
}

// walk describes all that is in a root, by path.
func walk(tb testing.TB, root *os.File) map[string]string {
	tb.Helper()
	top := fmt.Sprintf("/proc/self/fd/%d/.", root.Fd())
	out := map[string]string{}
	names := map[uint64][]string{} // by inode
	links := map[string]unix.Stat_t{}
	err := filepath.WalkDir(top, func(path string, _ fs.DirEntry, err error) error {
		var st unix.Stat_t
		if e := unix.Lstat(path, &st); errors.Is(e, unix.ENOENT) {
			return nil // overlayfs lists whiteouts in folders that only one layer has
		} else if err := errors.Join(err, e); err != nil {
			return err
		}
		name := strings.TrimPrefix(path, strings.TrimSuffix(top, "/."))
		out[name], err = describe(path, &st)
		if st.Mode&unix.S_IFMT != unix.S_IFDIR {
			names[st.Ino] = append(names[st.Ino], name)
			links[name] = st
		}
		return err
	})
	if err != nil {
		tb.Fatal(err)
	}
	for name, st := range links {
		out[name] += " links=" + strings.Join(names[st.Ino], ",")
		if fsType(tb, root) == unix.EROFS_SUPER_MAGIC_V1 && int(st.Nlink) != len(names[st.Ino]) {
			tb.Errorf("%s has %d links, of which %q are seen", name, st.Nlink, names[st.Ino]) // overlayfs counts hidden ones
		}
	}
	return out
}

func fsType(tb testing.TB, f *os.File) int64 {
	tb.Helper()
	var st unix.Statfs_t
	if err := unix.Fstatfs(int(f.Fd()), &st); err != nil {
		tb.Fatal(err)
	}
	return st.Type
}

func describe(path string, st *unix.Stat_t) (string, error) {
	s := fmt.Sprintf("mode=%o owner=%d:%d mtime=%d.%09d", st.Mode, st.Uid, st.Gid, st.Mtim.Sec, st.Mtim.Nsec)
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		b, err := os.ReadFile(path)
		if err != nil {
			return "", err
		}
		s += fmt.Sprintf(" size=%d content=%x", st.Size, sha256.Sum256(b))
	case unix.S_IFLNK:
		target, err := os.Readlink(path)
		if err != nil {
			return "", err
		}
		s += fmt.Sprintf(" size=%d target=%s", st.Size, target)
	}
	buf := make([]byte, 8<<10)
	n, err := unix.Llistxattr(path, buf)
	if err != nil {
		return "", fmt.Errorf("list xattrs of %s: %w", path, err)
	}
	keys := strings.FieldsFunc(string(buf[:n]), func(r rune) bool { return r == 0 })
	slices.Sort(keys)
	for _, key := range keys {
		n, err := unix.Lgetxattr(path, key, buf)
		if err != nil {
			return "", fmt.Errorf("xattr %s of %s: %w", key, path, err)
		}
		s += fmt.Sprintf(" %s=%x", key, buf[:n])
	}
	return s, nil
}

// equal holds the composed image of layers against their overlay.
func equal(tb testing.TB, s *Scaffold, ns *os.File, layers []string) map[string]string {
	tb.Helper()
	stacked, err := s.Mount(Options{Layers: layers, UserNS: ns, NoSuid: true})
	if err != nil {
		tb.Fatal(err)
	}
	defer func() { _ = stacked.Close() }()
	composed, err := s.Mount(Options{Erofs: compose(tb, s, layers), UserNS: ns, NoSuid: true})
	if err != nil {
		tb.Fatal(err)
	}
	defer func() { _ = composed.Close() }()
	if got := fsType(tb, composed); got != unix.EROFS_SUPER_MAGIC_V1 {
		tb.Errorf("the composed root is of file system %x", got)
	}
	got := walk(tb, composed)
	want := walk(tb, stacked)
	for name := range want {
		if want[name] != got[name] {
			tb.Errorf("%q is in the overlay  %s\nand in the image %s", name, want[name], got[name])
		}
	}
	for name := range got {
		if _, ok := want[name]; !ok {
			tb.Errorf("%q is in the image alone: %s", name, got[name])
		}
	}
	return got
}

func TestComposedLikeOverlay(t *testing.T) {
	needComposed(t)
	s := scaffold(t)
	got := equal(t, s, userNS(t), zoo(t))
	for _, name := range []string{"/gone", "/other/hidden", "/again/old", "/opaque/old", "/merged/a", "/sandwich/low", "/never/was", "/etc/hosts/folder"} {
		if s, ok := got[name]; ok {
			t.Errorf("%s is there: %s", name, s)
		}
	}
	for _, name := range []string{"/merged/sub/c", "/opaque/newer", "/sandwich/high", "/file-then-folder/in", "/etc/passwd", "/many/0999-" + strings.Repeat("n", 199), "/proc", "/tmp"} {
		if _, ok := got[name]; !ok {
			t.Errorf("%s is missing", name)
		}
	}
	for name, want := range map[string]string{"/hard/a": "links=/hard/a,/hard/b,/other/c", "/modes/f2": "mode=104755", "/etc/resolv.conf": "mode=100644"} {
		if !strings.Contains(got[name], want) {
			t.Errorf("%s is %s, want %s", name, got[name], want)
		}
	}
}

// TestComposedAtRandom makes layers of few names, so that they meet.
func TestComposedAtRandom(t *testing.T) {
	needComposed(t)
	s, ns := scaffold(t), userNS(t)
	for seed := range uint64(40) {
		t.Run(strconv.FormatUint(seed, 10), func(t *testing.T) {
			rng := rand.New(rand.NewPCG(seed, 1))
			steps := make([]byte, 200)
			for i := range steps {
				steps[i] = byte(rng.Uint32())
			}
			equal(t, s, ns, grow(t, steps))
		})
	}
}

func FuzzComposedLikeOverlay(f *testing.F) {
	needComposed(f)
	f.Add([]byte("0123456789abcdefghijklmnopqrstuvwxyz"))
	s, ns := scaffold(f), userNS(f)
	f.Fuzz(func(t *testing.T, steps []byte) {
		equal(t, s, ns, grow(t, steps[:min(len(steps), 400)]))
	})
}
