// Package grant opens what a container is given of its host: files and folders
// for bind mounts, and devices. Each is opened once, without following a
// symbolic link, and used by its descriptor from then on, so that what was
// decided on and checked is what is mounted, whatever happens to its name.
package grant

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"tero.internal/common/fault"
)

// open opens a path of the host, which may hold no symbolic link, without
// reading from it: not even a device notices.
func open(path string) (*os.File, *unix.Stat_t, error) {
	fd, err := unix.Openat2(unix.AT_FDCWD, path, &unix.OpenHow{
		Flags: unix.O_PATH | unix.O_CLOEXEC | unix.O_NOFOLLOW, Resolve: unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS,
	})
	if err != nil {
		return nil, nil, explainOpen(path, err)
	}
	f := os.NewFile(uintptr(fd), path)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		_ = f.Close()
		return nil, nil, fmt.Errorf("stat %s: %w", path, err)
	}
	if st.Mode&unix.S_IFMT == unix.S_IFLNK {
		_ = f.Close()
		return nil, nil, explainOpen(path, unix.ELOOP)
	}
	return f, &st, nil
}

func explainOpen(path string, err error) error {
	switch {
	case errors.Is(err, unix.ELOOP):
		f := fault.New(fault.Invalid, "%s is, or lies behind, a symbolic link of the node: %w", path, err)
		if real, e := filepath.EvalSymlinks(path); e == nil {
			return f.WithHint("name what it leads to, %s", real)
		}
		return f.WithHint("name what it leads to")
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ENOTDIR):
		return fault.New(fault.NotFound, "%s does not exist on the node: %w", path, err).
			WithHint("make it first, or use a volume: \"-v NAME:/path\"")
	}
	return fault.New(fault.Invalid, "%s cannot be opened on the node: %w", path, err)
}

// Source opens the source of a bind mount. protected are folders and sockets
// of TERO: neither they, nor what lies in them, nor a folder that they lie in
// may be mounted, for who writes there rules the node.
func Source(path string, protected []string) (*os.File, error) {
	if !filepath.IsAbs(path) {
		return nil, fault.New(fault.Invalid, "%q is not an absolute path of the node", path)
	}
	f, st, err := open(path)
	if err != nil {
		return nil, err
	}
	if err := check(path, f, st, protected); err != nil {
		_ = f.Close()
		return nil, err
	}
	return f, nil
}

func check(path string, f *os.File, st *unix.Stat_t, protected []string) error {
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFDIR, unix.S_IFREG, unix.S_IFSOCK, unix.S_IFIFO:
	default:
		return fault.New(fault.Invalid, "%s is a device, which a bind mount would make useless", path).
			WithHint("give it with --device %s", path)
	}
	var sys unix.Statfs_t
	if err := unix.Fstatfs(int(f.Fd()), &sys); err != nil {
		return fmt.Errorf("statfs %s: %w", path, err)
	}
	if kind, ok := kernelFileSystems()[int64(sys.Type)]; ok { //nolint:unconvert,nolintlint // 32 bits on some machines
		return fault.New(fault.Invalid, "%s lies on %s, through which the node's kernel is ruled", path, kind).
			WithHint("mount files and folders of a disk or a tmpfs")
	}
	for _, p := range protected {
		overlaps, err := overlap(path, p)
		if err != nil {
			return err
		}
		if overlaps {
			return fault.New(fault.Invalid, "%s is, holds or lies in %s, which is TERO's own: who writes there rules the node", path, p).
				WithHint("mount another folder")
		}
	}
	return nil
}

// kernelFileSystems are interfaces of the kernel, by their magic numbers.
func kernelFileSystems() map[int64]string {
	return map[int64]string{
		unix.PROC_SUPER_MAGIC: "proc", unix.SYSFS_MAGIC: "sysfs", unix.DEBUGFS_MAGIC: "debugfs", unix.TRACEFS_MAGIC: "tracefs",
		unix.SECURITYFS_MAGIC: "securityfs", unix.SELINUX_MAGIC: "selinuxfs", unix.CGROUP_SUPER_MAGIC: "a cgroup file system",
		unix.CGROUP2_SUPER_MAGIC: "a cgroup file system", unix.BPF_FS_MAGIC: "bpf", unix.EFIVARFS_MAGIC: "efivarfs",
		unix.PSTOREFS_MAGIC: "pstore", unix.NSFS_MAGIC: "nsfs", unix.BINFMTFS_MAGIC: "binfmt_misc",
		unix.DEVPTS_SUPER_MAGIC: "devpts", 0x62656570: "configfs",
	}
}

// overlap tells whether one path is the other or lies below it, also by another
// name that a bind mount of the host gives it.
func overlap(a, b string) (bool, error) {
	below, err := liesIn(a, b)
	if err != nil || below {
		return below, err
	}
	return liesIn(b, a)
}

// liesIn tells whether path is folder or lies below it. What does not exist
// lies nowhere.
func liesIn(path, folder string) (bool, error) {
	want, err := os.Stat(folder)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("look for TERO's own folders: %w", err)
	}
	path, err = filepath.EvalSymlinks(path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("look for TERO's own folders: %w", err)
	}
	for {
		st, err := os.Stat(path)
		if err == nil && os.SameFile(st, want) {
			return true, nil
		}
		if path == "/" {
			return false, nil
		}
		path = filepath.Dir(path)
	}
}

// Mount gives the file as a mount that is mounted nowhere, with attributes set
// and cleared, and its ids seen through a user namespace's map unless that is nil.
func Mount(f *os.File, set, clear uint64, userNS *os.File) (*os.File, error) {
	fd, err := unix.OpenTree(int(f.Fd()), "", unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_EMPTY_PATH)
	if err != nil {
		return nil, fmt.Errorf("clone the mount of %s: %w", f.Name(), err)
	}
	m := os.NewFile(uintptr(fd), f.Name())
	a := unix.MountAttr{Attr_set: set, Attr_clr: clear, Propagation: unix.MS_PRIVATE}
	if err := unix.MountSetattr(fd, "", unix.AT_EMPTY_PATH, &a); err != nil {
		_ = m.Close()
		return nil, fmt.Errorf("set the attributes of %s: %w", f.Name(), err)
	}
	if userNS == nil {
		return m, nil
	}
	a = unix.MountAttr{Attr_set: unix.MOUNT_ATTR_IDMAP, Userns_fd: uint64(userNS.Fd())}
	if err := unix.MountSetattr(fd, "", unix.AT_EMPTY_PATH, &a); err != nil {
		_ = m.Close()
		return nil, &NoMapError{Path: f.Name(), Err: err}
	}
	return m, nil
}

// NoMapError is a file system, or a mount of one, whose ids cannot be seen
// through a map.
type NoMapError struct {
	Path string
	Err  error
}

// Error says where.
func (e *NoMapError) Error() string {
	return fmt.Sprintf("the file system of %s cannot map user ids: %s", e.Path, e.Err)
}

// Unwrap gives the kernel's word.
func (e *NoMapError) Unwrap() error { return e.Err }
