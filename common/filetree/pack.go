package filetree

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"tero.internal/common/fault"
)

// The bits of modes that are copied. Set-user-ID and set-group-ID bits are not,
// either way: they would make the rights of one side those of the other.
const (
	fileBits   = 0o777
	folderBits = 0o1777
)

// Pack writes what is at name as a tar: a folder or file under its own name, the
// contents of a folder under ".". A link is followed when follow says so or the
// name ends in a slash. begin is called before anything is written.
func Pack(w io.Writer, r *Root, name string, follow bool, begin func(Source) error) (Summary, error) {
	_, base, slash, contents := split(name)
	flags := uint64(unix.O_PATH)
	if !follow && !slash {
		flags |= unix.O_NOFOLLOW
	}
	fd, err := r.open(name, flags)
	if err != nil {
		return Summary{}, explain("copy", name, err)
	}
	defer func() { _ = unix.Close(fd) }()
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return Summary{}, explain("copy", name, err)
	}
	s := Source{Name: base, Directory: st.Mode&unix.S_IFMT == unix.S_IFDIR, Contents: contents, Size: st.Size}
	foreign, err := kernels(fd)
	if err != nil {
		return Summary{}, explain("copy", name, err)
	}
	switch kind := st.Mode & unix.S_IFMT; {
	case foreign:
		return Summary{}, fault.New(fault.Invalid, "%q is on a file system of the kernel, which is not copied", name).
			WithHint("read single files there with \"tero exec\"")
	case slash && !s.Directory:
		return Summary{}, explain("copy", name, unix.ENOTDIR)
	case kind != unix.S_IFDIR && kind != unix.S_IFREG && kind != unix.S_IFLNK:
		return Summary{}, fault.New(fault.Invalid, "%q is a device, a socket or a pipe, which are not copied", name)
	}
	if err := begin(s); err != nil {
		return Summary{}, err
	}
	p := &packer{tar: tar.NewWriter(w), links: map[inode]string{}}
	top := base
	if contents {
		top = "."
	}
	if err := p.pack(fd, top, 0); err != nil {
		return p.summary, err
	}
	if err := p.tar.Close(); err != nil {
		return p.summary, fmt.Errorf("end the archive: %w", err)
	}
	return p.summary, nil
}

// inode names a file with several names.
type inode struct{ dev, ino uint64 }

// maxHardLinks bounds how many files with further names are remembered; of those
// beyond each name becomes a file.
const maxHardLinks = 100_000

type packer struct {
	tar     *tar.Writer
	links   map[inode]string
	summary Summary
}

// pack writes what fd, an O_PATH descriptor, is open on.
func (p *packer) pack(fd int, name string, depth int) error {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return explain("copy", name, err)
	}
	foreign, err := kernels(fd)
	if err != nil {
		return explain("copy", name, err)
	}
	if foreign {
		p.summary.Skipped++
		return nil
	}
	name = strings.TrimPrefix(name, "./")
	h := &tar.Header{
		Name: name, Mode: int64(st.Mode & fileBits), Uid: int(st.Uid), Gid: int(st.Gid), ModTime: time.Unix(st.Mtim.Sec, 0),
	}
	if p.summary.Entries++; p.summary.Entries > MaxEntries || len(name) > maxPath || depth > maxDepth {
		return fault.New(fault.Exhausted, "%q is more than is copied at a time: %d files, nested %d deep", name, MaxEntries, maxDepth)
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFDIR:
		return p.folder(fd, h, &st, depth)
	case unix.S_IFREG:
		return p.file(fd, h, &st)
	case unix.S_IFLNK:
		buf := make([]byte, maxPath+1)
		n, err := unix.Readlinkat(fd, "", buf)
		if err != nil {
			return explain("read the link", name, err)
		}
		h.Typeflag, h.Linkname = tar.TypeSymlink, string(buf[:n])
		return p.header(h)
	}
	p.summary.Entries--
	p.summary.Skipped++
	return nil
}

func (p *packer) header(h *tar.Header) error {
	if err := p.tar.WriteHeader(h); err != nil {
		return fmt.Errorf("write %q to the archive: %w", h.Name, err)
	}
	return nil
}

// listed is how many names of a folder are read at a time.
const listed = 256

func (p *packer) folder(fd int, h *tar.Header, st *unix.Stat_t, depth int) error {
	name := h.Name
	h.Typeflag, h.Name, h.Mode = tar.TypeDir, name+"/", int64(st.Mode&folderBits)
	if err := p.header(h); err != nil {
		return err
	}
	list, err := openat2(fd, ".", unix.O_RDONLY|unix.O_DIRECTORY, beneath)
	if err != nil {
		return explain("list", name, err)
	}
	f := os.NewFile(uintptr(list), name)
	defer func() { _ = f.Close() }()
	for {
		names, err := f.Readdirnames(listed)
		for _, n := range names {
			entry := name + "/" + n
			child, err := openat2(fd, n, unix.O_PATH|unix.O_NOFOLLOW, beneath)
			if errors.Is(err, unix.ENOENT) { // removed meanwhile
				continue
			}
			if err != nil {
				return explain("copy", entry, err)
			}
			err = p.pack(child, entry, depth+1)
			_ = unix.Close(child)
			if err != nil {
				return err
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return explain("list", name, err)
		}
	}
}

// file writes a regular file with as many bytes as it had when it was opened: a
// tar says that before. What is missing at the end becomes zeros.
func (p *packer) file(fd int, h *tar.Header, st *unix.Stat_t) error {
	key := inode{st.Dev, st.Ino}
	if first, seen := p.links[key]; seen {
		h.Typeflag, h.Linkname = tar.TypeLink, first
		return p.header(h)
	}
	f, err := reopen(fd)
	if err != nil {
		return explain("open", h.Name, err)
	}
	defer func() { _ = f.Close() }()
	if st.Size > maxFileSize {
		return fault.New(fault.Exhausted, "%q is larger than is copied: %d bytes", h.Name, st.Size).
			WithHint("it is mostly holes; pack it inside")
	}
	h.Typeflag, h.Size = tar.TypeReg, st.Size
	if err := p.header(h); err != nil {
		return err
	}
	if st.Nlink > 1 && len(p.links) < maxHardLinks {
		p.links[key] = h.Name
	}
	n, err := io.Copy(p.tar, io.LimitReader(f, st.Size))
	if err == nil && n < st.Size {
		_, err = io.CopyN(p.tar, zeros{}, st.Size-n)
	}
	if err != nil {
		return explain("read", h.Name, err)
	}
	p.summary.Bytes += st.Size
	return nil
}

// zeros is a file of zeros without an end.
type zeros struct{}

// Read fills b.
func (zeros) Read(b []byte) (int, error) {
	clear(b)
	return len(b), nil
}
