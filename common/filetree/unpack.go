package filetree

import (
	"archive/tar"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"tero.internal/common/fault"
)

// Unpack writes the entries of a tar beneath a target. Files are written under
// another name and then named, in place of what was there; folders that are there
// already stay as they are. With owners, files get the owners that the tar tells,
// else this process's. Devices, sockets and pipes are left out.
func Unpack(r io.Reader, t *Target, owners bool) (Summary, error) {
	u := &unpacker{target: t, owners: owners, parentFD: -1, in: &counted{r: r}}
	defer u.leave()
	raw, err := t.folder.SyscallConn()
	if err != nil {
		return Summary{}, err
	}
	var failed error
	if err := raw.Control(func(fd uintptr) {
		u.root = int(fd)
		failed = u.entries(tar.NewReader(u.in))
	}); err != nil {
		return u.summary, err
	}
	if failed == nil && u.summary.Entries == 0 && t.name != "" {
		failed = fault.New(fault.Corrupt, "the archive is empty")
	}
	return u.summary, failed
}

type unpacker struct {
	target *Target
	owners bool
	root   int
	in     *counted

	parent   string // what parentFD is open on
	parentFD int    // -1: none

	folders []made
	summary Summary
}

// made is a folder that was made here. Its mode and time are set at the end, after its content.
type made struct {
	name  string
	mode  uint32
	mtime time.Time
}

func (u *unpacker) leave() {
	if u.parentFD >= 0 {
		_ = unix.Close(u.parentFD)
		u.parentFD = -1
	}
}

func (u *unpacker) entries(tr *tar.Reader) error {
	for {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return fault.New(fault.Corrupt, "the archive cannot be read: %w", err)
		}
		if h.Typeflag == tar.TypeXGlobalHeader {
			continue
		}
		if u.summary.Entries++; u.summary.Entries > MaxEntries {
			return fault.New(fault.Exhausted, "the archive has more than %d entries", MaxEntries)
		}
		name, err := u.name(h.Name)
		if err != nil {
			return err
		}
		if err := u.entry(tr, h, name); err != nil {
			return explain("write", h.Name, err)
		}
	}
	u.leave()
	for _, m := range slices.Backward(u.folders) {
		if err := u.finish(m); err != nil {
			return explain("write", m.name, err)
		}
	}
	return nil
}

// name checks an entry's name and gives it as it is beneath the target; "" for
// the target's folder itself.
func (u *unpacker) name(name string) (string, error) {
	bad := func(why string) error {
		return fault.New(fault.Corrupt, "the archive has an entry %q, which %s", name, why).WithHint("it was made to do harm, or by a faulty tool")
	}
	clean := path.Clean(name)
	switch {
	case name == "" || len(name) > maxPath+1 || strings.ContainsRune(name, 0):
		return "", bad("is no name")
	case path.IsAbs(name) || clean == ".." || strings.HasPrefix(clean, "../"):
		return "", bad("leads out of it")
	case strings.Count(clean, "/") > maxDepth+1:
		return "", bad("is nested too deep")
	}
	t := u.target
	if clean == "." {
		if t.name != "" && !t.contents {
			return "", bad("is not what was asked for")
		}
		return t.name, nil
	}
	for part := range strings.SplitSeq(clean, "/") {
		if len(part) > maxName {
			return "", bad("is no name")
		}
	}
	if t.name == "" || t.contents {
		return path.Join(t.name, clean), nil
	}
	_, rest, _ := strings.Cut(clean, "/")
	return path.Join(t.name, rest), nil
}

func (u *unpacker) entry(r io.Reader, h *tar.Header, name string) error {
	if name == "" {
		if h.Typeflag != tar.TypeDir {
			return unix.EISDIR
		}
		return nil
	}
	switch h.Typeflag {
	case tar.TypeDir, tar.TypeReg, tar.TypeSymlink, tar.TypeLink, tar.TypeGNUSparse:
	default:
		u.summary.Entries--
		u.summary.Skipped++
		return nil
	}
	dir, base := path.Split(name)
	parent, err := u.enter(strings.TrimSuffix(dir, "/"))
	if err != nil {
		return err
	}
	if h.Typeflag == tar.TypeDir {
		return u.folder(parent, base, name, h)
	}
	temporary := ".tero-" + rand.Text()
	switch h.Typeflag {
	case tar.TypeSymlink:
		err = u.symlink(parent, temporary, h)
	case tar.TypeLink:
		err = u.link(parent, temporary, h)
	default:
		err = u.file(r, parent, temporary, h)
	}
	if err == nil {
		err = unix.Renameat(parent, temporary, parent, base)
		if err == nil && h.Typeflag == tar.TypeLink { // rename does nothing for two names of one file
			_ = unix.Unlinkat(parent, temporary, 0)
		}
	}
	if err != nil {
		_ = unix.Unlinkat(parent, temporary, 0)
	}
	return err
}

// enter opens the folder of an entry, and makes what is missing of it. The
// descriptor is good until the next call.
func (u *unpacker) enter(dir string) (int, error) {
	if u.parentFD >= 0 && u.parent == dir {
		return u.parentFD, nil
	}
	u.leave()
	fd, err := openat2(u.root, dir, unix.O_PATH|unix.O_DIRECTORY, beneath)
	if errors.Is(err, unix.ENOENT) {
		fd, err = u.makeFolders(dir)
	}
	if err != nil {
		return -1, err
	}
	if foreign, err := kernels(fd); err != nil || foreign {
		_ = unix.Close(fd)
		if err == nil {
			err = onKernels(dir)
		}
		return -1, err
	}
	u.parent, u.parentFD = dir, fd
	return fd, nil
}

// makeFolders makes the folders that an archive has no entries for.
func (u *unpacker) makeFolders(dir string) (int, error) {
	at, err := openat2(u.root, ".", unix.O_PATH|unix.O_DIRECTORY, beneath)
	for part := range strings.SplitSeq(dir, "/") {
		if err != nil {
			return -1, err
		}
		if err = unix.Mkdirat(at, part, 0o755); errors.Is(err, unix.EEXIST) {
			err = nil
		}
		next := -1
		if err == nil {
			next, err = openat2(at, part, unix.O_PATH|unix.O_DIRECTORY, beneath)
		}
		_ = unix.Close(at)
		at = next
	}
	return at, err
}

// folder makes a folder, open to this process alone until all is in it.
func (u *unpacker) folder(parent int, base, name string, h *tar.Header) error {
	err := unix.Mkdirat(parent, base, 0o700)
	if errors.Is(err, unix.EEXIST) {
		fd, err := openat2(parent, base, unix.O_PATH|unix.O_DIRECTORY, beneath)
		if err == nil {
			_ = unix.Close(fd)
		}
		return err
	}
	if err != nil {
		return err
	}
	if u.owners {
		if err := unix.Fchownat(parent, base, h.Uid, h.Gid, unix.AT_SYMLINK_NOFOLLOW); err != nil {
			return err
		}
	}
	u.folders = append(u.folders, made{name, uint32(h.Mode) & folderBits, h.ModTime}) //nolint:gosec // masked
	return nil
}

// finish sets what of a folder only holds when its content is there. One that
// somebody took away meanwhile is nobody's concern.
func (u *unpacker) finish(m made) error {
	fd, err := openat2(u.root, m.name, unix.O_RDONLY|unix.O_DIRECTORY, beneath)
	if err != nil {
		if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ELOOP) || errors.Is(err, unix.ENOTDIR) {
			return nil
		}
		return err
	}
	defer func() { _ = unix.Close(fd) }()
	return errors.Join(unix.Fchmod(fd, m.mode), setTime(fd, "", m.mtime))
}

func (u *unpacker) file(r io.Reader, parent int, temporary string, h *tar.Header) error {
	fd, err := unix.Openat(parent, temporary, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return err
	}
	f := os.NewFile(uintptr(fd), h.Name)
	defer func() { _ = f.Close() }()
	n, err := u.copySparse(f, r)
	u.summary.Bytes += n
	if err != nil {
		return err
	}
	if u.owners {
		if err := f.Chown(h.Uid, h.Gid); err != nil {
			return err
		}
	}
	if err := f.Chmod(os.FileMode(h.Mode & fileBits)); err != nil {
		return err
	}
	if err := setTime(fd, "", h.ModTime); err != nil {
		return err
	}
	return f.Close() // a full disk of a network may show here only
}

func (u *unpacker) symlink(parent int, temporary string, h *tar.Header) error {
	if err := unix.Symlinkat(h.Linkname, parent, temporary); err != nil {
		return err
	}
	if u.owners {
		if err := unix.Fchownat(parent, temporary, h.Uid, h.Gid, unix.AT_SYMLINK_NOFOLLOW); err != nil {
			return err
		}
	}
	return setTime(parent, temporary, h.ModTime)
}

// link gives a file that is beneath the target a further name.
func (u *unpacker) link(parent int, temporary string, h *tar.Header) error {
	name, err := u.name(h.Linkname)
	if err != nil || name == "" {
		return errors.Join(err, fmt.Errorf("link to %q: %w", h.Linkname, unix.EINVAL))
	}
	dir, base := path.Split(name)
	from, err := openat2(u.root, strings.TrimSuffix(dir, "/"), unix.O_PATH|unix.O_DIRECTORY, beneath)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(from) }()
	return unix.Linkat(from, base, parent, temporary, 0)
}

func setTime(dir int, name string, t time.Time) error {
	ts, err := unix.TimeToTimespec(t)
	if err != nil {
		return fault.New(fault.Corrupt, "the archive has the time %v", t)
	}
	flags := unix.AT_SYMLINK_NOFOLLOW
	if name == "" {
		flags = unix.AT_EMPTY_PATH
	}
	return unix.UtimesNanoAt(dir, name, []unix.Timespec{ts, ts}, flags)
}

// block is how much of a file is a hole when it is zeros: what a disk has in one piece.
const block = 4096

// copySparse copies r to f, with holes for blocks of zeros, so that a file of
// nothing takes no room.
func (u *unpacker) copySparse(f *os.File, r io.Reader) (int64, error) {
	buf := make([]byte, 64*block)
	began := u.in.n
	for at := int64(0); ; {
		n, err := fill(r, buf)
		if at-(u.in.n-began) > maxHoles {
			return at, fault.New(fault.Exhausted, "the file has holes of more than %d bytes in the archive", int64(maxHoles))
		}
		for begin := 0; begin < n; begin += block {
			piece := buf[begin:min(begin+block, n)]
			if zero(piece) {
				continue
			}
			if _, err := f.WriteAt(piece, at+int64(begin)); err != nil {
				return at, err
			}
		}
		at += int64(n)
		if errors.Is(err, io.EOF) {
			return at, f.Truncate(at)
		}
		if err != nil {
			return at, fault.New(fault.Corrupt, "the archive ends within a file: %w", err)
		}
	}
}

// maxHoles bounds what a file may have of zeros that are not in the archive: a
// few bytes there can stand for any number.
const maxHoles = 1 << 30

// counted counts what is read.
type counted struct {
	r io.Reader
	n int64
}

// Read reads.
func (c *counted) Read(b []byte) (int, error) {
	n, err := c.r.Read(b)
	c.n += int64(n)
	return n, err
}

// fill reads until buf is full or r ends, and gives r's own word then: io.EOF at
// the end of an entry, another within one.
func fill(r io.Reader, buf []byte) (n int, err error) {
	for n < len(buf) && err == nil {
		var k int
		k, err = r.Read(buf[n:])
		n += k
	}
	return n, err
}

func zero(b []byte) bool {
	for _, c := range b {
		if c != 0 {
			return false
		}
	}
	return true
}
