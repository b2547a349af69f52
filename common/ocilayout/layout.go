// Package ocilayout is the offline work on images, which needs no daemon:
// build an OCI image layout from a folder, sign it as cosign does, send it off
// as a tar. It also holds what both ends must read alike: references, and
// cosign's signatures.
//
// Specifications: OCI image-spec 1.1 (image-layout.md), cosign's
// specs/SIGNATURE_SPEC.md and the simple signing format of containers/image.
package ocilayout

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"tero.internal/common/atomicfile"
	"tero.internal/common/fault"
)

// MaxDocument is the most bytes of an index, a manifest or a configuration
// that TERO reads (registries take 4 MiB).
const MaxDocument = 4 << 20

// AnnotationContainerdName is where containerd keeps an image's full name.
const AnnotationContainerdName = "io.containerd.image.name"

// Layout is an OCI image layout in a folder. It is for one process at a time.
type Layout struct{ dir string }

// Create opens the layout in dir, and makes one where there is none.
func Create(dir string) (*Layout, error) {
	if err := os.MkdirAll(filepath.Join(dir, v1.ImageBlobsDir, "sha256"), 0o755); err != nil { //nolint:gosec // images are for others to read
		return nil, fmt.Errorf("layout folder: %w", err)
	}
	l := &Layout{dir: dir}
	if _, err := os.Lstat(filepath.Join(dir, v1.ImageLayoutFile)); err == nil {
		return Open(dir)
	} else if !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("layout: %w", err)
	}
	marker, err := json.Marshal(v1.ImageLayout{Version: v1.ImageLayoutVersion})
	if err != nil {
		return nil, fmt.Errorf("encode %s: %w", v1.ImageLayoutFile, err)
	}
	if err := l.writeIndex(v1.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: v1.MediaTypeImageIndex, Manifests: []v1.Descriptor{}}); err != nil {
		return nil, err
	}
	// The marker comes last: a folder with one is whole.
	if err := atomicfile.Write(filepath.Join(dir, v1.ImageLayoutFile), marker, 0o644); err != nil {
		return nil, err
	}
	return l, nil
}

// Open opens the layout in dir.
func Open(dir string) (*Layout, error) {
	b, err := readLimited(filepath.Join(dir, v1.ImageLayoutFile), MaxDocument)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fault.New(fault.NotFound, "%s is not an OCI image layout: it has no file %s", dir, v1.ImageLayoutFile).
			WithHint("make one with: tero image build")
	}
	if err != nil {
		return nil, err
	}
	var marker v1.ImageLayout
	if err := json.Unmarshal(b, &marker); err != nil || marker.Version != v1.ImageLayoutVersion {
		return nil, fault.New(fault.Unsupported, "%s: layout version %q is not %s", dir, marker.Version, v1.ImageLayoutVersion)
	}
	return &Layout{dir: dir}, nil
}

// Index reads the layout's index.
func (l *Layout) Index() (v1.Index, error) {
	path := filepath.Join(l.dir, v1.ImageIndexFile)
	b, err := readLimited(path, MaxDocument)
	if err != nil {
		return v1.Index{}, err
	}
	var idx v1.Index
	if err := json.Unmarshal(b, &idx); err != nil {
		return v1.Index{}, fault.New(fault.Corrupt, "%s: %w", path, err)
	}
	return idx, nil
}

func (l *Layout) writeIndex(idx v1.Index) error {
	b, err := json.Marshal(idx)
	if err != nil {
		return fmt.Errorf("encode index: %w", err)
	}
	return atomicfile.Write(filepath.Join(l.dir, v1.ImageIndexFile), b, 0o644)
}

// Tag puts a descriptor into the index under a name, in place of the one that
// had the name.
func (l *Layout) Tag(name string, d v1.Descriptor) error {
	idx, err := l.Index()
	if err != nil {
		return err
	}
	annotations := map[string]string{v1.AnnotationRefName: name}
	for k, v := range d.Annotations {
		if _, ok := annotations[k]; !ok {
			annotations[k] = v
		}
	}
	d.Annotations = annotations
	idx.Manifests = slices.DeleteFunc(idx.Manifests, func(o v1.Descriptor) bool {
		return o.Annotations[v1.AnnotationRefName] == name
	})
	idx.Manifests = append(idx.Manifests, d)
	slices.SortFunc(idx.Manifests, func(a, b v1.Descriptor) int { // equal content, equal bytes
		return bytes.Compare([]byte(a.Annotations[v1.AnnotationRefName]), []byte(b.Annotations[v1.AnnotationRefName]))
	})
	return l.writeIndex(idx)
}

// Find gives the image of that name. A layout's names may be full references
// or bare tags; a layout with one image has it for any name when name is "".
func (l *Layout) Find(name string) (v1.Descriptor, error) {
	idx, err := l.Index()
	if err != nil {
		return v1.Descriptor{}, err
	}
	var images []v1.Descriptor
	var names []string
	for _, d := range idx.Manifests {
		if IsSignature(d) {
			continue
		}
		images = append(images, d)
		names = append(names, DescriptorName(d))
	}
	if name == "" {
		if len(images) == 1 {
			return images[0], nil
		}
		return v1.Descriptor{}, fault.New(fault.Invalid, "layout %s holds %d images: %q", l.dir, len(images), names).WithHint("say which one")
	}
	if d, ok := match(images, name); ok {
		return d, nil
	}
	return v1.Descriptor{}, fault.New(fault.NotFound, "layout %s has no image %q; it has %q", l.dir, name, names)
}

// match finds the descriptor by the name as it stands, then by the full reference.
func match(images []v1.Descriptor, name string) (v1.Descriptor, bool) {
	for _, d := range images {
		if DescriptorName(d) == name || d.Annotations[v1.AnnotationRefName] == name {
			return d, true
		}
	}
	want, err := ParseReference(name)
	if err != nil {
		return v1.Descriptor{}, false
	}
	for _, d := range images {
		if got, err := ParseReference(DescriptorName(d)); err == nil && got == want {
			return d, true
		}
	}
	return v1.Descriptor{}, false
}

// DescriptorName gives the name that an index entry has: containerd's full
// name, else the OCI reference name, else "".
func DescriptorName(d v1.Descriptor) string {
	if n := d.Annotations[AnnotationContainerdName]; n != "" {
		return n
	}
	return d.Annotations[v1.AnnotationRefName]
}

// blobPath gives where a blob lies.
func (l *Layout) blobPath(d digest.Digest) (string, error) {
	if err := d.Validate(); err != nil || d.Algorithm() != digest.SHA256 {
		return "", fault.New(fault.Invalid, "digest %q is not a SHA-256 digest", string(d))
	}
	return filepath.Join(l.dir, v1.ImageBlobsDir, "sha256", d.Encoded()), nil
}

// ReadBlob gives a document's bytes, checked against its descriptor.
func (l *Layout) ReadBlob(d v1.Descriptor) ([]byte, error) {
	path, err := l.blobPath(d.Digest)
	if err != nil {
		return nil, err
	}
	b, err := readLimited(path, MaxDocument)
	if err != nil {
		return nil, err
	}
	if int64(len(b)) != d.Size || digest.FromBytes(b) != d.Digest {
		return nil, fault.New(fault.Corrupt, "layout %s: blob %s is not what its digest and size say", l.dir, d.Digest)
	}
	return b, nil
}

// WriteBlob stores a document.
func (l *Layout) WriteBlob(mediaType string, b []byte) (v1.Descriptor, error) {
	d := v1.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(b), Size: int64(len(b))}
	path, err := l.blobPath(d.Digest)
	if err != nil {
		return d, err
	}
	return d, atomicfile.Write(path, b, 0o644)
}

// writeBlobFrom stores what fill writes, and gives its digest and size.
func (l *Layout) writeBlobFrom(mediaType string, fill func(io.Writer) error) (d v1.Descriptor, err error) {
	dir := filepath.Join(l.dir, v1.ImageBlobsDir, "sha256")
	f, err := os.CreateTemp(dir, ".tmp-")
	if err != nil {
		return d, fmt.Errorf("write blob: %w", err)
	}
	defer func() {
		if err != nil {
			_ = f.Close()
			_ = os.Remove(f.Name())
		}
	}()
	hash := digest.SHA256.Digester()
	count := &countingWriter{w: io.MultiWriter(f, hash.Hash())}
	if err = fill(count); err != nil {
		return d, err
	}
	d = v1.Descriptor{MediaType: mediaType, Digest: hash.Digest(), Size: count.n}
	if err = f.Chmod(0o644); err != nil {
		return d, fmt.Errorf("write blob: %w", err)
	}
	if err = f.Sync(); err != nil {
		return d, fmt.Errorf("write blob: %w", err)
	}
	if err = f.Close(); err != nil {
		return d, fmt.Errorf("write blob: %w", err)
	}
	if err = os.Rename(f.Name(), filepath.Join(dir, d.Digest.Encoded())); err != nil {
		return d, fmt.Errorf("write blob: %w", err)
	}
	return d, atomicfile.SyncDir(dir)
}

type countingWriter struct {
	w io.Writer
	n int64
}

// Write counts and passes on.
func (c *countingWriter) Write(p []byte) (int, error) {
	n, err := c.w.Write(p)
	c.n += int64(n)
	return n, err
}

func readLimited(path string, limit int64) ([]byte, error) {
	f, err := os.Open(path) //nolint:gosec // a path the caller chose
	if err != nil {
		return nil, fmt.Errorf("read: %w", err)
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	if int64(len(b)) > limit {
		return nil, fault.New(fault.Invalid, "%s is larger than %d bytes", path, limit)
	}
	return b, nil
}
