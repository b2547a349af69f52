package layer

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"tero.internal/common/fault"
	"tero.internal/runtime/internal/stream"
)

// The names by which layers delete files of lower ones (image-spec, layer.md).
const (
	whiteoutPrefix = ".wh."
	whiteoutOpaque = ".wh..wh..opq"
	whiteoutAUFS   = ".wh..wh." // marks of aufs; of no meaning to others
)

// Bounds on names: the kernel's own, and a depth beyond any use.
const (
	maxNameBytes = 255
	maxPathBytes = 4095
	maxPathDepth = 128
)

// syncEach is up to how many files are made durable one by one. Above it one
// syncfs is cheaper; below, syncfs would wait for everybody else's writes.
const syncEach = 64

// unpacker is the state of one layer's unpacking.
type unpacker struct {
	layer  Layer
	lower  []string
	limits Limits
	root   int // descriptor of the layer's folder
	buf    []byte

	parent   string // the folder that parentFD is open on
	parentFD int    // -1: none

	rooted   bool // the tar has an entry for the root folder
	bytes    int64
	count    int // entries, and folders made without one
	files    int
	unsynced bool // more files than syncEach: finish syncs the file system
	folders  []folder
}

// folder is one whose times are set at the end, after its content.
type folder struct {
	name  string
	mtime time.Time
}

func (u *unpacker) close() {
	u.leaveParent()
	_ = unix.Close(u.root)
}

// refuse is the fault for an entry that cannot be unpacked safely.
func (u *unpacker) refuse(name, format string, args ...any) error {
	return fault.New(fault.Invalid, "layer %s: entry %q: "+format, append([]any{u.layer.Digest, name}, args...)...).
		WithHint("the image is malicious or was made by a faulty tool; nothing of it was stored")
}

func (u *unpacker) entries(tr *tar.Reader) error {
	for {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return corrupt(u.layer, err)
		}
		if err := u.countOne(); err != nil {
			return err
		}
		if h.Typeflag == tar.TypeXGlobalHeader {
			continue // git-archive's comment
		}
		if err := u.entry(h, tr); err != nil {
			return err
		}
	}
}

// countOne counts an entry, or a folder that only a name implies: of those one
// entry can make as many as its name is deep.
func (u *unpacker) countOne() error {
	if u.count++; u.count > u.limits.Entries {
		return fault.New(fault.Invalid, "layer %s has more than %d entries, with the folders that their names imply", u.layer.Digest, u.limits.Entries)
	}
	return nil
}

// cleanName checks an entry's name and gives its one plain form: "" for the root.
func (u *unpacker) cleanName(name string) (string, error) {
	switch {
	case len(name) > maxPathBytes:
		return "", u.refuse(name[:64]+"...", "the name is longer than %d bytes", maxPathBytes)
	case strings.HasPrefix(name, "/"):
		return "", u.refuse(name, "the name is absolute")
	case strings.ContainsRune(name, 0):
		return "", u.refuse(name, "the name holds a NUL byte")
	}
	depth := 0
	for part := range strings.SplitSeq(name, "/") {
		if part == ".." {
			return "", u.refuse(name, "the name leads upwards")
		}
		if len(part) > maxNameBytes {
			return "", u.refuse(name[:64]+"...", "a part of the name is longer than %d bytes", maxNameBytes)
		}
		if part != "" && part != "." {
			depth++
		}
	}
	if depth > maxPathDepth {
		return "", u.refuse(name, "the name is more than %d folders deep", maxPathDepth)
	}
	if clean := path.Clean(name); clean != "." {
		return clean, nil
	}
	return "", nil
}

func (u *unpacker) entry(h *tar.Header, r io.Reader) error {
	name, err := u.cleanName(h.Name)
	if err != nil {
		return err
	}
	if h.Uid < 0 || h.Gid < 0 || int64(h.Uid) >= 1<<32-1 || int64(h.Gid) >= 1<<32-1 {
		return u.refuse(h.Name, "owner %d:%d cannot be", h.Uid, h.Gid)
	}
	if len(h.Linkname) > maxPathBytes {
		return u.refuse(h.Name, "the link's target is longer than %d bytes", maxPathBytes)
	}
	if name == "" {
		if h.Typeflag != tar.TypeDir {
			return u.refuse(h.Name, "the root is not a folder")
		}
		u.rooted = true
		u.folders = append(u.folders, folder{"", h.ModTime})
		return u.attributes(u.root, h)
	}
	dir, base := path.Split(name)
	parent, err := u.enter(strings.TrimSuffix(dir, "/"), h.Name)
	if err != nil {
		return err
	}
	if strings.HasPrefix(base, whiteoutPrefix) {
		return u.whiteout(parent, base, h.Name)
	}
	switch h.Typeflag {
	case tar.TypeDir:
		return u.directory(parent, name, base, h)
	case tar.TypeReg, tar.TypeGNUSparse:
		return u.file(parent, base, h, r)
	case tar.TypeSymlink:
		return u.symlink(parent, base, h)
	case tar.TypeLink:
		return u.hardLink(parent, base, h)
	case tar.TypeFifo:
		if err := u.claim(parent, base, h.Name, func() error { return unix.Mknodat(parent, base, unix.S_IFIFO|0o600, 0) }); err != nil {
			return err
		}
		return u.ownAndTime(parent, base, h, true)
	case tar.TypeChar, tar.TypeBlock:
		return u.refuse(h.Name, "device nodes are not unpacked")
	}
	return u.refuse(h.Name, "entries of type %q are not unpacked", h.Typeflag)
}

// claim makes something under a name that must be free, or whited out by this
// very layer: a whiteout is about lower layers only.
func (u *unpacker) claim(parent int, base, name string, create func() error) error {
	err := create()
	if !errors.Is(err, unix.EEXIST) {
		return err
	}
	white, err := isWhiteout(parent, base)
	if err != nil {
		return err
	}
	if !white {
		return u.refuse(name, "the layer has this name twice")
	}
	if err := unix.Unlinkat(parent, base, 0); err != nil {
		return err
	}
	return create()
}

// isWhiteout tells whether a name is a whiteout; devices are nothing else here.
func isWhiteout(parent int, base string) (bool, error) {
	var st unix.Stat_t
	if err := unix.Fstatat(parent, base, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return false, err
	}
	return st.Mode&unix.S_IFMT == unix.S_IFCHR && st.Rdev == 0, nil
}

func (u *unpacker) file(parent int, base string, h *tar.Header, r io.Reader) error {
	// The header's size counts: that of a sparse file goes far beyond its stream.
	if h.Size > u.limits.Bytes-u.bytes {
		return fault.New(fault.Invalid, "layer %s unpacks to more than %d bytes, the limit", u.layer.Digest, u.limits.Bytes)
	}
	u.bytes += h.Size
	fd := -1
	err := u.claim(parent, base, h.Name, func() (err error) {
		fd, err = unix.Openat(parent, base, unix.O_CREAT|unix.O_EXCL|unix.O_WRONLY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
		return err
	})
	if err != nil {
		return err
	}
	f := os.NewFile(uintptr(fd), base)
	defer f.Close()
	if _, err := io.CopyBuffer(struct{ io.Writer }{f}, struct{ io.Reader }{stream.MarkErrors(r)}, u.buf); err != nil {
		if stream.IsReadError(err) {
			return corrupt(u.layer, fmt.Errorf("%s: %w", h.Name, err))
		}
		return err
	}
	if err := u.attributes(fd, h); err != nil {
		return err
	}
	if u.files++; u.files > syncEach {
		u.unsynced = true
	} else if err := f.Sync(); err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	return setTimes(parent, base, h.ModTime)
}

func (u *unpacker) directory(parent int, name, base string, h *tar.Header) error {
	fd, _, err := u.makeDir(parent, base, h.Name)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	u.folders = append(u.folders, folder{name, h.ModTime})
	return u.attributes(fd, h)
}

// makeDir makes a folder, or takes the one that is there. A folder in the
// place of a whiteout hides all that lower layers have there.
func (u *unpacker) makeDir(parent int, base, name string) (fd int, made bool, err error) {
	err = unix.Mkdirat(parent, base, 0o755)
	made = err == nil
	opaque := false
	if errors.Is(err, unix.EEXIST) {
		if opaque, err = isWhiteout(parent, base); err != nil {
			return -1, false, err
		}
		if opaque {
			if err := unix.Unlinkat(parent, base, 0); err != nil {
				return -1, false, err
			}
			err = unix.Mkdirat(parent, base, 0o755)
			made = err == nil
		}
	}
	if err != nil {
		return -1, false, err
	}
	fd, err = unix.Openat(parent, base, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ELOOP) {
		var st unix.Stat_t
		if unix.Fstatat(parent, base, &st, unix.AT_SYMLINK_NOFOLLOW) == nil && st.Mode&unix.S_IFMT == unix.S_IFLNK {
			return -1, false, u.refuse(name, "the name leads through %q, a symbolic link", base)
		}
		return -1, false, u.refuse(name, "%q is a folder here and something else before", base)
	}
	if err != nil {
		return -1, false, err
	}
	if opaque {
		err = unix.Fsetxattr(fd, "trusted.overlay.opaque", []byte("y"), 0)
	}
	if err != nil {
		_ = unix.Close(fd)
	}
	return fd, made, err
}

func (u *unpacker) symlink(parent int, base string, h *tar.Header) error {
	// The target is data: nothing here follows it, and in a container it
	// resolves within the container's root.
	if h.Linkname == "" || strings.ContainsRune(h.Linkname, 0) {
		return u.refuse(h.Name, "the symbolic link's target is empty or holds a NUL byte")
	}
	if err := u.claim(parent, base, h.Name, func() error { return unix.Symlinkat(h.Linkname, parent, base) }); err != nil {
		return err
	}
	return u.ownAndTime(parent, base, h, false)
}

func (u *unpacker) hardLink(parent int, base string, h *tar.Header) error {
	target, err := u.cleanName(h.Linkname)
	if err != nil {
		return u.refuse(h.Name, "hard link to %q, which is outside of the layer", h.Linkname)
	}
	dir, file := path.Split(target)
	from, err := u.openBeneath(path.Clean("./" + dir))
	if err != nil {
		return u.refuse(h.Name, "hard link to %q, which the layer does not have before it: %w", h.Linkname, err)
	}
	defer unix.Close(from)
	var st unix.Stat_t
	if err := unix.Fstatat(from, file, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return u.refuse(h.Name, "hard link to %q, which the layer does not have before it: %w", h.Linkname, err)
	}
	if t := st.Mode & unix.S_IFMT; t == unix.S_IFDIR || t == unix.S_IFCHR {
		return u.refuse(h.Name, "hard link to %q, which is a folder or a whiteout", h.Linkname)
	}
	return u.claim(parent, base, h.Name, func() error { return unix.Linkat(from, file, parent, base, 0) })
}

// whiteout deletes what lower layers have, in overlayfs's form: a character
// device 0:0 for a file, an attribute for a whole folder.
func (u *unpacker) whiteout(parent int, base, name string) error {
	if base == whiteoutOpaque {
		return unix.Fsetxattr(parent, "trusted.overlay.opaque", []byte("y"), 0)
	}
	if strings.HasPrefix(base, whiteoutAUFS) {
		return nil
	}
	base = strings.TrimPrefix(base, whiteoutPrefix)
	if base == "" || base == "." || base == ".." {
		return u.refuse(name, "the whiteout names no file")
	}
	err := unix.Mknodat(parent, base, unix.S_IFCHR, 0)
	if !errors.Is(err, unix.EEXIST) {
		return err
	}
	// This layer has the name as well: the whiteout is about lower layers.
	fd, err := unix.Openat(parent, base, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ELOOP) {
		return nil // a file hides the lower one as it is
	}
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return unix.Fsetxattr(fd, "trusted.overlay.opaque", []byte("y"), 0)
}
