// Package erofs makes one read-only file system image (EROFS) of a container
// image's layers: what overlayfs would show of them, merged once instead of at
// every start.
//
//	block 0         superblock
//	block 1 ...     inodes, with their extended attributes and the ends of their data
//	then            whole blocks of data, in the order of the inodes
//
// The same layers give the same bytes, so that an image can be named by its
// digest. Layers are folders that runtime/internal/layer unpacked: their content
// is foreign, their form is ours. Images that others made are never mounted:
// the kernel does not parse them as carefully as a registry would require.
package erofs

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"
)

// Version is that of the composition: it grows when the same layers would give
// other bytes than before.
const Version = 1

// Info is what Compose made.
type Info struct {
	Digest digest.Digest
	// Size is the image's in bytes; holes of sparse files take no space of it.
	Size int64
	// Inodes counts files, folders and links; hard links to one file once.
	Inodes int
}

// Compose writes the image of layers, uppermost first, to an empty file and
// makes it durable. On an error the file is half done, for the caller to remove.
func Compose(ctx context.Context, out *os.File, layers []string) (Info, error) {
	if len(layers) == 0 {
		return Info{}, errors.New("there are no layers")
	}
	m := &merger{ctx: ctx, linked: map[inode]*node{}}
	defer func() {
		for _, fd := range m.layers {
			_ = unix.Close(fd)
		}
	}()
	for _, l := range layers {
		fd, err := unix.Open(l, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
		if err != nil {
			return Info{}, fmt.Errorf("open layer %s: %w", l, err)
		}
		m.layers = append(m.layers, fd)
	}
	root, err := m.root()
	if err != nil {
		return Info{}, err
	}
	l, err := plan(root)
	if err != nil {
		return Info{}, err
	}
	w := &writer{layers: m.layers, meta: newSequence(out, metaStart), data: newSequence(out, l.data), buf: make([]byte, copySize)}
	if err := w.write(ctx, out, l); err != nil {
		return Info{}, err
	}
	if err := out.Sync(); err != nil {
		return Info{}, err
	}
	info := Info{Size: int64(l.blocks) * blockSize, Inodes: len(l.order)}
	info.Digest, err = digestOf(ctx, out, info.Size, w.buf)
	return info, err
}

// digestOf reads what was written. It is still in memory, unless it is larger.
func digestOf(ctx context.Context, f *os.File, size int64, buf []byte) (digest.Digest, error) {
	hash := sha256.New()
	r := io.NewSectionReader(f, 0, size)
	for {
		if err := ctx.Err(); err != nil {
			return "", err
		}
		n, err := r.Read(buf)
		hash.Write(buf[:n])
		if errors.Is(err, io.EOF) {
			return digest.NewDigest(digest.SHA256, hash), nil
		}
		if err != nil {
			return "", err
		}
	}
}
