// Package layer unpacks layers of images into folders that overlayfs can
// stack. A layer is foreign: whatever it holds, nothing is written beside its
// folder, and more than the limits never.
package layer

import (
	"archive/tar"
	"context"
	"fmt"
	"io"
	"os"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"tero.internal/common/fault"
	"tero.internal/runtime/internal/stream"
)

// Layer is one layer of an image.
type Layer struct {
	Digest    digest.Digest `json:"digest"`
	DiffID    digest.Digest `json:"diffId"`
	ChainID   digest.Digest `json:"chainId"` // names the unpacked folder
	Size      int64         `json:"size"`
	MediaType string        `json:"mediaType"`
}

// Limits bound what a layer may make of the disk.
type Limits struct {
	// Bytes is the most bytes of a layer, unpacked.
	Bytes int64
	// Entries is the most files in a layer, with the folders that names imply.
	Entries int
}

// ChainID names a stack of layers (image-spec, config.md, Layer ChainID).
func ChainID(parent, diff digest.Digest) digest.Digest {
	if parent == "" {
		return diff
	}
	return digest.FromString(string(parent) + " " + string(diff))
}

// Unpack unpacks a layer's tar into the new folder dir, in the form that
// overlayfs wants of a lower folder, and makes it durable. lower are the folders
// of the layers below, uppermost first. It gives the bytes that it wrote. On an
// error the folder is left half done, for the caller to remove.
//
// Every name is resolved by the kernel beneath dir without following any link
// (openat2), so that no entry can reach outside, whatever entries came before.
func Unpack(ctx context.Context, blob io.Reader, dir string, l Layer, lower []string, limits Limits) (int64, error) {
	if err := os.Mkdir(dir, 0o755); err != nil { //nolint:gosec // the root folder of an image; its parent is 0700
		return 0, err
	}
	u := &unpacker{layer: l, lower: lower, limits: limits, buf: make([]byte, 256<<10), parentFD: -1}
	var err error
	if u.root, err = unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0); err != nil {
		return 0, err
	}
	defer u.close()

	plain, _, err := stream.Decompress(stream.WithContext(ctx, blob))
	if err != nil {
		return 0, corrupt(l, err)
	}
	defer plain.Close()
	hash := digest.SHA256.Digester()
	// A tar's size beyond its files' is headers and padding; what is left of
	// the limit for those keeps a stream of headers from running on.
	limited := stream.Limit(plain, limits.Bytes+int64(limits.Entries)*4096, "layer "+string(l.Digest))
	hashed := io.TeeReader(limited, hash.Hash())
	if err := u.entries(tar.NewReader(hashed)); err != nil {
		return 0, err
	}
	if _, err := io.CopyBuffer(io.Discard, struct{ io.Reader }{hashed}, u.buf); err != nil { // padding after the tar's end
		return 0, corrupt(l, err)
	}
	if got := hash.Digest(); got != l.DiffID {
		return 0, corrupt(l, fmt.Errorf("its content is %s, the image's configuration says %s", got, l.DiffID))
	}
	return u.bytes, u.finish()
}

// corrupt is the fault for a layer that is not what its digests say; a fault,
// such as a limit's, stays as it is.
func corrupt(l Layer, err error) error {
	if fault.KindOf(err) != fault.Internal {
		return err
	}
	return fault.New(fault.Corrupt, "layer %s is damaged: %w", l.Digest, err).
		WithHint("make or fetch the archive again; nothing of it was stored")
}
