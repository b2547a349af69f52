package erofs

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"

	"golang.org/x/sys/unix"
)

// copySize is how much of a file is read at a time; sequences write as much.
const copySize = 1 << 20

// sequence writes to a part of a file from its beginning to its end.
type sequence struct {
	f   *os.File
	at  int64 // where buf goes
	buf []byte
}

func newSequence(f *os.File, at int64) *sequence {
	return &sequence{f: f, at: at, buf: make([]byte, 0, copySize)}
}

func (s *sequence) offset() int64 { return s.at + int64(len(s.buf)) }

func (s *sequence) Write(b []byte) (int, error) {
	if len(s.buf)+len(b) > cap(s.buf) {
		if err := s.flush(); err != nil {
			return 0, err
		}
	}
	if len(b) >= cap(s.buf) {
		n, err := s.f.WriteAt(b, s.at)
		s.at += int64(n)
		return n, err
	}
	s.buf = append(s.buf, b...)
	return len(b), nil
}

func (s *sequence) flush() error {
	n, err := s.f.WriteAt(s.buf, s.at)
	s.at, s.buf = s.at+int64(n), s.buf[:0]
	return err
}

// skipTo goes on at a later offset. What lies between reads as zeros; a long
// stretch is left a hole.
func (s *sequence) skipTo(offset int64) error {
	gap := offset - s.offset()
	if gap < 0 {
		return fmt.Errorf("write at %d, which is behind %d", offset, s.offset())
	}
	if gap < int64(cap(s.buf)-len(s.buf)) {
		n := len(s.buf)
		s.buf = s.buf[:n+int(gap)]
		clear(s.buf[n:])
		return nil
	}
	if err := s.flush(); err != nil {
		return err
	}
	s.at = offset
	return nil
}

// writer writes an image whose layout is planned.
type writer struct {
	layers     []int
	meta, data *sequence
	buf        []byte
	inode      []byte // of the node being written, with its extended attributes
}

func (w *writer) write(ctx context.Context, out *os.File, l *layout) error {
	// The size first, so that a hole at the end is one of the file's.
	if err := out.Truncate(int64(l.blocks) * blockSize); err != nil {
		return err
	}
	for i, n := range l.order {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := w.node(n, uint32(i+1)); err != nil {
			return err
		}
	}
	if err := errors.Join(w.meta.flush(), w.data.flush()); err != nil {
		return err
	}
	_, err := out.WriteAt(superblock(l.order[0].nid, len(l.order), l.blocks), 0)
	return err
}

func (w *writer) node(n *node, number uint32) error {
	w.inode = append(w.inode[:0], make([]byte, inodeSize)...)
	putInode(w.inode, n, number)
	w.inode = appendXattrs(w.inode, n.xattrs)
	if err := w.meta.skipTo(int64(n.nid) * slotSize); err != nil { //nolint:gosec // far under 2^63
		return err
	}
	if _, err := w.meta.Write(w.inode); err != nil {
		return err
	}
	switch {
	case n.size == 0:
		return nil
	case n.is(unix.S_IFDIR):
		return w.bytes(n, dirents(n.links))
	case n.is(unix.S_IFLNK):
		return w.bytes(n, []byte(n.target))
	}
	if err := w.file(n); err != nil {
		return fmt.Errorf("layer %d: %q: %w", n.layer, path.Join(n.dir, n.name), err)
	}
	return nil
}

// begin takes the data's sequence to a node's first block.
func (w *writer) begin(n *node) error {
	if n.wholeBlocks() == 0 {
		return nil
	}
	return w.data.skipTo(int64(n.block) * blockSize)
}

// bytes writes a node's content: whole blocks to data, an inline tail behind the inode.
func (w *writer) bytes(n *node, content []byte) error {
	if err := w.begin(n); err != nil {
		return err
	}
	whole := content
	if n.inline {
		whole = content[:len(content)&^(blockSize-1)]
		if _, err := w.meta.Write(content[len(whole):]); err != nil {
			return err
		}
	}
	_, err := w.data.Write(whole)
	return err
}

// file copies a regular file, but for its holes.
func (w *writer) file(n *node) error {
	fd, err := openBeneath(w.layers[n.layer], path.Join(n.dir, n.name), unix.O_RDONLY|unix.O_NONBLOCK)
	if err != nil {
		return err
	}
	f := os.NewFile(uintptr(fd), n.name)
	defer func() { _ = f.Close() }()
	if n.size <= copySize {
		content := w.buf[:n.size]
		if _, err := io.ReadFull(f, content); err != nil {
			return fmt.Errorf("read: %w", err)
		}
		return w.bytes(n, content)
	}
	if err := w.begin(n); err != nil {
		return err
	}
	size := int64(n.size) //nolint:gosec // was one in stat
	whole := size
	if n.inline {
		whole = size &^ (blockSize - 1)
	}
	start := int64(n.block) * blockSize
	for at := int64(0); at < whole; {
		from, to := extent(fd, at, whole)
		if err := w.data.skipTo(start + from); err != nil {
			return err
		}
		for at = from; at < to; {
			part := w.buf[:min(to-at, copySize)]
			if _, err := f.ReadAt(part, at); err != nil {
				return fmt.Errorf("read: %w", err)
			}
			if _, err := w.data.Write(part); err != nil {
				return err
			}
			at += int64(len(part))
		}
	}
	if !n.inline {
		return nil
	}
	tail := w.buf[:size-whole]
	if _, err := f.ReadAt(tail, whole); err != nil {
		return fmt.Errorf("read: %w", err)
	}
	_, err = w.meta.Write(tail)
	return err
}

// extent gives the next stretch of a file, from at on and before end, that is no hole.
func extent(fd int, at, end int64) (from, to int64) {
	from, err := unix.Seek(fd, at, unix.SEEK_DATA)
	if errors.Is(err, unix.ENXIO) { // nothing but a hole
		return end, end
	}
	if err != nil { // a file system that does not tell
		return at, end
	}
	to, err = unix.Seek(fd, from, unix.SEEK_HOLE)
	if err != nil || to > end {
		to = end
	}
	return min(from, end), to
}
