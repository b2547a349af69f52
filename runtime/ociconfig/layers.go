package ociconfig

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// Bounds on what an image can make the node do to find a small file.
const (
	maxLinks = 40      // as the kernel's own, see path_resolution(7)
	maxFile  = 1 << 20 // bytes of a passwd or group file
)

// errNotRegular is a passwd or group file that is a folder, a device or the like.
var errNotRegular = errors.New("not a regular file")

// readLayered reads a regular file as a process inside the image would see it:
// through the layers, uppermost first, with whiteouts, opaque folders and
// symbolic links as overlayfs has them, and links never leading outside the
// layers. A file that does not exist gives fs.ErrNotExist.
//
// It walks by descriptors and never lets the kernel follow a link, so nothing
// that a layer holds can name a file of the host.
func readLayered(layers []string, name string) ([]byte, error) {
	root, err := openRoot(layers)
	if err != nil {
		return nil, err
	}
	// The way down from the root; each entry is one folder as its layers show it.
	way := []merged{root}
	defer func() {
		for _, m := range way {
			m.close()
		}
	}()
	todo := strings.Split(strings.Trim(name, "/"), "/")
	for links := 0; len(todo) > 0; {
		part := todo[0]
		todo = todo[1:]
		switch part {
		case "", ".":
			continue
		case "..":
			if last := len(way) - 1; last > 0 {
				way[last].close()
				way = way[:last]
			}
			continue
		}
		found, err := way[len(way)-1].lookup(part)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		switch {
		case found.folders != nil:
			way = append(way, found.folders)
		case found.link != "":
			if links++; links > maxLinks {
				return nil, fmt.Errorf("%s: %w", name, unix.ELOOP)
			}
			if path.IsAbs(found.link) {
				for _, m := range way[1:] {
					m.close()
				}
				way = way[:1]
			}
			todo = slices.Concat(strings.Split(found.link, "/"), todo)
		default:
			b, err := readRegular(found.file)
			if err == nil && len(todo) > 0 {
				err = unix.ENOTDIR
			}
			if err != nil {
				return nil, fmt.Errorf("%s: %w", name, err)
			}
			return b, nil
		}
	}
	return nil, fmt.Errorf("%s: %w", name, errNotRegular)
}

// merged is one folder: the descriptors of its parts in the layers that show it, uppermost first.
type merged []int

// entry is what a name in a folder is; exactly one field is set.
type entry struct {
	folders merged
	link    string
	// file is an O_PATH descriptor of anything else, owned by who gets the entry.
	file int
}

// openRoot opens the roots of the layers.
func openRoot(layers []string) (merged, error) {
	var m merged
	for _, l := range layers {
		fd, err := unix.Open(l, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
		if err != nil {
			m.close()
			return nil, fmt.Errorf("open layer: %w", &fs.PathError{Op: "open", Path: l, Err: err})
		}
		m = append(m, fd)
	}
	return m, nil
}

func (m merged) close() {
	for _, fd := range m {
		_ = unix.Close(fd) // an O_PATH descriptor has nothing to lose
	}
}

// lookup finds name in the folder.
func (m merged) lookup(name string) (entry, error) {
	var folders merged
	for _, dir := range m {
		fd, err := unix.Openat(dir, name, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
		if errors.Is(err, unix.ENOENT) {
			continue
		}
		if err != nil {
			folders.close()
			return entry{}, err
		}
		var st unix.Stat_t
		if err := unix.Fstat(fd, &st); err != nil {
			folders.close()
			_ = unix.Close(fd)
			return entry{}, err
		}
		if st.Mode&unix.S_IFMT == unix.S_IFDIR {
			folders = append(folders, fd)
			if opaque(fd) {
				break
			}
			continue
		}
		if folders != nil || isWhiteout(&st) {
			// Whatever is not a folder ends what lower layers show; under a folder it is itself hidden.
			_ = unix.Close(fd)
			break
		}
		if st.Mode&unix.S_IFMT != unix.S_IFLNK {
			return entry{file: fd}, nil
		}
		link, err := readLink(fd)
		_ = unix.Close(fd)
		return entry{link: link}, err
	}
	if folders == nil {
		return entry{}, fs.ErrNotExist
	}
	return entry{folders: folders}, nil
}

// isWhiteout knows overlayfs' mark for "removed in this layer": device 0/0.
func isWhiteout(st *unix.Stat_t) bool {
	return st.Mode&unix.S_IFMT == unix.S_IFCHR && st.Rdev == 0
}

// opaque knows overlayfs' mark for "lower layers are hidden". An O_PATH
// descriptor has no extended attributes of its own, hence the way through /proc.
func opaque(fd int) bool {
	var value [1]byte
	for _, attr := range []string{"trusted.overlay.opaque", "user.overlay.opaque"} {
		n, err := unix.Getxattr(fmt.Sprintf("/proc/self/fd/%d", fd), attr, value[:])
		if err == nil && n == 1 && value[0] == 'y' {
			return true
		}
	}
	return false
}

func readLink(fd int) (string, error) {
	var b [unix.PathMax]byte
	n, err := unix.Readlinkat(fd, "", b[:])
	if err != nil {
		return "", err
	}
	if n == 0 || n == len(b) {
		return "", unix.ENAMETOOLONG
	}
	return string(b[:n]), nil
}

// readRegular reads and closes a small regular file by its O_PATH descriptor.
func readRegular(fd int) ([]byte, error) {
	defer func() { _ = unix.Close(fd) }()
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return nil, err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return nil, errNotRegular
	}
	if st.Size > maxFile {
		return nil, fmt.Errorf("%d bytes are over the limit of %d: %w", st.Size, maxFile, unix.EFBIG)
	}
	// Opening the descriptor's own entry in /proc is opening the very file that was checked.
	f, err := os.Open(fmt.Sprintf("/proc/self/fd/%d", fd))
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	return io.ReadAll(io.LimitReader(f, maxFile))
}
