// Package filetree moves files and folders as tar streams, where somebody
// hostile may change the files meanwhile, or may have made the stream.
//
// Nothing is ever done by a path that was looked at before. A path that somebody
// gave is resolved once, by openat2(2), inside its root; from there on each file
// is one name in an open folder, of which links are never followed. What is to be
// read is opened without effect (O_PATH), looked at, and opened again through
// that descriptor, so that it cannot be another file by then.
package filetree

import (
	"errors"
	"fmt"
	"os"
	"path"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"tero.internal/common/fault"
)

// Source is what is copied.
type Source struct {
	// Name is the last name of its path.
	Name string
	// Directory says that it is a folder; Contents that what is in it is meant,
	// and not itself ("folder/.").
	Directory, Contents bool
	// Size is that of a file.
	Size int64
}

// Summary is what was copied.
type Summary struct {
	Entries, Bytes int64
	// Skipped counts what cannot be copied: devices, sockets, pipes, and the
	// kernel's own file systems.
	Skipped int64
}

// The bounds of one copy. They are far beyond use, and keep memory bounded.
const (
	MaxEntries  = 5_000_000
	maxDepth    = 256
	maxPath     = 4095
	maxName     = 255
	maxFileSize = 1 << 44
	maxLinks    = 40
)

// Root is where paths are resolved.
type Root struct {
	dir     int
	resolve uint64
	file    *os.File
}

// Host resolves paths as this process sees them.
func Host() *Root { return &Root{dir: unix.AT_FDCWD} }

// In resolves paths inside a folder, which no ".." and no link leaves.
func In(folder *os.File) (*Root, error) {
	r := &Root{resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS, file: folder}
	raw, err := folder.SyscallConn()
	if err != nil {
		return nil, err
	}
	return r, raw.Control(func(fd uintptr) { r.dir = int(fd) })
}

// open opens a path of the root.
func (r *Root) open(name string, flags uint64) (int, error) {
	return openat2(r.dir, name, flags, r.resolve)
}

// beneath are the rules for a name in an open folder.
const beneath = unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS

// openat2 opens a file. A rename elsewhere may interrupt the kernel's checks.
func openat2(dir int, name string, flags, resolve uint64) (int, error) {
	const tries = 10_000
	if name == "" {
		name = "."
	}
	how := &unix.OpenHow{Flags: flags | unix.O_CLOEXEC, Resolve: resolve}
	for try := 0; ; try++ {
		fd, err := unix.Openat2(dir, name, how)
		if !errors.Is(err, unix.EINTR) && (!errors.Is(err, unix.EAGAIN) || try >= tries) {
			return fd, err
		}
	}
}

// reopen opens for reading what an O_PATH descriptor is open on.
func reopen(fd int) (*os.File, error) {
	again, err := unix.Open("/proc/self/fd/"+strconv.Itoa(fd), unix.O_RDONLY|unix.O_NONBLOCK|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(again), "file"), nil
}

// kernels tells whether a file is on a file system that is an interface of the
// kernel: reading it may have effects, and writing it is no copying.
func kernels(fd int) (bool, error) {
	var st unix.Statfs_t
	if err := unix.Fstatfs(fd, &st); err != nil {
		return false, err
	}
	switch st.Type {
	case unix.PROC_SUPER_MAGIC, unix.SYSFS_MAGIC, unix.CGROUP_SUPER_MAGIC, unix.CGROUP2_SUPER_MAGIC, unix.DEVPTS_SUPER_MAGIC,
		unix.DEBUGFS_MAGIC, unix.TRACEFS_MAGIC, unix.SECURITYFS_MAGIC, unix.BPF_FS_MAGIC, unix.EFIVARFS_MAGIC, unix.SELINUX_MAGIC,
		unix.BINFMTFS_MAGIC, unix.PSTOREFS_MAGIC, unix.NSFS_MAGIC, mqueueMagic, configfsMagic:
		return true, nil
	}
	return false, nil
}

// What x/sys has no names for (linux/magic.h, ipc/mqueue.c, fs/configfs).
const (
	mqueueMagic   = 0x19800202
	configfsMagic = 0x62656570
)

// split gives the folder and the last name of a path that somebody gave, and
// whether it asks for a folder ("a/") or its contents ("a/.").
func split(name string) (folder, base string, slash, contents bool) {
	contents = name == "." || strings.HasSuffix(name, "/.")
	slash = strings.HasSuffix(name, "/") || contents
	folder, base = path.Split(path.Clean(name))
	if base == ".." || base == "." || base == "" {
		return path.Clean(name), ".", true, true
	}
	return path.Join(folder, "."), base, slash, contents
}

// explain makes a fault of what the system said about a path.
func explain(doing, name string, err error) error {
	if _, ok := errors.AsType[*fault.Error](err); ok {
		return err
	}
	var errno unix.Errno
	if !errors.As(err, &errno) {
		return fmt.Errorf("%s %q: %w", doing, name, err)
	}
	kind, hint := fault.Internal, ""
	switch errno {
	case unix.ENOENT:
		kind = fault.NotFound
	case unix.EACCES, unix.EPERM:
		kind = fault.Denied
	case unix.ENOTDIR, unix.EISDIR, unix.EEXIST, unix.ENOTEMPTY, unix.ENAMETOOLONG, unix.EINVAL:
		kind = fault.Invalid
	case unix.ELOOP:
		kind, hint = fault.Invalid, "links are not followed below the folder that is copied to, and not in circles"
	case unix.EROFS:
		kind, hint = fault.Conflict, "it is read-only; what can be written are mounted volumes and tmpfs such as /tmp, or all with \"tero run --writable\""
	case unix.EBUSY:
		kind, hint = fault.Conflict, "something is mounted there"
	case unix.ENOSPC, unix.EDQUOT, unix.EMFILE, unix.ENFILE, unix.EFBIG:
		kind = fault.Exhausted
	case unix.EAGAIN:
		kind, hint = fault.Unavailable, "files are renamed there all the time; try again"
	}
	f := fault.New(kind, "%s %q: %w", doing, name, err)
	if hint == "" {
		return f
	}
	return f.WithHint("%s", hint)
}

// Valid tells whether the source's name is one of a file, or does not matter.
func (s *Source) Valid() bool {
	return s.Contents || s.Name != "" && s.Name != "." && s.Name != ".." && len(s.Name) <= maxName && !strings.ContainsAny(s.Name, "/\x00")
}
