package rootfs

import (
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// mountByPath makes the overlay as kernels before 6.13 need it: their overlay
// takes its layers by name only, and only from the caller's mount namespace. So
// it is made on a thread with a mount namespace of its own, where the layers are
// mounted over a folder of ours; what is made stays when that namespace goes.
func (s *Scaffold) mountByPath(layers []int, o Options) (root *os.File, err error) {
	err = apart(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
			return fmt.Errorf("make a mount namespace: %w", err)
		}
		if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
			return fmt.Errorf("make mounts private: %w", err)
		}
		upper := -1
		if o.Upper != "" {
			if upper, err = Clone(o.Upper, nil, 0); err != nil {
				return err
			}
			defer func() { _ = unix.Close(upper) }()
		}
		if err := unix.Mount("tmpfs", s.bottom, "tmpfs", 0, ""); err != nil {
			return fmt.Errorf("mount a tmpfs: %w", err)
		}
		if err := unix.Chdir(s.bottom); err != nil {
			return fmt.Errorf("enter %s: %w", s.bottom, err)
		}
		root, err = overlay(layers, upper, o)
		return err
	})
	return root, err
}

// overlay makes an overlay in the working folder, which is empty. Short names
// matter: all of them have to fit into a page.
func overlay(layers []int, upper int, o Options) (*os.File, error) {
	names := make([]string, len(layers))
	for i, fd := range layers {
		names[i] = strconv.Itoa(i)
		if err := attach(fd, names[i]); err != nil {
			return nil, err
		}
	}
	data := "lowerdir=" + strings.Join(names, ":")
	flags := uintptr(unix.MS_NODEV)
	if o.NoSuid {
		flags |= unix.MS_NOSUID
	}
	if upper < 0 {
		flags |= unix.MS_RDONLY
	} else {
		if err := attach(upper, "rw"); err != nil {
			return nil, err
		}
		data += ",upperdir=rw/" + UpperDir + ",workdir=rw/" + WorkDir
		if !o.Durable {
			data += ",volatile"
		}
	}
	if o.Label != "" {
		data += `,context="` + o.Label + `"` // a label has commas in it
	}
	if err := unix.Mkdir("root", 0o700); err != nil {
		return nil, fmt.Errorf("make a mount point: %w", err)
	}
	if err := unix.Mount("overlay", "root", "overlay", flags, data); err != nil {
		return nil, fmt.Errorf("mount overlay: %w", err)
	}
	fd, err := unix.OpenTree(unix.AT_FDCWD, "root", unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("clone the overlay: %w", err)
	}
	return os.NewFile(uintptr(fd), "rootfs"), nil
}

// attach mounts a mount that is nowhere on a new folder.
func attach(fd int, name string) error {
	if err := unix.Mkdir(name, 0o700); err != nil {
		return fmt.Errorf("make a mount point: %w", err)
	}
	if err := unix.MoveMount(fd, "", unix.AT_FDCWD, name, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
		return fmt.Errorf("mount layer %s: %w", name, err)
	}
	return nil
}

// apart runs f on a thread that ends with it, and so can f's namespaces.
func apart(f func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		if unix.Gettid() == unix.Getpid() { // the main thread never ends, and is what /proc/self shows
			done <- apart(f)
			runtime.UnlockOSThread()
			return
		}
		done <- f()
	}()
	return <-done
}
