package erofs

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// node is an inode of the image to be.
type node struct {
	mode      uint16 // with the type
	uid, gid  uint32
	nlink     uint32
	size      uint64
	mtime     int64
	mtimeNsec uint32
	xattrs    []xattr

	// Where a regular file's content is: a layer, a folder in it, a name.
	layer     int
	dir, name string

	target string // of a symbolic link
	links  []link // of a folder, by name, with "." and ".."

	// The layout, see layout.go.
	placed    bool
	nid       uint64
	inline    bool
	block     uint32
	xattrSize int
}

// link is a name in a folder.
type link struct {
	name string
	node *node
}

type xattr struct{ name, value string }

func (n *node) is(format uint32) bool { return uint32(n.mode)&unix.S_IFMT == format }

// inode is what tells hard links of one file.
type inode struct {
	layer    int
	dev, ino uint64
}

// merger makes one tree of layers, as overlayfs would show them.
type merger struct {
	ctx    context.Context //nolint:containedctx // of one Compose
	layers []int           // descriptors of their roots, uppermost first
	linked map[inode]*node
}

// found is what a folder's parts say about a name so far.
type found struct {
	node *node // nil: whited out
	// parts are the layers that show a folder, uppermost first; open while lower ones may add to it.
	parts []int
	open  bool
}

// root merges everything.
func (m *merger) root() (*node, error) {
	parts := make([]int, len(m.layers))
	for i := range m.layers {
		parts[i] = i
	}
	// Overlayfs knows no opaque root: a layer with that mark adds to those below.
	var st unix.Stat_t
	if err := unix.Fstat(m.layers[0], &st); err != nil {
		return nil, fmt.Errorf("layer 0: %w", err)
	}
	n := newNode(&st)
	var err error
	if n.xattrs, err = xattrsOf(m.layers[0], "."); err != nil {
		return nil, fmt.Errorf("layer 0: %w", err)
	}
	return n, m.fill(n, n, "", parts)
}

// fill gives a folder its links. Of several parts the uppermost says what the
// folder itself is like; what is not a folder hides all below it.
func (m *merger) fill(n, parent *node, dir string, parts []int) error {
	if err := m.ctx.Err(); err != nil {
		return err
	}
	names := map[string]*found{}
	for _, layer := range parts {
		if err := m.part(names, dir, layer); err != nil {
			return fmt.Errorf("layer %d: folder %q: %w", layer, dir, err)
		}
	}
	n.links = append(make([]link, 0, len(names)+2), link{".", n}, link{"..", parent})
	n.nlink = 2
	for _, name := range slices.Sorted(maps.Keys(names)) {
		f := names[name]
		if f.node == nil {
			continue
		}
		n.links = append(n.links, link{name, f.node})
		if !f.node.is(unix.S_IFDIR) {
			f.node.nlink++
			continue
		}
		n.nlink++
		if err := m.fill(f.node, n, path.Join(dir, name), f.parts); err != nil {
			return err
		}
	}
	// The kernel searches by bytes; a name such as "!" comes before ".".
	slices.SortFunc(n.links, func(a, b link) int { return strings.Compare(a.name, b.name) })
	return nil
}

// part adds what one layer has in a folder.
func (m *merger) part(names map[string]*found, dir string, layer int) error {
	fd, err := openBeneath(m.layers[layer], dir, unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return err
	}
	folder := os.NewFile(uintptr(fd), dir)
	defer func() { _ = folder.Close() }()
	list, err := folder.Readdirnames(-1)
	if err != nil {
		return err
	}
	for _, name := range list {
		var st unix.Stat_t
		if err := unix.Fstatat(fd, name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
			return fmt.Errorf("%q: %w", name, err)
		}
		isFolder := st.Mode&unix.S_IFMT == unix.S_IFDIR
		f := names[name]
		switch {
		case f == nil:
			if f, err = m.first(fd, layer, dir, name, &st); err != nil {
				return fmt.Errorf("%q: %w", name, err)
			}
			names[name] = f
		case f.open && isFolder:
			f.parts = append(f.parts, layer)
		default:
			f.open = false
			continue
		}
		if f.open && isFolder {
			opaque, err := isOpaque(fd, name)
			if err != nil {
				return fmt.Errorf("%q: %w", name, err)
			}
			f.open = !opaque
		}
	}
	return nil
}

// first takes the uppermost layer's word for a name.
func (m *merger) first(folder, layer int, dir, name string, st *unix.Stat_t) (_ *found, err error) {
	key := inode{layer, st.Dev, st.Ino}
	n := newNode(st)
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFCHR, unix.S_IFBLK:
		if st.Mode&unix.S_IFMT == unix.S_IFCHR && st.Rdev == 0 {
			return &found{}, nil
		}
		return nil, errors.New("it is a device node, which images do not have")
	case unix.S_IFDIR:
		n.xattrs, err = xattrsOf(folder, name)
		return &found{node: n, parts: []int{layer}, open: true}, err
	}
	if st.Nlink > 1 {
		if other := m.linked[key]; other != nil {
			return &found{node: other}, nil
		}
		m.linked[key] = n
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		n.size, n.layer, n.dir, n.name = uint64(st.Size), layer, dir, name //nolint:gosec // not negative
		n.xattrs, err = xattrsOf(folder, name)
	case unix.S_IFLNK:
		n.target, err = readLink(folder, name)
		n.size = uint64(len(n.target))
	}
	return &found{node: n}, err
}

func newNode(st *unix.Stat_t) *node {
	return &node{
		mode: uint16(st.Mode), uid: st.Uid, gid: st.Gid, //nolint:gosec // the kernel's own umode_t
		mtime: st.Mtim.Sec, mtimeNsec: uint32(st.Mtim.Nsec), //nolint:gosec // under 1e9
	}
}

func readLink(folder int, name string) (string, error) {
	var b [unix.PathMax]byte
	n, err := unix.Readlinkat(folder, name, b[:])
	return string(b[:max(n, 0)]), err
}

// openBeneath opens something in a layer. No link leads out of it, or anywhere.
func openBeneath(root int, name string, flags uint64) (int, error) {
	if name == "" {
		name = "."
	}
	for {
		fd, err := unix.Openat2(root, name, &unix.OpenHow{
			Flags:   flags | unix.O_NOFOLLOW | unix.O_CLOEXEC,
			Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS | unix.RESOLVE_NO_XDEV,
		})
		if !errors.Is(err, unix.EAGAIN) && !errors.Is(err, unix.EINTR) { // a rename elsewhere raced: openat2(2)
			return fd, err
		}
	}
}

// procPath names an entry of an open folder, for calls that take no descriptor.
func procPath(folder int, name string) string {
	return fmt.Sprintf("/proc/self/fd/%d/%s", folder, name)
}

// isOpaque knows overlayfs's mark for "lower layers are hidden".
func isOpaque(folder int, name string) (bool, error) {
	var value [1]byte
	n, err := unix.Lgetxattr(procPath(folder, name), "trusted.overlay.opaque", value[:])
	if errors.Is(err, unix.ENODATA) || errors.Is(err, unix.ENOTSUP) {
		return false, nil
	}
	if errors.Is(err, unix.ERANGE) { // longer than the "y" that there can be
		return false, nil
	}
	return n == 1 && value[0] == 'y', err
}

// xattrsOf gives the extended attributes that images have, by name: those that
// runtime/internal/layer unpacks. Labels of this machine (security.selinux) and
// overlayfs's own are none of them.
func xattrsOf(folder int, name string) ([]xattr, error) {
	file := procPath(folder, name)
	list, err := sized(func(b []byte) (int, error) { return unix.Llistxattr(file, b) })
	if errors.Is(err, unix.ENOTSUP) || len(list) == 0 && err == nil {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var out []xattr
	for key := range bytes.SplitSeq(bytes.TrimSuffix(list, []byte{0}), []byte{0}) {
		key := string(key)
		switch {
		case strings.HasPrefix(key, "user.overlay."):
			continue
		case key == "security.capability", strings.HasPrefix(key, "user."), strings.HasPrefix(key, "system.posix_acl_"):
		default:
			continue
		}
		value, err := sized(func(b []byte) (int, error) { return unix.Lgetxattr(file, key, b) })
		if err != nil {
			return nil, fmt.Errorf("extended attribute %q: %w", key, err)
		}
		if len(value) > maxXattrValue {
			return nil, fmt.Errorf("extended attribute %q has %d bytes; the most is %d", key, len(value), maxXattrValue)
		}
		out = append(out, xattr{key, string(value)})
	}
	slices.SortFunc(out, func(a, b xattr) int { return strings.Compare(a.name, b.name) })
	if size := xattrAreaSize(out); size > maxXattrArea {
		return nil, fmt.Errorf("its extended attributes take %d bytes; the most is %d", size, maxXattrArea)
	}
	return out, nil
}

// sized calls get with a buffer that is large enough.
func sized(get func([]byte) (int, error)) ([]byte, error) {
	var small [256]byte
	n, err := get(small[:])
	if !errors.Is(err, unix.ERANGE) {
		return slices.Clone(small[:max(n, 0)]), err
	}
	if n, err = get(nil); err != nil {
		return nil, err
	}
	b := make([]byte, n)
	n, err = get(b)
	return b[:max(n, 0)], err
}
