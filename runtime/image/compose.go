package image

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"tero.internal/common/atomicfile"
	"tero.internal/runtime/internal/erofs"
	"tero.internal/runtime/internal/manifest"
	"tero.internal/runtime/internal/rootfs"
)

// beginComposing finds out whether the kernel can mount composed images; then
// those that have none get one beside the node's other work: they came while
// another kernel ran, or their composition is of an older version.
func (s *Store) beginComposing(ctx context.Context) (err error) {
	if s.scaffold, err = rootfs.OpenScaffold(filepath.Join(s.root, "scaffold")); err != nil {
		return s.diskFault(err, "open the image store")
	}
	ctx, s.stop = context.WithCancel(context.WithoutCancel(ctx))
	if err := s.scaffold.Probe(ctx, s.ingest()); err != nil {
		s.log.InfoContext(ctx, "images are not composed; each container gets an overlay of its image's layers", slog.Any("reason", err))
		return nil
	}
	s.composes = true
	s.composing.Go(func() {
		if err := s.composeMissing(ctx); err != nil && ctx.Err() == nil {
			s.log.WarnContext(ctx, "cannot compose an image; its containers get overlays", slog.Any("error", err))
		}
	})
	return nil
}

// erofs gives the file of an image's composed image, "" for none.
func (s *Store) erofs(ctx context.Context, img manifest.Image) string {
	if !s.composes || img.Composed.Version != erofs.Version {
		return ""
	}
	path := s.rootPath(img.Composed.Digest)
	if err := unix.Access(path, unix.F_OK); err != nil {
		s.log.WarnContext(ctx, "the composed image is missing; it is made again when the node starts",
			slog.String("image", string(img.Digest)), slog.String("path", path), slog.Any("error", err))
		return ""
	}
	return path
}

// composeMissing composes the images that lack it.
func (s *Store) composeMissing(ctx context.Context) error {
	_, images, err := s.db.All()
	if err != nil {
		return err
	}
	var errs []error
	for _, img := range images {
		if s.erofs(ctx, img) != "" || ctx.Err() != nil {
			continue
		}
		errs = append(errs, s.composeLate(ctx, img))
	}
	return errors.Join(errs...)
}

// composeLate composes an image that is recorded already, and may be removed meanwhile.
func (s *Store) composeLate(ctx context.Context, img manifest.Image) error {
	defer s.pin(s.parts(img))()
	composed, unpin, err := s.compose(ctx, img)
	if err != nil {
		return fmt.Errorf("image %s: %w", img.Digest, err)
	}
	err = s.db.SetComposed(img.Digest, composed)
	unpin()
	if err != nil {
		_, serr := s.sweep(ctx)
		return errors.Join(err, serr)
	}
	return nil
}

// compose makes the composed image of an image's layers, which are unpacked. It
// is kept from being collected until unpin, which the caller calls when the
// image is recorded with it.
func (s *Store) compose(ctx context.Context, img manifest.Image) (c manifest.Composed, unpin func(), err error) {
	unpin = func() {}
	if !s.composes || len(img.Layers) == 0 {
		return c, unpin, nil
	}
	chain := img.Layers[len(img.Layers)-1].ChainID
	unlock, err := s.layerLocks.lock(ctx, "compose "+string(chain))
	if err != nil {
		return c, unpin, err
	}
	defer unlock()
	if c, unpin, err = s.composedBefore(chain); err != nil || c.Version != 0 {
		return c, unpin, err
	}
	f, err := os.CreateTemp(s.ingest(), "compose-")
	if err != nil {
		return c, unpin, s.diskFault(err, "compose the image")
	}
	defer func() {
		_ = f.Close()
		if err != nil {
			_ = os.Remove(f.Name())
			unpin()
			err = s.diskFault(err, "compose the image")
		}
	}()
	var layers []string
	for _, l := range slices.Backward(img.Layers) {
		layers = append(layers, s.layerPath(l.ChainID))
	}
	began := time.Now()
	info, err := s.scaffold.Compose(ctx, f, layers)
	if err != nil {
		return c, unpin, err
	}
	path := s.rootPath(info.Digest)
	unpin = s.pin([]string{path})
	if err := os.Rename(f.Name(), path); err != nil {
		return c, unpin, err
	}
	if err := atomicfile.SyncDir(s.roots()); err != nil {
		return c, unpin, err
	}
	s.log.DebugContext(ctx, "image composed", slog.String("image", string(img.Digest)), slog.Int64("bytes", info.Size),
		slog.Int("inodes", info.Inodes), slog.Duration("took", time.Since(began)))
	return manifest.Composed{Digest: info.Digest, Version: erofs.Version}, unpin, nil
}

// composedBefore finds what the same layers were composed to for an image that
// is recorded, and pins it. The version is 0 when there is none.
func (s *Store) composedBefore(chain digest.Digest) (c manifest.Composed, unpin func(), err error) {
	_, images, err := s.db.All()
	if err != nil {
		return c, func() {}, err
	}
	for _, img := range images {
		if img.Composed.Version != erofs.Version || img.Layers[len(img.Layers)-1].ChainID != chain {
			continue
		}
		path := s.rootPath(img.Composed.Digest)
		unpin := s.pin([]string{path})
		if unix.Access(path, unix.F_OK) == nil { // nobody removes it from here on
			return img.Composed, unpin, nil
		}
		unpin()
	}
	return c, func() {}, nil
}
