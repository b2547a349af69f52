package layer

import (
	"archive/tar"
	"errors"
	"fmt"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// resolve makes the kernel refuse every way out of a layer's folder: upwards,
// by a link of any kind, onto another file system.
const resolve = unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS | unix.RESOLVE_NO_XDEV

func openFolder(root int, name string) (int, error) {
	if name == "" {
		name = "."
	}
	for {
		fd, err := unix.Openat2(root, name, &unix.OpenHow{Flags: unix.O_RDONLY | unix.O_DIRECTORY | unix.O_NOFOLLOW | unix.O_CLOEXEC, Resolve: resolve})
		if !errors.Is(err, unix.EAGAIN) && !errors.Is(err, unix.EINTR) { // a rename elsewhere raced: openat2(2)
			return fd, err
		}
	}
}

// openBeneath opens a folder of the layer, to be closed by the caller.
func (u *unpacker) openBeneath(name string) (int, error) { return openFolder(u.root, name) }

func (u *unpacker) leaveParent() {
	if u.parentFD >= 0 {
		_ = unix.Close(u.parentFD)
		u.parentFD = -1
	}
}

// enter opens an entry's folder, and makes what is missing of it. It keeps the
// last one open, since a tar lists a folder's files together. The descriptor is
// good until the next call.
func (u *unpacker) enter(dir, entry string) (int, error) {
	if u.parentFD >= 0 && u.parent == dir {
		return u.parentFD, nil
	}
	u.leaveParent()
	fd, err := u.openBeneath(dir)
	switch {
	case errors.Is(err, unix.ELOOP):
		return -1, u.refuse(entry, "the name leads through a symbolic link on the way to %q", dir)
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ENOTDIR):
		if fd, err = u.makeDirs(dir, entry); err != nil {
			return -1, err
		}
	case err != nil:
		return -1, fmt.Errorf("open folder %q: %w", dir, err)
	}
	u.parent, u.parentFD = dir, fd
	return fd, nil
}

// makeDirs makes the folders that a tar has no entries for. They look as in
// the layers below; where there are none, they are root's with mode 0755.
func (u *unpacker) makeDirs(dir, entry string) (int, error) {
	at, err := u.openBeneath("")
	if err != nil {
		return -1, err
	}
	name := ""
	for part := range strings.SplitSeq(dir, "/") {
		if name != "" {
			name += "/"
		}
		name += part
		fd, made, err := u.makeDir(at, part, entry)
		_ = unix.Close(at)
		if err != nil {
			return -1, err
		}
		at = fd
		if !made {
			continue
		}
		if err := u.countOne(); err != nil {
			_ = unix.Close(fd)
			return -1, err
		}
		u.folders = append(u.folders, folder{name, time.Unix(0, 0)})
		if err := u.inherit(fd, name); err != nil {
			_ = unix.Close(fd)
			return -1, err
		}
	}
	return at, nil
}

// inherit gives a folder the owner and mode that it has in the layers below.
func (u *unpacker) inherit(fd int, name string) error {
	for _, lower := range u.lower {
		root, err := unix.Open(lower, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if err != nil {
			return fmt.Errorf("open lower layer: %w", err)
		}
		from, err := openFolder(root, name)
		_ = unix.Close(root)
		if errors.Is(err, unix.ENOENT) {
			continue
		}
		if err != nil {
			return nil //nolint:nilerr // no folder there: it hides the layers below, and there is nothing to inherit
		}
		var st unix.Stat_t
		err = unix.Fstat(from, &st)
		_ = unix.Close(from)
		if err != nil {
			return fmt.Errorf("inherit %q: %w", name, err)
		}
		if err := unix.Fchown(fd, int(st.Uid), int(st.Gid)); err != nil {
			return err
		}
		u.folders = append(u.folders, folder{name, time.Unix(st.Mtim.Unix())})
		return unix.Fchmod(fd, st.Mode&0o7777)
	}
	return nil
}

// attributes sets owner, extended attributes and mode, in this order: a change
// of owner clears set-user-ID bits and file capabilities.
func (u *unpacker) attributes(fd int, h *tar.Header) error {
	if err := unix.Fchown(fd, h.Uid, h.Gid); err != nil {
		return err
	}
	for k, v := range h.PAXRecords {
		name, ok := strings.CutPrefix(k, "SCHILY.xattr.")
		if !ok {
			continue
		}
		switch {
		case strings.HasPrefix(name, "trusted.") || strings.HasPrefix(name, "user.overlay."):
			// These steer overlayfs (redirects, metacopy): an image has no say there.
			return u.refuse(h.Name, "extended attribute %q is not for images", name)
		case name == "security.capability", strings.HasPrefix(name, "user."), strings.HasPrefix(name, "system.posix_acl_"):
			if err := unix.Fsetxattr(fd, name, []byte(v), 0); err != nil {
				return fmt.Errorf("layer %s: entry %q: extended attribute %q: %w", u.layer.Digest, h.Name, name, err)
			}
		}
		// Others are labels of the machine that built the image (security.selinux).
	}
	return unix.Fchmod(fd, uint32(h.Mode)&0o7777) //nolint:gosec // masked
}

// ownAndTime sets owner, mode (not of a symbolic link) and time by name.
func (u *unpacker) ownAndTime(parent int, base string, h *tar.Header, mode bool) error {
	if err := unix.Fchownat(parent, base, h.Uid, h.Gid, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return err
	}
	if mode {
		if err := unix.Fchmodat(parent, base, uint32(h.Mode)&0o7777, 0); err != nil { //nolint:gosec // masked
			return err
		}
	}
	return setTimes(parent, base, h.ModTime)
}

func setTimes(parent int, base string, t time.Time) error {
	ts, err := unix.TimeToTimespec(t)
	if err != nil {
		return fmt.Errorf("time of %q: %w", base, err)
	}
	return unix.UtimesNanoAt(parent, base, []unix.Timespec{ts, ts}, unix.AT_SYMLINK_NOFOLLOW)
}

// finish sets what only holds when all entries are there, and makes the layer
// durable.
func (u *unpacker) finish() error {
	u.leaveParent()
	if !u.rooted && len(u.lower) > 0 {
		if err := u.inherit(u.root, ""); err != nil {
			return err
		}
	}
	each := !u.unsynced && len(u.folders) <= syncEach
	for _, f := range u.folders { // in order: of two entries for a folder the later holds
		fd, err := u.openBeneath(f.name)
		if err != nil {
			return fmt.Errorf("open folder %q: %w", f.name, err)
		}
		err = u.finishFolder(fd, f, each)
		_ = unix.Close(fd)
		if err != nil {
			return err
		}
	}
	if each {
		return unix.Fsync(u.root)
	}
	return unix.Syncfs(u.root)
}

func (u *unpacker) finishFolder(fd int, f folder, sync bool) error {
	if err := setTimes(fd, ".", f.mtime); err != nil {
		return err
	}
	if sync {
		return unix.Fsync(fd)
	}
	return nil
}
