// Package archive reads archives of images: a tar of an OCI image layout or a
// docker-archive, plain or compressed. Archives are foreign: an archive is
// staged and digested to its end before anything of it counts, no name in it
// becomes a path, and more than the limits is never written.
package archive

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"tero.internal/common/fault"
	"tero.internal/common/ocilayout"
	"tero.internal/runtime/internal/stream"
)

// Config says where an archive is staged and what it may hold.
type Config struct {
	// Dir is the folder that gets a folder for the archive.
	Dir    string
	Limits Limits
	// DiskFault makes an error of Dir's disk one for the user.
	DiskFault func(err error, operation string) error
}

// Limits bound what an archive may hold.
type Limits struct {
	// Bytes is the most bytes of an archive, decompressed.
	Bytes int64
	// Entries is the most files in an archive.
	Entries int
	// Layers is the most layers of one image.
	Layers int
}

// Archive is an archive's content, staged in a folder of its own. No name of
// the archive becomes a path: files are numbered.
type Archive struct {
	dir       string
	limits    Limits
	diskFault func(err error, operation string) error
	files     map[string]file   // by cleaned name in the archive
	links     map[string]string // symbolic and hard links, by cleaned name
	blobs     map[digest.Digest]file
}

// file is a staged file.
type file struct {
	path   string
	size   int64
	digest digest.Digest
}

// Stage reads an archive to its end, and digests every file of it. Blobs of a
// layout must be what their names say. The caller removes the archive.
func Stage(ctx context.Context, r io.Reader, c Config) (_ *Archive, err error) {
	dir, err := os.MkdirTemp(c.Dir, "import-")
	if err != nil {
		return nil, c.DiskFault(err, "import")
	}
	a := &Archive{
		dir: dir, limits: c.Limits, diskFault: c.DiskFault,
		files: map[string]file{}, links: map[string]string{}, blobs: map[digest.Digest]file{},
	}
	defer func() {
		if err != nil {
			_ = a.Remove()
		}
	}()
	plain, _, err := stream.Decompress(stream.WithContext(ctx, r))
	if err != nil {
		return nil, damaged(ctx, err)
	}
	defer plain.Close()
	tr := tar.NewReader(stream.Limit(plain, c.Limits.Bytes, "the archive"))
	for n := 0; ; n++ {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, damaged(ctx, err)
		}
		if n >= c.Limits.Entries {
			return nil, fault.New(fault.Invalid, "the archive has more than %d entries", c.Limits.Entries)
		}
		if err := a.add(ctx, h, tr, n); err != nil {
			return nil, err
		}
	}
	if len(a.files) == 0 {
		return nil, fault.New(fault.Invalid, "the archive is empty, or no tar").
			WithHint("an image archive is a tar of an OCI image layout or a docker-archive")
	}
	return a, nil
}

// Open opens a blob that an image of the archive names.
func (a *Archive) Open(d digest.Digest) (*os.File, error) { return os.Open(a.blobs[d].path) }

// Folder gives a path beside the staged files, for work that goes with them.
func (a *Archive) Folder(name string) string { return filepath.Join(a.dir, name) }

// Remove removes what is staged.
func (a *Archive) Remove() error { return os.RemoveAll(a.dir) }

// add stages one entry.
func (a *Archive) add(ctx context.Context, h *tar.Header, r io.Reader, n int) error {
	name := path.Clean(strings.TrimPrefix(h.Name, "./"))
	if path.IsAbs(name) || name == ".." || strings.HasPrefix(name, "../") || len(name) > 1024 {
		return fault.New(fault.Invalid, "the archive has an entry outside of itself: %q", h.Name)
	}
	switch h.Typeflag {
	case tar.TypeDir:
		return nil
	case tar.TypeSymlink: // docker-archives name one layer twice
		a.links[name] = path.Join(path.Dir(name), h.Linkname) //nolint:gosec // a key to look up, never a path
		return nil
	case tar.TypeLink:
		a.links[name] = path.Clean(h.Linkname)
		return nil
	case tar.TypeReg:
	default:
		return fault.New(fault.Invalid, "the archive has an entry that is no file, folder or link: %q", h.Name)
	}
	if _, ok := a.files[name]; ok {
		return fault.New(fault.Invalid, "the archive has two files %q", name)
	}
	f, err := a.write(strconv.Itoa(n), r)
	if err != nil {
		if stream.IsReadError(err) {
			return damaged(ctx, fmt.Errorf("%s: %w", name, err))
		}
		return a.diskFault(err, "import "+name)
	}
	a.files[name] = f
	hex, isBlob := strings.CutPrefix(name, v1.ImageBlobsDir+"/sha256/")
	if !isBlob {
		return nil
	}
	want := digest.NewDigestFromEncoded(digest.SHA256, hex)
	if want.Validate() != nil {
		return fault.New(fault.Invalid, "the archive has a blob whose name is no SHA-256 digest: %q", name)
	}
	if f.digest != want {
		return fault.New(fault.Corrupt, "blob %s is damaged: what the archive has under its name is %s", want, f.digest).
			WithHint("make or fetch the archive again; nothing of it was stored")
	}
	a.blobs[want] = f
	return nil
}

func (a *Archive) write(name string, r io.Reader) (f file, err error) {
	f.path = filepath.Join(a.dir, name)
	out, err := os.OpenFile(f.path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return f, err
	}
	hash := digest.SHA256.Digester()
	f.size, err = io.CopyBuffer(io.MultiWriter(out, hash.Hash()), stream.MarkErrors(r), make([]byte, 256<<10))
	if cerr := out.Close(); err == nil {
		err = cerr
	}
	f.digest = hash.Digest()
	return f, err
}

// find finds a file of the archive by name, through one link.
func (a *Archive) find(name string) (file, bool) {
	name = path.Clean(strings.TrimPrefix(name, "./"))
	if target, ok := a.links[name]; ok {
		name = target
	}
	f, ok := a.files[name]
	return f, ok
}

// document reads a file of the archive that must be small.
func (a *Archive) document(f file, what string) ([]byte, error) {
	if f.size > ocilayout.MaxDocument {
		return nil, fault.New(fault.Invalid, "%s has %d bytes; the most is %d", what, f.size, ocilayout.MaxDocument)
	}
	b, err := os.ReadFile(f.path)
	if err != nil {
		return nil, fmt.Errorf("import: read %s: %w", what, err)
	}
	return b, nil
}

// blob finds a descriptor's blob, whose digest was checked while it came in.
func (a *Archive) blob(d v1.Descriptor, what string) (file, error) {
	f, ok := a.blobs[d.Digest]
	if !ok {
		return f, fault.New(fault.Corrupt, "the archive lacks %s %s", what, d.Digest).
			WithHint("make or fetch the archive again; nothing of it was stored")
	}
	if f.size != d.Size {
		return f, fault.New(fault.Corrupt, "%s %s has %d bytes; its descriptor says %d", what, d.Digest, f.size, d.Size)
	}
	return f, nil
}

// Has is nil when a descriptor's blob is there, with the size that it says.
func (a *Archive) Has(d v1.Descriptor, what string) error {
	_, err := a.blob(d, what)
	return err
}

// Document reads a descriptor's blob that must be small.
func (a *Archive) Document(d v1.Descriptor, what string) ([]byte, error) {
	f, err := a.blob(d, what)
	if err != nil {
		return nil, err
	}
	return a.document(f, what+" "+string(d.Digest))
}

// addDocument adds a document that was made here.
func (a *Archive) addDocument(b []byte) (file, error) {
	f, err := a.write("made-"+strconv.Itoa(len(a.blobs)), bytes.NewReader(b))
	if err != nil {
		return f, a.diskFault(err, "import")
	}
	a.blobs[f.digest] = f
	return f, nil
}

func damaged(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return fmt.Errorf("import: %w", ctx.Err())
	}
	if fault.KindOf(err) != fault.Internal {
		return err
	}
	if errors.Is(err, io.ErrUnexpectedEOF) {
		return fault.New(fault.Corrupt, "the archive ends too early: %w", err).
			WithHint("make or fetch the archive again; nothing of it was stored")
	}
	return fault.New(fault.Corrupt, "the archive cannot be read: %w", err).
		WithHint("an image archive is a tar of an OCI image layout or a docker-archive, plain or compressed with gzip or zstd")
}
