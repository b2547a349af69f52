package ocilayout

import (
	"archive/tar"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"time"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"tero.internal/common/fault"
)

// WriteTar streams the layout as a tar, the form that the daemon and
// "skopeo copy oci-archive:" read: the index and the blobs that it leads to.
// Equal indexes give equal streams.
func (l *Layout) WriteTar(ctx context.Context, w io.Writer) error {
	blobs := path.Join(v1.ImageBlobsDir, "sha256")
	idx, err := l.Index()
	if err != nil {
		return err
	}
	reached := map[digest.Digest]bool{}
	if err := l.reach(idx.Manifests, reached, 0); err != nil {
		return err
	}
	tw := tar.NewWriter(w)
	names := []string{v1.ImageLayoutFile, v1.ImageIndexFile}
	for _, dir := range []string{v1.ImageBlobsDir, blobs} {
		if err := tw.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: dir + "/", Mode: 0o755, ModTime: time.Unix(0, 0), Format: tar.FormatUSTAR}); err != nil {
			return fmt.Errorf("write tar: %w", err)
		}
	}
	for _, d := range slices.Sorted(maps.Keys(reached)) {
		names = append(names, path.Join(blobs, d.Encoded()))
	}
	for _, name := range names {
		if err := ctx.Err(); err != nil {
			return fmt.Errorf("write tar: %w", err)
		}
		if err := addFile(tw, filepath.Join(l.dir, name), &tar.Header{Name: name, Mode: 0o644, ModTime: time.Unix(0, 0)}); err != nil {
			return err
		}
	}
	if err := tw.Close(); err != nil {
		return fmt.Errorf("write tar: %w", err)
	}
	return nil
}

// maxNesting is how deep indexes may lie in one another.
const maxNesting = 4

// reach collects the blobs that descriptors lead to.
func (l *Layout) reach(descriptors []v1.Descriptor, reached map[digest.Digest]bool, depth int) error {
	if depth > maxNesting {
		return fault.New(fault.Invalid, "layout %s: indexes lie more than %d deep in one another", l.dir, maxNesting)
	}
	for _, d := range descriptors {
		if reached[d.Digest] {
			continue
		}
		if _, err := l.blobPath(d.Digest); err != nil {
			return err
		}
		reached[d.Digest] = true
		if d.MediaType != v1.MediaTypeImageManifest && d.MediaType != v1.MediaTypeImageIndex {
			continue
		}
		b, err := l.ReadBlob(d)
		if err != nil {
			return err
		}
		var doc struct {
			Config    *v1.Descriptor  `json:"config"`
			Layers    []v1.Descriptor `json:"layers"`
			Manifests []v1.Descriptor `json:"manifests"`
		}
		if err := json.Unmarshal(b, &doc); err != nil {
			return fault.New(fault.Corrupt, "layout %s: %s: %w", l.dir, d.Digest, err)
		}
		next := slices.Concat(doc.Manifests, doc.Layers)
		if doc.Config != nil {
			next = append(next, *doc.Config)
		}
		if err := l.reach(next, reached, depth+1); err != nil {
			return err
		}
	}
	return nil
}

// addFile writes a regular file's header, completed with its size, and content.
func addFile(tw *tar.Writer, file string, h *tar.Header) error {
	f, err := os.Open(file) //nolint:gosec // a path the caller chose
	if err != nil {
		return fmt.Errorf("write tar: %w", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return fmt.Errorf("write tar: %w", err)
	}
	if !info.Mode().IsRegular() {
		return fmt.Errorf("write tar: %s is not a regular file", file)
	}
	h.Typeflag, h.Size = tar.TypeReg, info.Size()
	if err := tw.WriteHeader(h); err != nil {
		return fmt.Errorf("write tar: %s: %w", file, err)
	}
	if _, err := io.CopyN(tw, f, info.Size()); err != nil {
		return fmt.Errorf("write tar: %s changed while it was read: %w", file, err)
	}
	return nil
}
