// Package imagedb is the database of a node's images: which names there are,
// what each leads to, and the signatures that came with it. It knows no blobs
// and no layers but by their digests.
package imagedb

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
	bolt "go.etcd.io/bbolt"

	"tero.internal/common/fault"
	"tero.internal/common/ocilayout"
	"tero.internal/runtime/internal/manifest"
)

// The buckets of the database.
const (
	bucketNames      = "names"      // full reference -> Name
	bucketImages     = "images"     // manifest digest -> manifest.Image
	bucketSignatures = "signatures" // digest of manifest or index -> []ocilayout.Signature
)

// ErrInUse says that another process has the database open.
var ErrInUse = errors.New("the image database is in use")

// Name is what a reference points to.
type Name struct {
	Reference string        `json:"reference"`
	Digest    digest.Digest `json:"digest"`
	Index     digest.Digest `json:"index,omitempty"` // the index that led to Digest
	Imported  time.Time     `json:"imported"`
}

// Entry is an image under one of its names.
type Entry struct {
	Name  Name
	Image manifest.Image
}

// DB is an open database. It is for many goroutines of one process.
type DB struct{ bolt *bolt.DB }

// Open opens the database in a file, and makes it when it is missing. The error
// is ErrInUse when another process has it.
func Open(path string) (*DB, error) {
	b, err := bolt.Open(path, 0o600, &bolt.Options{Timeout: time.Second, FreelistType: bolt.FreelistMapType})
	if errors.Is(err, bolt.ErrTimeout) { //nolint:staticcheck // bbolt/errors has the same value
		return nil, ErrInUse
	}
	if err != nil {
		return nil, err
	}
	if err := b.Update(makeBuckets); err != nil {
		return nil, errors.Join(err, b.Close())
	}
	return &DB{b}, nil
}

// Close closes the database; nothing may be under way.
func (db *DB) Close() error { return db.bolt.Close() }

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

// Lookup finds what a reference names. A digest must be the one of a manifest,
// or of an index, that the repository has a name for.
func (db *DB) Lookup(ref ocilayout.Reference) (n Name, img manifest.Image, err error) {
	err = db.bolt.View(func(tx *bolt.Tx) error {
		var ok bool
		if ref.Digest == "" {
			if n, ok, err = get[Name](tx, bucketNames, ref.String()); err != nil {
				return err
			}
		} else if n, ok, err = findDigest(tx, ref); err != nil {
			return err
		}
		if !ok {
			return notFound(ref)
		}
		if img, ok, err = get[manifest.Image](tx, bucketImages, string(n.Digest)); err != nil {
			return err
		}
		if !ok {
			return fault.New(fault.Corrupt, "image database: %s names %s, which is not there", n.Reference, n.Digest).
				WithHint("import the image again")
		}
		return nil
	})
	return n, img, err
}

func notFound(ref ocilayout.Reference) error {
	return fault.New(fault.NotFound, "image %s is not on this node", ref).
		WithHint("see what is there with: tero image ls; bring it in with: tero image import")
}

// findDigest finds a name of the repository for the digest.
func findDigest(tx *bolt.Tx, ref ocilayout.Reference) (Name, bool, error) {
	c := tx.Bucket([]byte(bucketNames)).Cursor()
	for k, b := c.Seek([]byte(ref.Name())); k != nil && strings.HasPrefix(string(k), ref.Name()); k, b = c.Next() {
		if rest := string(k[len(ref.Name()):]); rest[:min(1, len(rest))] != ":" && rest[:min(1, len(rest))] != "@" {
			continue // another repository whose name begins alike
		}
		var n Name
		if err := json.Unmarshal(b, &n); err != nil {
			return n, false, fault.New(fault.Corrupt, "image database: %s: %w", k, err)
		}
		if n.Digest == ref.Digest || n.Index == ref.Digest {
			return n, true, nil
		}
	}
	return Name{}, false, nil
}

// Names gives all names, sorted by reference.
func (db *DB) Names() (out []Name, err error) {
	err = db.bolt.View(func(tx *bolt.Tx) error {
		return each(tx, bucketNames, func(_ string, n Name) error {
			out = append(out, n)
			return nil
		})
	})
	return out, err
}

// Image gives the image with a manifest's digest.
func (db *DB) Image(d digest.Digest) (img manifest.Image, err error) {
	err = db.bolt.View(func(tx *bolt.Tx) error {
		var ok bool
		if img, ok, err = get[manifest.Image](tx, bucketImages, string(d)); err == nil && !ok {
			err = fault.New(fault.NotFound, "image %s is not on this node", d)
		}
		return err
	})
	return img, err
}

// Signatures gives all stored signatures over the digests.
func (db *DB) Signatures(digests ...digest.Digest) (out []ocilayout.Signature, err error) {
	err = db.bolt.View(func(tx *bolt.Tx) error {
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

// All gives all names and images, as they are at one time.
func (db *DB) All() (names []Name, images []manifest.Image, err error) {
	err = db.bolt.View(func(tx *bolt.Tx) error {
		if err := each(tx, bucketNames, func(_ string, n Name) error {
			names = append(names, n)
			return nil
		}); err != nil {
			return err
		}
		return each(tx, bucketImages, func(_ string, img manifest.Image) error {
			images = append(images, img)
			return nil
		})
	})
	return names, images, err
}
