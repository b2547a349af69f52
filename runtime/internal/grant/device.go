package grant

import (
	"errors"
	"fmt"
	"os"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"tero.internal/common/fault"
)

// Device looks at a device of the host. Its path is the one on the host.
func Device(path string) (*specs.LinuxDevice, error) {
	f, st, err := open(path)
	if err != nil {
		return nil, err
	}
	_ = f.Close()
	d := &specs.LinuxDevice{Path: path, Major: int64(unix.Major(st.Rdev)), Minor: int64(unix.Minor(st.Rdev))}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFCHR:
		d.Type = "c"
	case unix.S_IFBLK:
		d.Type = "b"
	default:
		return nil, fault.New(fault.Invalid, "%s is not a device of the node", path).
			WithHint("mount files and folders with -v")
	}
	mode, uid, gid := os.FileMode(st.Mode&0o777), st.Uid, st.Gid
	d.FileMode, d.UID, d.GID = &mode, &uid, &gid
	return d, nil
}

// MakeNode makes a node of a device at path and opens it, without opening the
// device. The host's own node would do only for devices that anybody may use:
// no id of the container owns it. The node has the host's permissions, and its
// owner and group in the ids of the container that begin at hostID; ids beyond
// those become root's.
func MakeNode(path string, d *specs.LinuxDevice, hostID, ids uint32) (*os.File, error) {
	kind, mode := uint32(unix.S_IFCHR), uint32(0)
	if d.Type == "b" {
		kind = unix.S_IFBLK
	}
	if d.FileMode != nil {
		mode = uint32(d.FileMode.Perm())
	}
	number := unix.Mkdev(uint32(d.Major), uint32(d.Minor))           //nolint:gosec // numbers of a device that was looked at
	if err := unix.Mknod(path, kind|mode, int(number)); err != nil { //nolint:gosec // as above
		f := fault.New(fault.Unsupported, "the node for %s cannot be made: %w", d.Path, err)
		if errors.Is(err, unix.EPERM) {
			return nil, f.WithHint("does terod have CAP_MKNOD, and does its cgroup let it make devices?")
		}
		return nil, f
	}
	owner := func(id *uint32) int {
		if id == nil || *id >= ids {
			return int(hostID)
		}
		return int(hostID + *id)
	}
	// Chmod for the umask; nobody else reaches the folder, so the name stays what it is.
	if err := errors.Join(unix.Chmod(path, mode), os.Lchown(path, owner(d.UID), owner(d.GID))); err != nil {
		return nil, fmt.Errorf("make the node for %s: %w", d.Path, err)
	}
	fd, err := unix.Open(path, unix.O_PATH|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0)
	if err != nil {
		return nil, fmt.Errorf("open the node for %s: %w", d.Path, err)
	}
	f := os.NewFile(uintptr(fd), path)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil || st.Mode&unix.S_IFMT != kind || st.Rdev != number {
		_ = f.Close()
		return nil, fmt.Errorf("the node for %s became something else: %w", d.Path, err)
	}
	return f, nil
}
