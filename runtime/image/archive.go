package image

import (
	"archive/tar"
	"bufio"
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

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"tero.internal/common/fault"
	"tero.internal/common/ocilayout"
)

// archive is an archive's content, staged in a folder of its own. No name of
// the archive becomes a path: files are numbered.
type archive struct {
	store *Store
	dir   string
	files map[string]stagedFile // by cleaned name in the archive
	links map[string]string     // symbolic and hard links, by cleaned name
	blobs map[digest.Digest]stagedFile
}

type stagedFile struct {
	path   string
	size   int64
	digest digest.Digest
}

// stage reads an archive to its end, and digests every file of it. Blobs of a
// layout must be what their names say.
func (s *Store) stage(ctx context.Context, r io.Reader) (_ *archive, err error) {
	dir, err := os.MkdirTemp(s.ingest(), "import-")
	if err != nil {
		return nil, s.diskFault(err, "import")
	}
	a := &archive{store: s, dir: dir, files: map[string]stagedFile{}, links: map[string]string{}, blobs: map[digest.Digest]stagedFile{}}
	defer func() {
		if err != nil {
			_ = a.remove()
		}
	}()
	plain, _, err := decompress(contextReader{ctx, r})
	if err != nil {
		return nil, damagedArchive(ctx, err)
	}
	defer plain.Close()
	limited := &limitedReader{r: plain, left: s.limits.ArchiveBytes, what: "the archive"}
	tr := tar.NewReader(limited)
	for n := 0; ; n++ {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, damagedArchive(ctx, err)
		}
		if n >= s.limits.ArchiveEntries {
			return nil, fault.New(fault.Invalid, "the archive has more than %d entries", s.limits.ArchiveEntries)
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

// add stages one entry.
func (a *archive) add(ctx context.Context, h *tar.Header, r io.Reader, n int) error {
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
		if isReadError(err) {
			return damagedArchive(ctx, fmt.Errorf("%s: %w", name, err))
		}
		return a.store.diskFault(err, "import "+name)
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

// readError marks an error of the archive's side, not of the store's disk.
type readError struct{ error }

// Unwrap gives the error itself.
func (e readError) Unwrap() error { return e.error }

func isReadError(err error) bool {
	var e readError
	return errors.As(err, &e)
}

// markReads marks the errors of a reader.
type markReads struct{ r io.Reader }

// Read reads.
func (m markReads) Read(p []byte) (int, error) {
	n, err := m.r.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		err = readError{err}
	}
	return n, err
}

func (a *archive) write(name string, r io.Reader) (f stagedFile, err error) {
	f.path = filepath.Join(a.dir, name)
	out, err := os.OpenFile(f.path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return f, err
	}
	hash := digest.SHA256.Digester()
	f.size, err = io.CopyBuffer(io.MultiWriter(out, hash.Hash()), markReads{r}, make([]byte, 256<<10))
	if cerr := out.Close(); err == nil {
		err = cerr
	}
	f.digest = hash.Digest()
	return f, err
}

// file finds a file of the archive by name, through one link.
func (a *archive) file(name string) (stagedFile, bool) {
	name = path.Clean(strings.TrimPrefix(name, "./"))
	if target, ok := a.links[name]; ok {
		name = target
	}
	f, ok := a.files[name]
	return f, ok
}

// document reads a file of the archive that must be small.
func (a *archive) document(f stagedFile, what string) ([]byte, error) {
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
func (a *archive) blob(d v1.Descriptor, what string) (stagedFile, error) {
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

// blobDocument reads a descriptor's blob that must be small.
func (a *archive) blobDocument(d v1.Descriptor, what string) ([]byte, error) {
	f, err := a.blob(d, what)
	if err != nil {
		return nil, err
	}
	return a.document(f, what+" "+string(d.Digest))
}

// addDocument adds a document that was made here.
func (a *archive) addDocument(b []byte) (stagedFile, error) {
	f, err := a.write("made-"+strconv.Itoa(len(a.blobs)), bytes.NewReader(b))
	if err != nil {
		return f, a.store.diskFault(err, "import")
	}
	a.blobs[f.digest] = f
	return f, nil
}

func (a *archive) remove() error { return os.RemoveAll(a.dir) }

func damagedArchive(ctx context.Context, err error) error {
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

// The compressions of layers and archives, by media type suffix.
const (
	compressionNone = ""
	compressionGzip = "gzip"
	compressionZstd = "zstd"
)

// maxWindow bounds what a zstd stream makes the decoder allocate (RFC 8878
// asks decoders to support 8 MiB; zstd --long goes to 128 MiB).
const maxWindow = 128 << 20

// decompress tells the compression by its magic number and undoes it.
func decompress(r io.Reader) (io.ReadCloser, string, error) {
	br := bufio.NewReaderSize(r, 256<<10)
	magic, err := br.Peek(4)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, "", err
	}
	switch {
	case bytes.HasPrefix(magic, []byte{0x1f, 0x8b}):
		z, err := gzip.NewReader(br)
		if err != nil {
			return nil, "", fmt.Errorf("gzip: %w", err)
		}
		return z, compressionGzip, nil
	case bytes.Equal(magic, []byte{0x28, 0xb5, 0x2f, 0xfd}):
		z, err := zstd.NewReader(br, zstd.WithDecoderMaxWindow(maxWindow), zstd.WithDecoderConcurrency(1))
		if err != nil {
			return nil, "", fmt.Errorf("zstd: %w", err)
		}
		return z.IOReadCloser(), compressionZstd, nil
	}
	return io.NopCloser(br), compressionNone, nil
}

// limitedReader fails when more than the limit comes; io.LimitReader would
// take a cut stream for a whole one.
type limitedReader struct {
	r    io.Reader
	left int64
	what string
}

// Read reads.
func (l *limitedReader) Read(p []byte) (int, error) {
	n, err := l.r.Read(p)
	if l.left -= int64(n); l.left < 0 {
		return 0, fault.New(fault.Invalid, "%s is larger than the limit when decompressed", l.what)
	}
	return n, err
}

// contextReader ends with its context.
type contextReader struct {
	ctx context.Context //nolint:containedctx // a reader for one call
	r   io.Reader
}

// Read reads.
func (c contextReader) Read(p []byte) (int, error) {
	if err := c.ctx.Err(); err != nil {
		return 0, err
	}
	return c.r.Read(p)
}
