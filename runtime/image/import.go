package image

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/opencontainers/go-digest"
	bolt "go.etcd.io/bbolt"

	"tero.internal/common/atomicfile"
	"tero.internal/common/fault"
	"tero.internal/common/ocilayout"
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
		if _, err := parseName(o.Reference); err != nil {
			return nil, err
		}
	}
	a, err := s.stage(ctx, r)
	if err != nil {
		return nil, err
	}
	defer func() {
		if rerr := a.remove(); rerr != nil && err == nil {
			err = fmt.Errorf("import: remove what was staged: %w", rerr)
		}
	}()
	images, sigs, err := a.images(o.Reference)
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
		info, err := s.Inspect(ctx, f.reference.String())
		if err != nil {
			return nil, err
		}
		s.log.InfoContext(ctx, "image imported", slog.String("reference", info.Reference),
			slog.String("digest", string(info.Digest)), slog.Int64("bytes", info.Size), slog.Int("signers", len(info.Signers)))
		out = append(out, info)
	}
	return out, nil
}

// store makes the parts durable, then records the images.
func (s *Store) store(ctx context.Context, a *archive, images []found, sigs []ocilayout.Signature) error {
	var paths []string
	for _, f := range images {
		paths = append(paths, s.parts(f.record)...)
		if f.index != "" {
			paths = append(paths, s.blobPath(f.index))
		}
	}
	defer s.pin(paths)()
	for _, f := range images {
		var lower []string // uppermost first
		for _, l := range f.record.Layers {
			if err := s.addLayer(ctx, a, l, lower); err != nil {
				return err
			}
			lower = append([]string{s.layerPath(l.ChainID)}, lower...)
		}
		digests := []digest.Digest{f.record.Digest, f.record.ConfigDigest}
		if f.index != "" {
			digests = append(digests, f.index)
		}
		for _, l := range f.record.Layers {
			digests = append(digests, l.Digest)
		}
		for _, d := range digests {
			if err := s.addBlob(a, d); err != nil {
				return s.diskFault(err, "store blob "+string(d))
			}
		}
	}
	if err := atomicfile.SyncDir(s.blobs()); err != nil {
		return s.diskFault(err, "store blobs")
	}
	err := s.db.Update(func(tx *bolt.Tx) error { return commit(tx, images, sigs) })
	s.signatures.Add(1)
	return s.diskFault(err, "record the image")
}

// commit records images, names and the signatures that are over one of them.
func commit(tx *bolt.Tx, images []found, sigs []ocilayout.Signature) error {
	now := time.Now().UTC()
	signable := map[digest.Digest]bool{}
	for _, f := range images {
		if err := put(tx, bucketImages, string(f.record.Digest), f.record); err != nil {
			return err
		}
		n := nameEntry{Reference: f.reference.String(), Digest: f.record.Digest, Index: f.index, Imported: now}
		if err := put(tx, bucketNames, n.Reference, n); err != nil {
			return err
		}
		signable[f.record.Digest] = true
		if f.index != "" {
			signable[f.index] = true
		}
	}
	for _, sig := range sigs {
		claim, err := ocilayout.ParseClaim(sig.Payload)
		if err != nil || !signable[claim.Digest] {
			continue // about something else: counts as none
		}
		if err := addSignature(tx, claim.Digest, sig); err != nil {
			return err
		}
	}
	return nil
}

// addBlob gives a staged blob its place in the store.
func (s *Store) addBlob(a *archive, d digest.Digest) error {
	to := s.blobPath(d)
	if _, err := os.Lstat(to); err == nil {
		return nil
	} else if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	f, err := os.Open(a.blobs[d].path)
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
func (s *Store) addLayer(ctx context.Context, a *archive, l Layer, lower []string) error {
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
	blob, err := os.Open(a.blobs[l.Digest].path)
	if err != nil {
		return fmt.Errorf("layer %s: %w", l.Digest, err)
	}
	defer blob.Close()
	dir := filepath.Join(a.dir, "layer-"+l.ChainID.Encoded())
	began := time.Now()
	n, err := unpackLayer(ctx, blob, dir, l, lower, s.limits)
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

// corruptLayer is the fault for a layer that is not what its digests say; a
// fault, such as a limit's, stays as it is.
func corruptLayer(l Layer, err error) error {
	if fault.KindOf(err) != fault.Internal {
		return err
	}
	return fault.New(fault.Corrupt, "layer %s is damaged: %w", l.Digest, err).
		WithHint("make or fetch the archive again; nothing of it was stored")
}
