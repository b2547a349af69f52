package rootfs

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"

	"golang.org/x/sys/unix"

	"tero.internal/runtime/internal/erofs"
)

// images are the mounts of composed images, made once each and mounted nowhere:
// containers get clones. A mount keeps its image's file on disk, so that who
// removes the file calls Forget.
type images struct {
	mu     sync.RWMutex        // guards mounts; held for reading while one is cloned
	mounts map[string]*os.File // by the path of the image's file
}

// use gives do the mount of a composed image.
func (i *images) use(path string, do func(mount int) error) error {
	for {
		i.mu.RLock()
		if f := i.mounts[path]; f != nil {
			defer i.mu.RUnlock()
			return control(f, do)
		}
		i.mu.RUnlock()
		if err := i.mount(path); err != nil {
			return err
		}
	}
}

func (i *images) mount(path string) error {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.mounts[path] != nil {
		return nil
	}
	fd, err := mountErofs(path)
	if err != nil {
		return fmt.Errorf("mount the composed image %s: %w", path, err)
	}
	if i.mounts == nil {
		i.mounts = map[string]*os.File{}
	}
	i.mounts[path] = os.NewFile(uintptr(fd), path)
	return nil
}

func (i *images) forget(path string) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if f := i.mounts[path]; f != nil {
		_ = f.Close()
		delete(i.mounts, path)
	}
}

func (i *images) close() {
	i.mu.Lock()
	defer i.mu.Unlock()
	for path, f := range i.mounts {
		_ = f.Close()
		delete(i.mounts, path)
	}
}

// control calls do with a file's descriptor, without making it block.
func control(f *os.File, do func(fd int) error) error {
	raw, err := f.SyscallConn()
	if err != nil {
		return err
	}
	return errors.Join(raw.Control(func(fd uintptr) { err = do(int(fd)) }), err)
}

// mountErofs mounts an image from its file (Linux 6.12), nowhere.
func mountErofs(path string) (int, error) {
	fd, err := unix.Fsopen("erofs", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return -1, fmt.Errorf("open erofs: %w", err)
	}
	defer func() { _ = unix.Close(fd) }()
	if err := unix.FsconfigSetString(fd, "source", path); err != nil {
		return -1, explain(fd, "name the file", err)
	}
	if err := unix.FsconfigCreate(fd); err != nil {
		return -1, explain(fd, "read the superblock", err)
	}
	mount, err := unix.Fsmount(fd, unix.FSMOUNT_CLOEXEC, unix.MOUNT_ATTR_RDONLY|unix.MOUNT_ATTR_NODEV)
	if err != nil {
		return -1, explain(fd, "mount", err)
	}
	return mount, nil
}

// cloneImage gives a clone of a composed image's mount, as seen through an id
// map (nil for none). Cloning what is mounted nowhere needs Linux 6.15.
func (s *Scaffold) cloneImage(path string, userNS *os.File, attributes uint64) (clone int, err error) {
	err = s.images.use(path, func(mount int) error {
		clone, err = cloneAt(mount, "", userNS, attributes|unix.MOUNT_ATTR_RDONLY|unix.MOUNT_ATTR_NODEV)
		return err
	})
	if err != nil {
		return -1, err
	}
	return clone, nil
}

// Forget lets go of a composed image whose file was removed. Containers that
// have clones of it are not touched.
func (s *Scaffold) Forget(path string) { s.images.forget(path) }

// Close lets go of all composed images.
func (s *Scaffold) Close() { s.images.close() }

// Has tells whether a composed image has a folder, or something that is none,
// at a path. Links on the way are followed as inside a container.
func (s *Scaffold) Has(image, path string, folder bool) (has bool, err error) {
	err = s.images.use(image, func(mount int) error {
		fd, err := unix.Openat2(mount, path, &unix.OpenHow{
			Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS,
		})
		if err != nil {
			return nil // whatever stands in the way, it is not there
		}
		defer func() { _ = unix.Close(fd) }()
		var st unix.Stat_t
		if err := unix.Fstat(fd, &st); err != nil {
			return err
		}
		has = (st.Mode&unix.S_IFMT == unix.S_IFDIR) == folder
		return nil
	})
	return has, err
}

// Compose makes one image of an image's layers (uppermost first) between those
// of our own.
func (s *Scaffold) Compose(ctx context.Context, out *os.File, layers []string) (erofs.Info, error) {
	return erofs.Compose(ctx, out, s.stack(layers, ""))
}

// Probe tells why roots cannot be composed images kept in dir, nil when they
// can. It does what Mount does, with an image that has nothing of its own: the
// version of a kernel says neither what it was built with nor what the file
// system of dir can (a tmpfs cannot).
func (s *Scaffold) Probe(ctx context.Context, dir string) (err error) {
	tmp, err := os.MkdirTemp(dir, "probe-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(tmp)) }()
	path := filepath.Join(tmp, "image")
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o600) //nolint:gosec // a folder of ours
	if err != nil {
		return err
	}
	_, err = s.Compose(ctx, f, nil)
	if err := errors.Join(err, f.Close()); err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Join(tmp, "points"), 0o700); err != nil {
		return err
	}
	defer s.Forget(path)
	for _, o := range []Options{{Erofs: path}, {Erofs: path, Points: filepath.Join(tmp, "points")}} {
		root, err := s.Mount(o)
		if err != nil {
			return err
		}
		err = unix.Faccessat(int(root.Fd()), EtcFiles()[0][1:], unix.F_OK, 0)
		if err := errors.Join(err, root.Close()); err != nil {
			return fmt.Errorf("read from an image: %w", err)
		}
	}
	return nil
}
