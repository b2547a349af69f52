package image

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
	bolt "go.etcd.io/bbolt"

	"tero.internal/common/fault"
	"tero.internal/common/ocilayout"
	"tero.internal/common/workload"
)

// The buckets of images.db.
const (
	bucketNames      = "names"      // full reference -> nameEntry
	bucketImages     = "images"     // manifest digest -> record
	bucketSignatures = "signatures" // digest of manifest or index -> []ocilayout.Signature
)

// nameEntry is what a reference points to.
type nameEntry struct {
	Reference string        `json:"reference"`
	Digest    digest.Digest `json:"digest"`
	Index     digest.Digest `json:"index,omitempty"` // the index that led to Digest
	Imported  time.Time     `json:"imported"`
}

// record is one image of this node's platform.
type record struct {
	Digest       digest.Digest        `json:"digest"`
	ConfigDigest digest.Digest        `json:"configDigest"`
	Platform     string               `json:"platform"`
	Size         int64                `json:"size"`
	Created      time.Time            `json:"created"`
	Config       workload.ImageConfig `json:"config"`
	Layers       []Layer              `json:"layers"` // lowest first
}

// Layer is one layer of an image.
type Layer struct {
	Digest    digest.Digest `json:"digest"`
	DiffID    digest.Digest `json:"diffId"`
	ChainID   digest.Digest `json:"chainId"` // names the unpacked folder
	Size      int64         `json:"size"`
	MediaType string        `json:"mediaType"`
}

func makeBuckets(tx *bolt.Tx) error {
	for _, b := range []string{bucketNames, bucketImages, bucketSignatures} {
		if _, err := tx.CreateBucketIfNotExists([]byte(b)); err != nil {
			return fmt.Errorf("bucket %s: %w", b, err)
		}
	}
	return nil
}

// get reads one value; false when there is none.
func get[T any](tx *bolt.Tx, bucket, key string) (v T, ok bool, err error) {
	b := tx.Bucket([]byte(bucket)).Get([]byte(key))
	if b == nil {
		return v, false, nil
	}
	if err := json.Unmarshal(b, &v); err != nil {
		return v, false, fault.New(fault.Corrupt, "image database: %s %s: %w", bucket, key, err)
	}
	return v, true, nil
}

func put(tx *bolt.Tx, bucket, key string, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("encode %s %s: %w", bucket, key, err)
	}
	return tx.Bucket([]byte(bucket)).Put([]byte(key), b)
}

// each reads all values of a bucket by key.
func each[T any](tx *bolt.Tx, bucket string, do func(key string, v T) error) error {
	return tx.Bucket([]byte(bucket)).ForEach(func(k, b []byte) error {
		var v T
		if err := json.Unmarshal(b, &v); err != nil {
			return fault.New(fault.Corrupt, "image database: %s %s: %w", bucket, k, err)
		}
		return do(string(k), v)
	})
}

// lookup finds what a reference names. A digest must be the one of a manifest,
// or of an index, that the repository has a name for.
func (s *Store) lookup(ref ocilayout.Reference) (n nameEntry, rec record, err error) {
	err = s.db.View(func(tx *bolt.Tx) error {
		var ok bool
		if ref.Digest == "" {
			if n, ok, err = get[nameEntry](tx, bucketNames, ref.String()); err != nil {
				return err
			}
		} else if n, ok, err = findDigest(tx, ref); err != nil {
			return err
		}
		if !ok {
			return notFound(ref)
		}
		if rec, ok, err = get[record](tx, bucketImages, string(n.Digest)); err != nil {
			return err
		}
		if !ok {
			return fault.New(fault.Corrupt, "image database: %s names %s, which is not there", n.Reference, n.Digest).
				WithHint("import the image again")
		}
		return nil
	})
	return n, rec, err
}

func notFound(ref ocilayout.Reference) error {
	return fault.New(fault.NotFound, "image %s is not on this node", ref).
		WithHint("see what is there with: tero image ls; bring it in with: tero image import")
}

// findDigest finds a name of the repository for the digest.
func findDigest(tx *bolt.Tx, ref ocilayout.Reference) (nameEntry, bool, error) {
	c := tx.Bucket([]byte(bucketNames)).Cursor()
	for k, b := c.Seek([]byte(ref.Name())); k != nil && strings.HasPrefix(string(k), ref.Name()); k, b = c.Next() {
		if rest := string(k[len(ref.Name()):]); rest[:min(1, len(rest))] != ":" && rest[:min(1, len(rest))] != "@" {
			continue // another repository whose name begins alike
		}
		var n nameEntry
		if err := json.Unmarshal(b, &n); err != nil {
			return n, false, fault.New(fault.Corrupt, "image database: %s: %w", k, err)
		}
		if n.Digest == ref.Digest || n.Index == ref.Digest {
			return n, true, nil
		}
	}
	return nameEntry{}, false, nil
}

func (s *Store) names() (out []nameEntry, err error) {
	err = s.db.View(func(tx *bolt.Tx) error {
		return each(tx, bucketNames, func(_ string, n nameEntry) error {
			out = append(out, n)
			return nil
		})
	})
	return out, err
}

func (s *Store) record(d digest.Digest) (rec record, err error) {
	err = s.db.View(func(tx *bolt.Tx) error {
		var ok bool
		if rec, ok, err = get[record](tx, bucketImages, string(d)); err == nil && !ok {
			err = fault.New(fault.NotFound, "image %s is not on this node", d)
		}
		return err
	})
	return rec, err
}

// storedSignatures gives all stored signatures over the digests.
func (s *Store) storedSignatures(digests ...digest.Digest) (out []ocilayout.Signature, err error) {
	err = s.db.View(func(tx *bolt.Tx) error {
		for _, d := range digests {
			if d == "" {
				continue
			}
			sigs, _, err := get[[]ocilayout.Signature](tx, bucketSignatures, string(d))
			if err != nil {
				return err
			}
			out = append(out, sigs...)
		}
		return nil
	})
	return out, err
}

// addSignature stores a signature over d, once.
func addSignature(tx *bolt.Tx, d digest.Digest, sig ocilayout.Signature) error {
	sigs, _, err := get[[]ocilayout.Signature](tx, bucketSignatures, string(d))
	if err != nil {
		return err
	}
	if slices.ContainsFunc(sigs, func(o ocilayout.Signature) bool {
		return string(o.Payload) == string(sig.Payload) && string(o.Signature) == string(sig.Signature)
	}) {
		return nil
	}
	if len(sigs) >= ocilayout.MaxSignatures {
		return fault.New(fault.Exhausted, "image %s has %d signatures, the most that are kept", d, len(sigs)).
			WithHint("remove and import the image to begin anew")
	}
	return put(tx, bucketSignatures, string(d), append(sigs, sig))
}

// dropName removes a name; last tells that the image has no other.
func (s *Store) dropName(n nameEntry) (last bool, err error) {
	err = s.db.Update(func(tx *bolt.Tx) error {
		now, ok, err := get[nameEntry](tx, bucketNames, n.Reference)
		if err != nil {
			return err
		}
		if !ok || now.Digest != n.Digest {
			return fault.New(fault.Conflict, "image %s changed in the meantime", n.Reference).WithHint("look again with: tero image ls")
		}
		last = true
		if err := each(tx, bucketNames, func(_ string, o nameEntry) error {
			if o.Digest == n.Digest && o.Reference != n.Reference {
				last = false
			}
			return nil
		}); err != nil {
			return err
		}
		if users := s.inUse(n.Digest); last && len(users) > 0 {
			return fault.New(fault.Conflict, "image %s is used by %s", n.Reference, strings.Join(users, ", ")).
				WithHint("remove the container first, with: tero rm %s", users[0])
		}
		return tx.Bucket([]byte(bucketNames)).Delete([]byte(n.Reference))
	})
	return last, s.diskFault(err, "remove "+n.Reference)
}
