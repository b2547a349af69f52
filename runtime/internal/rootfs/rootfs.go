// Package rootfs makes the root file systems of containers: the image's layers,
// seen through the container's id map, between two small layers of our own.
//
//	upper       the container's own, when its root may be written
//	files       /etc/hosts, resolv.conf and hostname as regular files, whatever the
//	            image has there, for the container's own to be mounted over
//	image       its layers, uppermost first
//	points      mount points that the configuration asks for, when there are such
//	scaffold    /proc, /sys, /dev, /tmp ...: an image may be a single binary
//
// Where the kernel can, files, image and scaffold are composed into one EROFS
// image ahead of time (Compose), which is mounted once; a read-only root without
// points is a clone of that mount, and nothing else. Every other root is an
// overlay: of a clone, or of the folders of all layers.
//
// Clones and overlays are nowhere in the file system, so that they vanish with
// their last user.
package rootfs

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// Scaffold are the layers that all containers share.
type Scaffold struct {
	files, bottom string
	byPath        atomic.Bool // whether the kernel was found to need Options.ByPath
	images        images
}

// EtcFiles are the files of a container that the host writes, by their paths inside.
func EtcFiles() []string { return []string{"/etc/hosts", "/etc/resolv.conf", "/etc/hostname"} }

// folders of the scaffold with their modes.
func folders() map[string]fs.FileMode {
	return map[string]fs.FileMode{
		"proc": 0o555, "sys": 0o555, "dev": 0o755, "etc": 0o755, "run": 0o755, "tmp": 0o777 | fs.ModeSticky,
	}
}

// OpenScaffold makes the shared layers in dir, or finds them there.
func OpenScaffold(dir string) (*Scaffold, error) {
	s := &Scaffold{files: filepath.Join(dir, "files"), bottom: filepath.Join(dir, "scaffold")}
	for name, mode := range folders() {
		if err := mkdir(filepath.Join(s.bottom, name), mode); err != nil {
			return nil, fmt.Errorf("make the scaffold: %w", err)
		}
	}
	if err := mkdir(filepath.Join(s.files, "etc"), 0o755); err != nil {
		return nil, fmt.Errorf("make the scaffold: %w", err)
	}
	for _, d := range []string{s.files, s.bottom} {
		if err := os.Chmod(d, 0o755); err != nil { //nolint:gosec // the root folder inside
			return nil, fmt.Errorf("make the scaffold: %w", err)
		}
	}
	for _, name := range EtcFiles() {
		f, err := os.OpenFile(filepath.Join(s.files, name), os.O_CREATE|os.O_WRONLY, 0o644) //nolint:gosec // public inside
		if err != nil {
			return nil, fmt.Errorf("make the scaffold: %w", err)
		}
		err = errors.Join(f.Chmod(0o644), f.Close())
		if err != nil {
			return nil, fmt.Errorf("make the scaffold: %w", err)
		}
	}
	return s, s.settle()
}

// settle gives the layers the same times on every node, for the images that are
// composed with them.
func (s *Scaffold) settle() error {
	for _, dir := range []string{s.files, s.bottom} {
		err := filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			return unix.UtimesNanoAt(unix.AT_FDCWD, path, make([]unix.Timespec, 2), unix.AT_SYMLINK_NOFOLLOW)
		})
		if err != nil {
			return fmt.Errorf("make the scaffold: %w", err)
		}
	}
	return nil
}

// stack puts the layers of an image between those of our own, uppermost first.
func (s *Scaffold) stack(layers []string, points string) []string {
	out := append([]string{s.files}, layers...)
	if points != "" {
		out = append(out, points)
	}
	return append(out, s.bottom)
}

func mkdir(dir string, mode fs.FileMode) error {
	if err := os.MkdirAll(dir, 0o755); err != nil { //nolint:gosec // public inside
		return err
	}
	return os.Chmod(dir, mode)
}

// Covers tells whether the scaffold has the mount point.
func (s *Scaffold) Covers(destination string) bool {
	_, ok := folders()[strings.TrimPrefix(filepath.Clean(destination), "/")]
	return ok
}

// Options describe a root file system.
type Options struct {
	// Erofs is the file of the composed image; "" for Layers to be stacked.
	Erofs string
	// Layers are the image's, uppermost first; not used with Erofs.
	Layers []string
	// Points is a folder with further mount points, or "".
	Points string
	// Upper is the folder of the writable layer, with "upper" and "work" in it; "" for a read-only root.
	Upper string
	// Durable makes what is synced inside outlive a crash of the machine. It costs:
	// an exit once waited 190 ms for the disk.
	Durable bool
	// UserNS is a user namespace with the container's id map.
	UserNS *os.File
	// NoSuid ignores set-user-id bits.
	NoSuid bool
	// Label is the SELinux context of all files, or "" for their own.
	Label string
	// ByPath names layers instead of giving descriptors. Kernels before 6.13 need
	// it, which Mount finds out by itself; it takes a millisecond longer.
	ByPath bool
}

// The folders of a writable layer. What the container wrote is in the first; the
// second is overlayfs's own, and it goes last.
const (
	UpperDir = "upper"
	WorkDir  = "work"
)

// ReuseUpper makes a writable layer that was mounted before ready for the next
// mount: overlayfs refuses one whose last mount was volatile until that is
// acknowledged by the removal of its mark.
func ReuseUpper(dir string) error {
	if err := os.RemoveAll(filepath.Join(dir, WorkDir, "work")); err != nil {
		return fmt.Errorf("use the writable layer again: %w", err)
	}
	return nil
}

// MakeUpper makes the writable layer in dir, owned by the container's root.
func MakeUpper(dir string, owner uint32) error {
	for _, name := range []string{UpperDir, WorkDir} {
		path := filepath.Join(dir, name)
		if err := os.Mkdir(path, 0o755); err != nil { //nolint:gosec // the root folder inside
			return fmt.Errorf("make the writable layer: %w", err)
		}
		// Chmod for the umask; an idmapped upper layer would be silently read-only.
		if err := errors.Join(os.Chmod(path, 0o755), os.Lchown(path, int(owner), int(owner))); err != nil { //nolint:gosec // as above
			return fmt.Errorf("make the writable layer: %w", err)
		}
	}
	return nil
}

// Mount makes the root file system. It is mounted nowhere yet.
func (s *Scaffold) Mount(o Options) (_ *os.File, err error) {
	if o.Erofs != "" && o.Points == "" && o.Upper == "" && o.Label == "" {
		fd, err := s.cloneImage(o.Erofs, o.UserNS, o.attributes())
		if err != nil {
			return nil, err
		}
		return os.NewFile(uintptr(fd), "rootfs"), nil
	}
	layers := s.stack(o.Layers, o.Points)
	// A clone that is mounted nowhere lives as long as its descriptor, so each
	// stays open until the overlay holds it.
	var clones []int
	defer func() {
		for _, fd := range clones {
			_ = unix.Close(fd)
		}
	}()
	if o.Erofs != "" { // has ours in it
		fd, err := s.cloneImage(o.Erofs, o.UserNS, 0)
		if err != nil {
			return nil, err
		}
		clones, layers = append(clones, fd), nil
		switch {
		case o.Points != "":
			layers = []string{o.Points}
		case o.Upper == "":
			layers = []string{s.bottom} // an overlay has two layers at least
		}
	}
	for _, l := range layers {
		fd, err := Clone(l, o.UserNS, 0)
		if err != nil {
			return nil, fmt.Errorf("map the ids of layer %s: %w", l, err)
		}
		clones = append(clones, fd)
	}
	if !o.ByPath && !s.byPath.Load() {
		root, err := mountByDescriptor(clones, o)
		if !errors.Is(err, errDescriptors) {
			return root, err
		}
		s.byPath.Store(true)
	}
	return s.mountByPath(clones, o)
}

// errDescriptors is an overlay that does not take its layers by descriptor.
var errDescriptors = errors.New("the kernel's overlay takes layers by name only")

func mountByDescriptor(layers []int, o Options) (_ *os.File, err error) {
	overlay, err := unix.Fsopen("overlay", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("open overlay: %w", err)
	}
	defer func() { _ = unix.Close(overlay) }()
	for i, fd := range layers {
		err := unix.FsconfigSetFd(overlay, "lowerdir+", fd)
		if i == 0 && (errors.Is(err, unix.EINVAL) || errors.Is(err, unix.EOPNOTSUPP)) { // before 6.13, before 6.5
			return nil, errDescriptors
		}
		if err != nil {
			return nil, explain(overlay, "add layers", err)
		}
	}
	if o.Label != "" {
		if err := unix.FsconfigSetString(overlay, "context", o.Label); err != nil {
			return nil, explain(overlay, "label the files", err)
		}
	}
	if o.Upper != "" {
		if err := addUpper(overlay, o.Upper, o.Durable); err != nil {
			return nil, explain(overlay, "add the writable layer", err)
		}
	}
	if err := unix.FsconfigCreate(overlay); err != nil {
		return nil, explain(overlay, "mount overlay", err)
	}
	fd, err := unix.Fsmount(overlay, unix.FSMOUNT_CLOEXEC, int(o.attributes())) //nolint:gosec // a few bits
	if err != nil {
		return nil, explain(overlay, "mount overlay", err)
	}
	return os.NewFile(uintptr(fd), "rootfs"), nil
}

// attributes are those of the root's mount.
func (o *Options) attributes() uint64 {
	var a uint64 = unix.MOUNT_ATTR_NODEV
	if o.NoSuid {
		a |= unix.MOUNT_ATTR_NOSUID
	}
	if o.Upper == "" {
		a |= unix.MOUNT_ATTR_RDONLY
	}
	return a
}

func addUpper(overlay int, dir string, durable bool) error {
	if err := unix.FsconfigSetString(overlay, "upperdir", filepath.Join(dir, UpperDir)); err != nil {
		return err
	}
	if err := unix.FsconfigSetString(overlay, "workdir", filepath.Join(dir, WorkDir)); err != nil {
		return err
	}
	if durable {
		return nil
	}
	return unix.FsconfigSetFlag(overlay, "volatile")
}

// explain adds the kernel's own words about a file system context to an error.
func explain(fd int, doing string, err error) error {
	buf := make([]byte, 1024)
	var words []string
	for {
		n, e := unix.Read(fd, buf)
		if e != nil || n <= 0 {
			break
		}
		words = append(words, strings.TrimSpace(string(buf[:n])))
	}
	if len(words) == 0 {
		return fmt.Errorf("%s: %w", doing, err)
	}
	return fmt.Errorf("%s: %w (%s)", doing, err, strings.Join(words, "; "))
}

// Clone gives a copy of the mount at path, as seen through an id map (nil for
// none), that is mounted nowhere.
func Clone(path string, userNS *os.File, attributes uint64) (int, error) {
	return cloneAt(unix.AT_FDCWD, path, userNS, attributes)
}

// cloneAt is Clone of a path below a folder, or of the folder itself for "".
func cloneAt(dir int, path string, userNS *os.File, attributes uint64) (int, error) {
	flags := uint(unix.OPEN_TREE_CLONE | unix.OPEN_TREE_CLOEXEC)
	if path == "" {
		flags |= unix.AT_EMPTY_PATH
	}
	fd, err := unix.OpenTree(dir, path, flags)
	if err != nil {
		return -1, fmt.Errorf("clone the mount of %s: %w", cmp.Or(path, "the image"), err)
	}
	a := unix.MountAttr{Attr_set: attributes, Propagation: unix.MS_PRIVATE}
	if userNS != nil {
		a.Attr_set |= unix.MOUNT_ATTR_IDMAP
		raw, err := userNS.SyscallConn()
		if err != nil {
			_ = unix.Close(fd)
			return -1, err
		}
		if err := raw.Control(func(ns uintptr) { a.Userns_fd = uint64(ns) }); err != nil {
			_ = unix.Close(fd)
			return -1, err
		}
	}
	if err := unix.MountSetattr(fd, "", unix.AT_EMPTY_PATH, &a); err != nil {
		_ = unix.Close(fd)
		if userNS != nil && errors.Is(err, unix.EINVAL) {
			return -1, fmt.Errorf("the file system of %s has no id maps, as tmpfs before Linux 6.3: %w", cmp.Or(path, "the image"), err)
		}
		return -1, fmt.Errorf("set the attributes of %s: %w", cmp.Or(path, "the image"), err)
	}
	return fd, nil
}

// MakePoint makes a mount point in a layer of mount points: for a file, or for a folder.
func MakePoint(layer, destination string, file bool) error {
	path := filepath.Join(layer, filepath.Join("/", destination))
	if !file {
		return os.MkdirAll(path, 0o755) //nolint:gosec // public inside
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil { //nolint:gosec // public inside
		return err
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600) //nolint:gosec // a folder of ours
	if err != nil {
		return err
	}
	return f.Close()
}
