package erofs

import (
	"encoding/binary"
	"fmt"
	"math"

	"golang.org/x/sys/unix"
)

// maxInline is the most that is stored behind an inode instead of in a block of
// its own: more would waste more of the metadata's blocks than it saves.
const maxInline = blockSize / 2

// layout gives every node its place: inodes first, each folder's beside those of
// its files, then their data in the same order.
type layout struct {
	order  []*node
	blocks uint32 // of the whole image
	data   int64  // where data begins
}

func plan(root *node) (*layout, error) {
	l := &layout{}
	end := l.walk(root, metaStart)
	l.data = align(end, blockSize)
	next := uint64(l.data) / blockSize //nolint:gosec // not negative
	for _, n := range l.order {
		if whole := n.wholeBlocks(); whole > 0 {
			if next+whole >= math.MaxUint32 {
				return nil, fmt.Errorf("the image has more than 16 TiB")
			}
			n.block = uint32(next) //nolint:gosec // checked just before
			next += whole
		}
	}
	l.blocks = uint32(next) //nolint:gosec // checked above
	return l, nil
}

// walk places a folder, then what is in it, from at on. It gives the end.
func (l *layout) walk(dir *node, at int64) int64 {
	dir.size = direntsSize(dir.links)
	at = l.place(dir, at)
	for _, e := range dir.links {
		if !e.node.is(unix.S_IFDIR) {
			at = l.place(e.node, at)
		}
	}
	for _, e := range dir.links {
		if e.node.is(unix.S_IFDIR) && !e.node.placed {
			at = l.walk(e.node, at)
		}
	}
	return at
}

func (l *layout) place(n *node, at int64) int64 {
	if n.placed { // another link to it
		return at
	}
	n.placed = true
	n.xattrSize = xattrAreaSize(n.xattrs)
	header := int64(inodeSize + n.xattrSize)
	tail := int64(n.size % blockSize)
	at = align(at, inodeSize)
	if tail > 0 && tail <= maxInline {
		// The tail may not cross a block's end.
		inBlock := (at+header)%blockSize+tail <= blockSize
		if !inBlock && header+tail <= blockSize {
			at, inBlock = align(at, blockSize), true
		}
		n.inline = inBlock
	}
	n.nid = uint64(at) / slotSize //nolint:gosec // not negative
	l.order = append(l.order, n)
	if n.inline {
		header += tail
	}
	return at + header
}

// wholeBlocks is how many blocks of data a node has, apart from its inline tail.
func (n *node) wholeBlocks() uint64 {
	if n.inline {
		return n.size / blockSize
	}
	return align(n.size, blockSize) / blockSize
}

// direntBlocks splits a folder's links into blocks: entries at the beginning,
// their names behind.
func direntBlocks(links []link, block func(links []link, size int)) {
	for len(links) > 0 {
		size, n := 0, 0
		for n < len(links) {
			more := direntSize + len(links[n].name)
			if size+more > blockSize {
				break
			}
			size += more
			n++
		}
		block(links[:n], size)
		links = links[n:]
	}
}

// direntsSize is the size of a folder: whole blocks and the last one's content.
func direntsSize(links []link) uint64 {
	var total, last uint64
	direntBlocks(links, func(_ []link, size int) {
		total, last = total+blockSize, uint64(size) //nolint:gosec // not negative
	})
	return total - blockSize + last
}

// dirents gives the content of a folder.
func dirents(links []link) []byte {
	var out []byte
	direntBlocks(links, func(links []link, _ int) {
		out = append(out, make([]byte, align(len(out), blockSize)-len(out))...)
		name := direntSize * len(links)
		for _, e := range links {
			out = binary.LittleEndian.AppendUint64(out, e.node.nid)
			out = binary.LittleEndian.AppendUint16(out, uint16(name)) //nolint:gosec // within a block
			out = append(out, fileType(e.node), 0)
			name += len(e.name)
		}
		for _, e := range links {
			out = append(out, e.name...)
		}
	})
	return out
}

func fileType(n *node) byte {
	switch uint32(n.mode) & unix.S_IFMT {
	case unix.S_IFREG:
		return 1
	case unix.S_IFDIR:
		return 2
	case unix.S_IFIFO:
		return 5
	case unix.S_IFSOCK:
		return 6
	case unix.S_IFLNK:
		return 7
	}
	return 0
}
