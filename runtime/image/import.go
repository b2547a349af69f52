package image

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"time"

	"github.com/opencontainers/go-digest"

	"tero.internal/common/atomicfile"
	"tero.internal/common/ocilayout"
	"tero.internal/runtime/internal/archive"
	"tero.internal/runtime/internal/imagedb"
	"tero.internal/runtime/internal/layer"
)

// ImportOptions say how to import.
type ImportOptions struct {
	// Reference names the archive's only image, or picks one of several; the
	// names in the archive count when it is empty.
	Reference string
}

// Import stores the images of an archive: a tar of an OCI image layout or a
// docker-archive, plain or compressed. Everything is checked; on an error
// nothing of it is stored, and what was stored before is as it was.
func (s *Store) Import(ctx context.Context, r io.Reader, o ImportOptions) (_ []Info, err error) {
	if o.Reference != "" { // tell before the bytes come
		if _, err := archive.ParseName(o.Reference); err != nil {
			return nil, err
		}
	}
	a, err := archive.Stage(ctx, r, s.staging())
	if err != nil {
		return nil, err
	}
	defer func() {
		if rerr := a.Remove(); rerr != nil && err == nil {
			err = fmt.Errorf("import: remove what was staged: %w", rerr)
		}
	}()
	images, sigs, err := a.Images(o.Reference)
	if err != nil {
		return nil, err
	}
	if err := s.store(ctx, a, images, sigs); err != nil {
		if _, serr := s.sweep(context.WithoutCancel(ctx)); serr != nil {
			err = fmt.Errorf("%w (and clean-up failed: %w)", err, serr)
		}
		return nil, err
	}
	// A name that moved here may have left an image without one.
	if _, err := s.Prune(ctx); err != nil {
		return nil, err
	}
	var out []Info
	for _, f := range images {
		info, err := s.Inspect(ctx, f.Reference.String())
		if err != nil {
			return nil, err
		}
		s.log.InfoContext(ctx, "image imported", slog.String("reference", info.Reference),
			slog.String("digest", string(info.Digest)), slog.Int64("bytes", info.Size), slog.Int("signers", len(info.Signers)))
		out = append(out, info)
	}
	return out, nil
}

// staging says how archives are staged.
func (s *Store) staging() archive.Config {
	return archive.Config{
		Dir:       s.ingest(),
		Limits:    archive.Limits{Bytes: s.limits.ArchiveBytes, Entries: s.limits.ArchiveEntries, Layers: s.limits.Layers},
		DiskFault: s.diskFault,
	}
}

// store makes the parts durable, then records the images.
func (s *Store) store(ctx context.Context, a *archive.Archive, images []archive.Image, sigs []ocilayout.Signature) error {
	var paths []string
	for _, f := range images {
		paths = append(paths, s.parts(f.Image)...)
		if f.Index != "" {
			paths = append(paths, s.blobPath(f.Index))
		}
	}
	defer s.pin(paths)()
	entries := make([]imagedb.Entry, 0, len(images))
	for _, f := range images {
		var lower []string // uppermost first
		for _, l := range f.Layers {
			if err := s.addLayer(ctx, a, l, lower); err != nil {
				return err
			}
			lower = append([]string{s.layerPath(l.ChainID)}, lower...)
		}
		composed, unpin, err := s.compose(ctx, f.Image)
		if err != nil {
			return err
		}
		defer unpin() // when all images are recorded
		f.Composed = composed
		digests := []digest.Digest{f.Digest, f.ConfigDigest}
		if f.Index != "" {
			digests = append(digests, f.Index)
		}
		for _, l := range f.Layers {
			digests = append(digests, l.Digest)
		}
		for _, d := range digests {
			if err := s.addBlob(a, d); err != nil {
				return s.diskFault(err, "store blob "+string(d))
			}
		}
		entries = append(entries, imagedb.Entry{
			Name:  imagedb.Name{Reference: f.Reference.String(), Digest: f.Digest, Index: f.Index},
			Image: f.Image,
		})
	}
	if err := atomicfile.SyncDir(s.blobs()); err != nil {
		return s.diskFault(err, "store blobs")
	}
	err := s.db.Add(entries, sigs)
	s.signatures.Add(1)
	return s.diskFault(err, "record the image")
}

// addBlob gives a staged blob its place in the store.
func (s *Store) addBlob(a *archive.Archive, d digest.Digest) error {
	to := s.blobPath(d)
	if _, err := os.Lstat(to); err == nil {
		return nil
	} else if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	f, err := a.Open(d)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := f.Sync(); err != nil {
		return err
	}
	// Linked, not renamed: the other images of the archive may need it staged.
	if err := os.Link(f.Name(), to); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return nil
}

// addLayer unpacks a layer, unless it is there. Of several imports that need
// it at the same time one does the work.
func (s *Store) addLayer(ctx context.Context, a *archive.Archive, l layer.Layer, lower []string) error {
	unlock, err := s.layerLocks.lock(ctx, string(l.ChainID))
	if err != nil {
		return err
	}
	defer unlock()
	to := s.layerPath(l.ChainID)
	if _, err := os.Lstat(to); err == nil {
		return nil
	} else if !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("layer %s: %w", l.Digest, err)
	}
	blob, err := a.Open(l.Digest)
	if err != nil {
		return fmt.Errorf("layer %s: %w", l.Digest, err)
	}
	defer blob.Close()
	dir := a.Folder("layer-" + l.ChainID.Encoded())
	began := time.Now()
	n, err := layer.Unpack(ctx, blob, dir, l, lower, layer.Limits{Bytes: s.limits.LayerBytes, Entries: s.limits.LayerEntries})
	if err != nil {
		_ = os.RemoveAll(dir)
		if ctx.Err() != nil {
			return fmt.Errorf("unpack layer %s: %w", l.Digest, ctx.Err())
		}
		return s.diskFault(err, "unpack layer "+string(l.Digest))
	}
	if err := os.Rename(dir, to); err != nil {
		return s.diskFault(err, "unpack layer "+string(l.Digest))
	}
	if err := atomicfile.SyncDir(s.layers()); err != nil {
		return s.diskFault(err, "unpack layer "+string(l.Digest))
	}
	s.log.DebugContext(ctx, "layer unpacked", slog.String("layer", string(l.Digest)), slog.Int64("bytes", n),
		slog.Duration("took", time.Since(began)))
	return nil
}
