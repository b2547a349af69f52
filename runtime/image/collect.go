package image

import (
	"context"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"tero.internal/runtime/internal/erofs"
	"tero.internal/runtime/internal/manifest"
)

// Prune removes images that have no name, no container and no launch, and what
// only they needed. It gives the bytes that it freed.
func (s *Store) Prune(ctx context.Context) (int64, error) {
	s.dropping.Lock()
	err := s.db.Prune(s.isUsed)
	s.dropping.Unlock()
	s.signatures.Add(1)
	if err != nil {
		return 0, s.diskFault(err, "collect images")
	}
	return s.sweep(ctx)
}

// sweep removes blobs, layers and composed images that no image needs and no import has pinned.
func (s *Store) sweep(ctx context.Context) (freed int64, err error) {
	s.collecting.Lock()
	defer s.collecting.Unlock()
	// Pins first: an import unpins after its images are recorded, so that what it
	// stored is seen in one of the two.
	keep := map[string]bool{}
	s.pinsMu.Lock()
	for path := range s.pins {
		keep[path] = true
	}
	s.pinsMu.Unlock()
	if err := s.need(keep); err != nil {
		return 0, err
	}
	for _, dir := range []string{s.blobs(), s.layers(), s.roots()} {
		entries, err := os.ReadDir(dir)
		if err != nil {
			return freed, fmt.Errorf("collect garbage: %w", err)
		}
		for _, e := range entries {
			path := filepath.Join(dir, e.Name())
			if keep[path] {
				continue
			}
			n, err := s.discard(path)
			freed += n
			if dir == s.roots() {
				s.gone(path)
			}
			if err != nil {
				return freed, fmt.Errorf("collect garbage: %w", err)
			}
			s.log.DebugContext(ctx, "removed unreferenced content", slog.String("path", path), slog.Int64("bytes", n))
		}
	}
	return freed, nil
}

// need adds the paths of the blobs and layers of all recorded images to keep.
func (s *Store) need(keep map[string]bool) error {
	names, images, err := s.db.All()
	if err != nil {
		return err
	}
	for _, n := range names {
		if n.Index != "" {
			keep[s.blobPath(n.Index)] = true
		}
	}
	for _, img := range images {
		for _, path := range s.parts(img) {
			keep[path] = true
		}
	}
	return nil
}

// parts gives the paths of an image's blobs, layers and composed image.
func (s *Store) parts(img manifest.Image) []string {
	out := []string{s.blobPath(img.Digest), s.blobPath(img.ConfigDigest)}
	for _, l := range img.Layers {
		out = append(out, s.blobPath(l.Digest), s.layerPath(l.ChainID))
	}
	if img.Composed.Version == erofs.Version {
		out = append(out, s.rootPath(img.Composed.Digest))
	}
	return out
}

// discard removes a blob or a layer under its name at once, so that a crash
// leaves no half of it there, then its content.
func (s *Store) discard(path string) (freed int64, err error) {
	tmp, err := os.MkdirTemp(s.ingest(), "discard-")
	if err != nil {
		return 0, err
	}
	if err := os.Rename(path, filepath.Join(tmp, "x")); err != nil {
		return 0, err
	}
	seen := map[uint64]bool{} // a file with several links counts once
	err = filepath.WalkDir(tmp, func(p string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		var st unix.Stat_t
		if err := unix.Lstat(p, &st); err != nil {
			return err
		}
		if !seen[st.Ino] {
			seen[st.Ino] = true
			freed += st.Blocks * 512
		}
		return nil
	})
	if err != nil {
		return freed, err
	}
	return freed, os.RemoveAll(tmp)
}

// pin keeps paths from being collected until unpin.
func (s *Store) pin(paths []string) (unpin func()) {
	s.collecting.RLock() // a collection under way has seen the pins or is over
	defer s.collecting.RUnlock()
	s.pinsMu.Lock()
	defer s.pinsMu.Unlock()
	for _, p := range paths {
		s.pins[p]++
	}
	return func() {
		s.pinsMu.Lock()
		defer s.pinsMu.Unlock()
		for _, p := range paths {
			if s.pins[p]--; s.pins[p] == 0 {
				delete(s.pins, p)
			}
		}
	}
}
