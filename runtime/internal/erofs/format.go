package erofs

import (
	"encoding/binary"
	"hash/crc32"
)

// The on-disk format, as in the kernel's fs/erofs/erofs_fs.h; all of it little
// endian. Only what Compose writes is here: uncompressed data, extended inodes,
// extended attributes beside their inode.
const (
	blockBits = 12
	blockSize = 1 << blockBits

	superOffset = 1024
	superSize   = 128
	superMagic  = 0xE0F5E1E2

	featureChecksum = 0x1 // the superblock has a CRC
	featureMtime    = 0x2 // inodes hold mtime, not ctime

	// inodeSize is that of an extended inode, with 64-bit times and 32-bit ids.
	inodeSize = 64
	// slotSize is the unit of node ids. Inodes begin at multiples of inodeSize, so
	// that none is cut by the end of a block.
	slotSize = 32

	layoutPlain  = 0 // all data in whole blocks
	layoutInline = 2 // what is left after the last whole block follows the inode

	direntSize      = 12
	xattrHeaderSize = 12
	xattrEntrySize  = 4

	maxXattrValue = 1<<16 - 1
	maxXattrArea  = xattrHeaderSize + (1<<16-2)*4
)

// metaStart is where inodes begin: the block after the superblock's. Node ids
// count from the beginning of the image, so that no inode has the number 0,
// which readdir(3) would pass over.
const metaStart = blockSize

// uuid is the same for all images, so that they depend on nothing but their
// content. Overlayfs only wants it to differ from those of its other layers.
var uuid = [16]byte{0x74, 0x65, 0x72, 0x6f, 0x65, 0x72, 0x4f, 0x46, 0x80, 0x00, 'i', 'm', 'a', 'g', 'e', 1} //nolint:gochecknoglobals // a constant

// superblock gives the first block of an image.
func superblock(root uint64, inodes int, blocks uint32) []byte {
	block := make([]byte, blockSize)
	b := block[superOffset:]
	le := binary.LittleEndian
	le.PutUint32(b[0:], superMagic)
	le.PutUint32(b[8:], featureChecksum|featureMtime)
	b[12] = blockBits
	le.PutUint16(b[14:], uint16(root))   //nolint:gosec // the first inode of all
	le.PutUint64(b[16:], uint64(inodes)) //nolint:gosec // not negative
	le.PutUint32(b[36:], blocks)
	copy(b[48:64], uuid[:])
	// The kernel's CRC begins like Go's and leaves out the last inversion.
	le.PutUint32(b[4:], ^crc32.Checksum(b, crc32.MakeTable(crc32.Castagnoli)))
	return block
}

// putInode writes an inode; number is what 32-bit programs see, counted from 1.
func putInode(b []byte, n *node, number uint32) {
	le := binary.LittleEndian
	layout := uint16(layoutPlain)
	if n.inline {
		layout = layoutInline
	}
	le.PutUint16(b[0:], layout<<1|1) // bit 0: extended
	if n.xattrSize > 0 {
		le.PutUint16(b[2:], uint16((n.xattrSize-xattrHeaderSize)/xattrEntrySize+1)) //nolint:gosec // at most maxXattrArea
	}
	le.PutUint16(b[4:], n.mode)
	le.PutUint64(b[8:], n.size)
	le.PutUint32(b[16:], n.block)
	le.PutUint32(b[20:], number)
	le.PutUint32(b[24:], n.uid)
	le.PutUint32(b[28:], n.gid)
	le.PutUint64(b[32:], uint64(n.mtime)) //nolint:gosec // two's complement before 1970
	le.PutUint32(b[40:], n.mtimeNsec)
	le.PutUint32(b[44:], n.nlink)
}

// xattrIndex splits the name of an extended attribute into the number of its
// prefix and the rest.
func xattrIndex(name string) (index byte, rest string) {
	switch {
	case name == "system.posix_acl_access":
		return 2, ""
	case name == "system.posix_acl_default":
		return 3, ""
	case len(name) > 5 && name[:5] == "user.":
		return 1, name[5:]
	case len(name) > 9 && name[:9] == "security.":
		return 6, name[9:]
	}
	return 0, name
}

// xattrAreaSize is the size of an inode's extended attributes.
func xattrAreaSize(list []xattr) int {
	if len(list) == 0 {
		return 0
	}
	size := xattrHeaderSize
	for _, x := range list {
		_, rest := xattrIndex(x.name)
		size += align(xattrEntrySize+len(rest)+len(x.value), 4)
	}
	return size
}

// appendXattrs appends an inode's extended attributes.
func appendXattrs(b []byte, list []xattr) []byte {
	if len(list) == 0 {
		return b
	}
	b = append(b, make([]byte, xattrHeaderSize)...) // no filter, none shared
	for _, x := range list {
		index, rest := xattrIndex(x.name)
		b = append(b, byte(len(rest)), index)                         //nolint:gosec // at most 255
		b = binary.LittleEndian.AppendUint16(b, uint16(len(x.value))) //nolint:gosec // at most maxXattrValue
		b = append(append(b, rest...), x.value...)
		if pad := align(xattrEntrySize+len(rest)+len(x.value), 4) - (xattrEntrySize + len(rest) + len(x.value)); pad > 0 {
			b = append(b, make([]byte, pad)...)
		}
	}
	return b
}

// align rounds up to a multiple of to, a power of two.
func align[T int | int64 | uint64](n, to T) T { return (n + to - 1) &^ (to - 1) }
