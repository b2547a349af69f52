// Package image keeps the node's images: it takes archives in, checks every
// byte against its digest, unpacks layers into folders that overlayfs can
// stack, verifies who signed, and collects what nothing names any more.
//
// On disk, under Config.Root (mode 0700: layers hold set-user-ID files):
//
//	images.db          names, images and signatures (bbolt)
//	blobs/sha256/HEX   manifests, configurations and layers, as they came
//	layers/HEX         unpacked layers by chain id (image-spec, config.md)
//	roots/HEX          composed images (package erofs), where the kernel can mount them
//	scaffold/          what of ours is in those
//	ingest/            work in progress; emptied at Open
//
// A blob, layer or composed image gets its name by rename after it is checked and durable, and
// an image is recorded after all its parts: whatever a crash leaves is either
// whole or in ingest, or unreferenced, and Open removes the latter two.
package image

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"tero.internal/common/fault"
	"tero.internal/common/ocilayout"
	"tero.internal/common/workload"
	"tero.internal/runtime/internal/imagedb"
	"tero.internal/runtime/internal/layer"
	"tero.internal/runtime/internal/manifest"
	"tero.internal/runtime/internal/rootfs"
)

// Config is what a Store needs.
type Config struct {
	// Root is the store's folder; made when missing.
	Root string
	// TrustDir holds the trusted public keys, NAME.pub each. It is read again
	// when it changes; when it is missing or empty, no image counts as signed.
	TrustDir string
	// InUse names the containers that use an image's manifest; nil for none.
	// It is called inside database transactions: it must not call the Store.
	InUse func(digest.Digest) []string
	// Removed hears of composed images whose file has gone; nil for nobody.
	Removed func(path string)
	// Limits bound what an archive may hold; zero fields mean the defaults.
	Limits Limits
	Log    *slog.Logger
}

// Limits bound what a foreign archive may make of the disk.
type Limits struct {
	// ArchiveBytes is the most bytes of an archive, decompressed.
	ArchiveBytes int64
	// ArchiveEntries is the most files in an archive.
	ArchiveEntries int
	// LayerBytes is the most bytes of one unpacked layer.
	LayerBytes int64
	// LayerEntries is the most files in one layer.
	LayerEntries int
	// Layers is the most layers of one image.
	Layers int
}

// withDefaults fills in zero fields.
func (l Limits) withDefaults() Limits {
	d := Limits{ArchiveBytes: 64 << 30, ArchiveEntries: 10_000, LayerBytes: 32 << 30, LayerEntries: 1_000_000, Layers: 256}
	if l.ArchiveBytes > 0 {
		d.ArchiveBytes = l.ArchiveBytes
	}
	if l.ArchiveEntries > 0 {
		d.ArchiveEntries = l.ArchiveEntries
	}
	if l.LayerBytes > 0 {
		d.LayerBytes = l.LayerBytes
	}
	if l.LayerEntries > 0 {
		d.LayerEntries = l.LayerEntries
	}
	if l.Layers > 0 {
		d.Layers = l.Layers
	}
	return d
}

// Store keeps images. It is for many goroutines of one process.
type Store struct {
	root   string
	limits Limits
	inUse  func(digest.Digest) []string
	gone   func(path string)
	log    *slog.Logger
	db     *imagedb.DB
	trust  *trust

	scaffold *rootfs.Scaffold
	composes bool // whether the kernel can mount composed images
	// stop ends the composing that Open began; Close waits for it in composing.
	stop      context.CancelFunc
	composing sync.WaitGroup

	// layerLocks makes imports of one layer wait for each other.
	layerLocks keyedMutex

	// collecting is held for writing while garbage is found and removed, and
	// for reading while an import checks for and pins its parts.
	collecting sync.RWMutex
	pinsMu     sync.Mutex     // guards pins
	pins       map[string]int // blobs and layers of imports on their way, by path

	// dropping is held for writing while the database drops names and images,
	// and for reading while an image is found and held: a reading transaction
	// alone would still find what is just being dropped.
	dropping sync.RWMutex
	heldMu   sync.Mutex            // guards held
	held     map[digest.Digest]int // launches under way, by manifest

	signatures atomic.Uint64 // generation: grows whenever stored signatures change
	verifiedMu sync.RWMutex  // guards verified
	verified   map[verifyKey][]workload.Signer
}

// Open opens the store, and removes what a crash left half done.
func Open(ctx context.Context, c Config) (_ *Store, err error) {
	s := &Store{
		root: c.Root, limits: c.Limits.withDefaults(), inUse: c.InUse, gone: c.Removed, log: c.Log,
		trust: &trust{dir: c.TrustDir, log: c.Log},
		pins:  map[string]int{}, held: map[digest.Digest]int{}, verified: map[verifyKey][]workload.Signer{},
	}
	if s.inUse == nil {
		s.inUse = func(digest.Digest) []string { return nil }
	}
	if s.gone == nil {
		s.gone = func(string) {}
	}
	for _, dir := range []string{s.root, s.blobs(), s.layers(), s.roots(), s.ingest()} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return nil, s.diskFault(err, "make the image store's folders")
		}
	}
	if err := os.Chmod(s.root, 0o700); err != nil { //nolint:gosec // 0700 is for a folder
		return nil, fmt.Errorf("image store: %w", err)
	}
	s.db, err = imagedb.Open(filepath.Join(s.root, "images.db"))
	if errors.Is(err, imagedb.ErrInUse) {
		return nil, fault.New(fault.Exists, "the image store in %s is in use by another process", s.root).
			WithHint("end the other node first, or give this one a state folder of its own")
	}
	if err != nil {
		return nil, s.diskFault(err, "open the image database")
	}
	defer func() {
		if err != nil {
			_ = s.db.Close()
		}
	}()
	if err := removeContents(s.ingest()); err != nil {
		return nil, fmt.Errorf("image store: remove what was left half done: %w", err)
	}
	if _, err := s.sweep(ctx); err != nil {
		return nil, err
	}
	return s, s.beginComposing(ctx)
}

// Close closes the store; nothing may be under way.
func (s *Store) Close() error {
	s.stop()
	s.composing.Wait()
	if err := s.db.Close(); err != nil {
		return fmt.Errorf("close the image database: %w", err)
	}
	return nil
}

func (s *Store) blobs() string  { return filepath.Join(s.root, "blobs", "sha256") }
func (s *Store) layers() string { return filepath.Join(s.root, "layers") }
func (s *Store) roots() string  { return filepath.Join(s.root, "roots") }
func (s *Store) ingest() string { return filepath.Join(s.root, "ingest") }

func (s *Store) blobPath(d digest.Digest) string  { return filepath.Join(s.blobs(), d.Encoded()) }
func (s *Store) layerPath(d digest.Digest) string { return filepath.Join(s.layers(), d.Encoded()) }
func (s *Store) rootPath(d digest.Digest) string  { return filepath.Join(s.roots(), d.Encoded()) }

// Resolve gives the image that reference names now, with its trusted signers,
// and holds it: it stays until Release, whatever happens to its names. It reads
// no layer: those were checked on the way in.
func (s *Store) Resolve(ctx context.Context, reference string) (_ workload.Image, err error) {
	ref, err := ocilayout.ParseReference(reference)
	if err != nil {
		return workload.Image{}, err
	}
	name, rec, err := s.lookupAndHold(ref)
	if err != nil {
		return workload.Image{}, err
	}
	img := workload.Image{Reference: name.Reference, Digest: rec.Digest, Config: rec.Config}
	defer func() {
		if err != nil {
			s.Release(img)
		}
	}()
	if ref.Digest != "" {
		img.Reference = ref.String()
	}
	for _, l := range slices.Backward(rec.Layers) {
		path := s.layerPath(l.ChainID)
		if err := unix.Access(path, unix.F_OK); err != nil {
			return workload.Image{}, fault.New(fault.Corrupt, "image %s: the unpacked layer %s is missing: %w", img.Reference, l.Digest, err).
				WithHint("import the image again")
		}
		img.Layers = append(img.Layers, path)
	}
	img.Erofs = s.erofs(ctx, rec)
	img.Signers, err = s.signers(ctx, name, rec)
	return img, err
}

func (s *Store) lookupAndHold(ref ocilayout.Reference) (imagedb.Name, manifest.Image, error) {
	s.dropping.RLock()
	defer s.dropping.RUnlock()
	name, rec, err := s.db.Lookup(ref)
	if err == nil {
		s.hold(rec.Digest)
	}
	return name, rec, err
}

// Info is all that is known about one image.
type Info struct {
	Reference    string
	Digest       digest.Digest
	IndexDigest  digest.Digest // "" when it came without an index
	ConfigDigest digest.Digest
	Platform     string
	Size         int64
	Created      time.Time // zero when the image does not say
	Imported     time.Time
	Config       workload.ImageConfig
	Signers      []workload.Signer
	Signatures   int // stored ones, trusted or not
	Layers       []layer.Layer
	UsedBy       []string
}

// List gives all images by reference.
func (s *Store) List(ctx context.Context) ([]Info, error) {
	names, err := s.db.Names()
	if err != nil {
		return nil, err
	}
	out := make([]Info, 0, len(names))
	for _, n := range names {
		rec, err := s.db.Image(n.Digest)
		if fault.KindOf(err) == fault.NotFound {
			continue // removed in between
		}
		if err != nil {
			return nil, err
		}
		info, err := s.info(ctx, n, rec)
		if err != nil {
			return nil, err
		}
		out = append(out, info)
	}
	return out, nil
}

// Inspect tells all that is known about one image.
func (s *Store) Inspect(ctx context.Context, reference string) (Info, error) {
	ref, err := ocilayout.ParseReference(reference)
	if err != nil {
		return Info{}, err
	}
	name, rec, err := s.db.Lookup(ref)
	if err != nil {
		return Info{}, err
	}
	return s.info(ctx, name, rec)
}

func (s *Store) info(ctx context.Context, n imagedb.Name, rec manifest.Image) (Info, error) {
	i := Info{
		Reference: n.Reference, Digest: rec.Digest, IndexDigest: n.Index, ConfigDigest: rec.ConfigDigest,
		Platform: rec.Platform, Size: rec.Size, Created: rec.Created, Imported: n.Imported,
		Config: rec.Config, Layers: rec.Layers, UsedBy: s.inUse(rec.Digest),
	}
	sigs, err := s.db.Signatures(n.Digest, n.Index)
	if err != nil {
		return i, err
	}
	i.Signatures = len(sigs)
	i.Signers, err = s.signers(ctx, n, rec)
	return i, err
}

// Removed tells what Remove did.
type Removed struct {
	Reference string
	Digest    digest.Digest
	// Content is true when the image itself went, not only this name for it.
	Content bool
	// Freed counts the bytes of blobs and unpacked layers that went.
	Freed int64
}

// Remove removes a name, and what nothing else needs. The last name of an
// image that a container or a launch uses stays: a fault of kind Conflict.
func (s *Store) Remove(ctx context.Context, reference string) (Removed, error) {
	ref, err := ocilayout.ParseReference(reference)
	if err != nil {
		return Removed{}, err
	}
	name, _, err := s.db.Lookup(ref)
	if err != nil {
		return Removed{}, err
	}
	r := Removed{Reference: name.Reference, Digest: name.Digest}
	s.dropping.Lock()
	last, err := s.db.DropName(name, func(d digest.Digest) error { return s.mayGo(name.Reference, d) })
	s.dropping.Unlock()
	if err != nil {
		return r, s.diskFault(err, "remove "+name.Reference)
	}
	if !last {
		return r, nil
	}
	r.Content = true
	r.Freed, err = s.Prune(ctx)
	return r, err
}

// keyedMutex is a mutex for each key that is in use.
type keyedMutex struct {
	mu    sync.Mutex // guards locks
	locks map[string]*keyLock
}

type keyLock struct {
	held    chan struct{} // holds one element while locked
	waiters int           // guarded by keyedMutex.mu
}

// lock waits for the key, or for the end of ctx.
func (k *keyedMutex) lock(ctx context.Context, key string) (unlock func(), err error) {
	k.mu.Lock()
	if k.locks == nil {
		k.locks = map[string]*keyLock{}
	}
	l := k.locks[key]
	if l == nil {
		l = &keyLock{held: make(chan struct{}, 1)}
		k.locks[key] = l
	}
	l.waiters++
	k.mu.Unlock()
	leave := func() {
		k.mu.Lock()
		defer k.mu.Unlock()
		if l.waiters--; l.waiters == 0 {
			delete(k.locks, key)
		}
	}
	select {
	case l.held <- struct{}{}:
		return func() { <-l.held; leave() }, nil
	case <-ctx.Done():
		leave()
		return nil, fmt.Errorf("wait for another import: %w", ctx.Err())
	}
}

// diskFault makes a full disk a fault that says so; other errors get the
// operation, and faults stay as they are.
func (s *Store) diskFault(err error, operation string) error {
	if err == nil || fault.KindOf(err) != fault.Internal {
		return err
	}
	if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) {
		return fault.New(fault.Exhausted, "%s: the disk that holds %s is full: %w", operation, s.root, err).
			WithHint("nothing of it was stored; free space there, for example with: tero image rm")
	}
	return fmt.Errorf("%s: %w", operation, err)
}

func removeContents(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	for _, e := range entries {
		if err := os.RemoveAll(filepath.Join(dir, e.Name())); err != nil {
			return err
		}
	}
	return nil
}
