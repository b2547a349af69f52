package filetree

import (
	"errors"
	"os"
	"path"

	"golang.org/x/sys/unix"

	"tero.internal/common/fault"
)

// Target is where something is copied to: a name in an open folder.
type Target struct {
	folder *os.File
	// name takes the place of the source's own, which is the first of each entry,
	// or goes before all entries of contents; "" when names stay as they are.
	name     string
	contents bool
}

// Close closes the folder.
func (t *Target) Close() { _ = t.folder.Close() }

// Target finds where a source goes when it is copied to a path, as cp(1) and
// Docker have it:
//
//	path is             file                folder                   contents of a folder
//	a folder            path/name           path/name                into path
//	a file              replaces it         refused                  refused
//	nothing             path                path                     path
//	nothing, with "/"   refused             path                     path
//
// raw is the source of an archive whose names stay as they are: path must be a folder.
func (r *Root) Target(name string, s Source, raw bool) (*Target, error) {
	fd, err := r.open(name, unix.O_PATH|unix.O_DIRECTORY)
	if err == nil {
		t := &Target{folder: os.NewFile(uintptr(fd), name), name: s.Name}
		if raw || s.Contents {
			t.name = ""
		}
		return t, t.check(name)
	}
	_, _, slash, _ := split(name)
	exists := errors.Is(err, unix.ENOTDIR)
	switch {
	case !exists && !errors.Is(err, unix.ENOENT):
		return nil, explain("copy to", name, err)
	case raw, exists && (s.Directory || slash):
		return nil, explain("copy a folder to", name, err)
	case slash && !s.Directory:
		return nil, fault.New(fault.NotFound, "copy to %q: there is no such folder", name).WithHint("make it first, or leave the slash at the end away")
	}
	return r.entry(name, s.Contents)
}

// entry gives the place of a path that is no folder, where its links lead.
func (r *Root) entry(name string, contents bool) (*Target, error) {
	for range maxLinks {
		folder, base, _, _ := split(name)
		fd, err := r.open(folder, unix.O_PATH|unix.O_DIRECTORY)
		if err != nil {
			return nil, explain("copy to", name, err)
		}
		t := &Target{folder: os.NewFile(uintptr(fd), folder), name: base, contents: contents}
		buf := make([]byte, maxPath+1)
		n, err := unix.Readlinkat(fd, base, buf)
		if err != nil { // no link
			if base == "." {
				err = explain("copy to", name, unix.EISDIR)
				t.Close()
				return nil, err
			}
			return t, t.check(name)
		}
		t.Close()
		link := string(buf[:n])
		if !path.IsAbs(link) {
			link = path.Join(folder, link)
		}
		name = link
	}
	return nil, explain("copy to", name, unix.ELOOP)
}

// check refuses folders on file systems of the kernel. It closes the target then.
func (t *Target) check(name string) error {
	raw, err := t.folder.SyscallConn()
	if err != nil {
		return err
	}
	var foreign bool
	var failed error
	if err := raw.Control(func(fd uintptr) { foreign, failed = kernels(int(fd)) }); err != nil {
		return err
	}
	if failed == nil && !foreign {
		return nil
	}
	t.Close()
	if failed != nil {
		return explain("copy to", name, failed)
	}
	return onKernels(name)
}

func onKernels(name string) error {
	return fault.New(fault.Invalid, "%q is on a file system of the kernel, which nothing is copied to", name).
		WithHint("the container sets what it may there by itself: see \"tero exec\"")
}
