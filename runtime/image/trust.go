package image

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"tero.internal/common/fault"
	"tero.internal/common/ocilayout"
	"tero.internal/common/workload"
	"tero.internal/runtime/internal/imagedb"
	"tero.internal/runtime/internal/manifest"
)

// trust is the folder of trusted public keys.
type trust struct {
	dir string
	log *slog.Logger

	mu     sync.Mutex // guards what follows
	stamp  string     // what the folder looked like when it was read
	read   time.Time
	keys   []trustedKey
	digest digest.Digest
}

type trustedKey struct {
	signer workload.Signer
	key    *ocilayout.PublicKey
}

// settled is how old a change must be before the folder's look alone is
// believed: two changes within one tick of a coarse clock look the same.
const settled = 2 * time.Second

// maxKey is the most bytes of a key file.
const maxKey = 64 << 10

// load gives the keys as they are in the folder now, and the digest of the set.
func (t *trust) load(ctx context.Context) ([]trustedKey, digest.Digest, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	names, stamp, newest, err := t.look()
	if err != nil {
		return nil, "", err
	}
	if t.digest != "" && stamp == t.stamp && t.read.Sub(newest) > settled {
		return t.keys, t.digest, nil
	}
	read := time.Now()
	var keys []trustedKey
	var set strings.Builder
	for _, name := range names {
		key, err := t.readKey(name)
		if err != nil {
			// One bad file takes its own key away, never the others.
			if stamp != t.stamp {
				t.log.WarnContext(ctx, "key is not trusted", slog.String("file", name), slog.String("error", err.Error()))
			}
			continue
		}
		keys = append(keys, key)
		fmt.Fprintf(&set, "%s %q\n", key.signer.KeyID, key.signer.Name)
	}
	t.keys, t.digest, t.stamp, t.read = keys, digest.FromString(set.String()), stamp, read
	return t.keys, t.digest, nil
}

// look gives the key files and what they look like, without reading them.
func (t *trust) look() (names []string, stamp string, newest time.Time, err error) {
	entries, err := os.ReadDir(t.dir)
	if t.dir == "" || errors.Is(err, fs.ErrNotExist) {
		return nil, "none", time.Time{}, nil
	}
	if err != nil {
		return nil, "", newest, fmt.Errorf("read the trusted keys: %w", err)
	}
	var b strings.Builder
	note := func(path string) error {
		var st unix.Stat_t
		if err := unix.Stat(path, &st); err != nil {
			return fmt.Errorf("read the trusted keys: %s: %w", path, err)
		}
		if c := time.Unix(st.Ctim.Unix()); c.After(newest) {
			newest = c
		}
		fmt.Fprintf(&b, "%s %d %d %d %d %o\n", path, st.Ino, st.Size, st.Mtim.Nano(), st.Ctim.Nano(), st.Mode)
		return nil
	}
	if err := note(t.dir); err != nil {
		return nil, "", newest, err
	}
	for _, e := range entries {
		if !strings.HasSuffix(e.Name(), ".pub") || strings.HasPrefix(e.Name(), ".") {
			continue
		}
		names = append(names, e.Name())
		if err := note(filepath.Join(t.dir, e.Name())); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, "", newest, err
		}
	}
	return names, b.String(), newest, nil
}

// readKey reads one key. A file or folder that others may write proves nothing.
func (t *trust) readKey(name string) (trustedKey, error) {
	path := filepath.Join(t.dir, name)
	for _, p := range []string{t.dir, path} {
		info, err := os.Stat(p)
		if err != nil {
			return trustedKey{}, err
		}
		if p == path && (!info.Mode().IsRegular() || info.Size() > maxKey) {
			return trustedKey{}, fault.New(fault.Invalid, "%s is not a file of at most %d bytes", p, maxKey)
		}
		if info.Mode().Perm()&0o022 != 0 {
			return trustedKey{}, fault.New(fault.Invalid, "%s may be written by others than its owner (mode %o)", p, info.Mode().Perm())
		}
	}
	b, err := os.ReadFile(path) //nolint:gosec // a name from the trust folder's listing
	if err != nil {
		return trustedKey{}, err
	}
	key, err := ocilayout.ParsePublicKey(path, b)
	if err != nil {
		return trustedKey{}, err
	}
	return trustedKey{workload.Signer{Name: strings.TrimSuffix(name, ".pub"), KeyID: key.ID()}, key}, nil
}

// verifyKey names one verification: what was verified, against which keys, in
// which state of the stored signatures.
type verifyKey struct {
	manifest, index, trust digest.Digest
	generation             uint64
}

// maxVerified bounds the cache of verifications.
const maxVerified = 4096

// signers gives the trusted keys with a valid signature over the image: over
// its manifest, or over the index that led to it, which names the manifest's digest.
func (s *Store) signers(ctx context.Context, n imagedb.Name, img manifest.Image) ([]workload.Signer, error) {
	keys, set, err := s.trust.load(ctx)
	if err != nil {
		return nil, err
	}
	// The generation is read before the signatures, so that what was verified
	// with older ones is never found under a newer generation.
	k := verifyKey{img.Digest, n.Index, set, s.signatures.Load()}
	s.verifiedMu.RLock()
	out, ok := s.verified[k]
	s.verifiedMu.RUnlock()
	if ok {
		return slices.Clone(out), nil
	}
	for _, d := range []digest.Digest{img.Digest, n.Index} {
		sigs, err := s.db.Signatures(d)
		if err != nil {
			return nil, err
		}
		for _, sig := range sigs {
			out = append(out, verify(keys, d, sig)...)
		}
	}
	slices.SortFunc(out, func(a, b workload.Signer) int {
		return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.KeyID, b.KeyID))
	})
	out = slices.Compact(out)
	s.verifiedMu.Lock()
	defer s.verifiedMu.Unlock()
	if len(s.verified) >= maxVerified {
		clear(s.verified)
	}
	s.verified[k] = out
	return slices.Clone(out), nil
}

// verify gives the keys that made sig over d.
func verify(keys []trustedKey, d digest.Digest, sig ocilayout.Signature) (out []workload.Signer) {
	claim, err := ocilayout.ParseClaim(sig.Payload)
	if err != nil || claim.Digest != d {
		return nil
	}
	for _, k := range keys {
		if k.key.Verify(sig) {
			out = append(out, k.signer)
		}
	}
	return out
}

// AttachSignature stores a signature over an image. It gives the image as it
// is then, and the trusted key that made the signature; nil when none did.
func (s *Store) AttachSignature(ctx context.Context, reference string, sig ocilayout.Signature) (Info, *workload.Signer, error) {
	claim, err := ocilayout.ParseClaim(sig.Payload)
	if err != nil {
		return Info{}, nil, err
	}
	if len(sig.Signature) == 0 || len(sig.Signature) > 1024 {
		return Info{}, nil, fault.New(fault.Invalid, "signature has %d bytes, which no ECDSA signature has", len(sig.Signature))
	}
	ref, err := ocilayout.ParseReference(reference)
	if err != nil {
		return Info{}, nil, err
	}
	name, _, err := s.db.Lookup(ref)
	if err != nil {
		return Info{}, nil, err
	}
	if claim.Digest != name.Digest && claim.Digest != name.Index {
		return Info{}, nil, fault.New(fault.Invalid, "the signature is over %s, but %s is %s", claim.Digest, name.Reference, name.Digest).
			WithHint("the image may have changed since it was signed; sign it again")
	}
	err = s.db.AddSignature(claim.Digest, sig)
	s.signatures.Add(1)
	if err != nil {
		return Info{}, nil, s.diskFault(err, "store the signature")
	}
	info, err := s.Inspect(ctx, name.Reference)
	if err != nil {
		return Info{}, nil, err
	}
	keys, _, err := s.trust.load(ctx)
	if err != nil {
		return Info{}, nil, err
	}
	if by := verify(keys, claim.Digest, sig); len(by) > 0 {
		return info, &by[0], nil
	}
	return info, nil, nil
}
