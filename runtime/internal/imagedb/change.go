package imagedb

import (
	"slices"
	"time"

	"github.com/opencontainers/go-digest"
	bolt "go.etcd.io/bbolt"

	"tero.internal/common/fault"
	"tero.internal/common/ocilayout"
	"tero.internal/runtime/internal/manifest"
)

// Add records images under their names, as imported now, and those of the
// signatures that are over one of them.
func (db *DB) Add(entries []Entry, sigs []ocilayout.Signature) error {
	return db.bolt.Update(func(tx *bolt.Tx) error {
		now := time.Now().UTC()
		signable := map[digest.Digest]bool{}
		for _, e := range entries {
			if err := put(tx, bucketImages, string(e.Image.Digest), e.Image); err != nil {
				return err
			}
			n := e.Name
			n.Imported = now
			if err := put(tx, bucketNames, n.Reference, n); err != nil {
				return err
			}
			signable[e.Image.Digest] = true
			if n.Index != "" {
				signable[n.Index] = true
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
	})
}

// AddSignature stores a signature over d, once.
func (db *DB) AddSignature(d digest.Digest, sig ocilayout.Signature) error {
	return db.bolt.Update(func(tx *bolt.Tx) error { return addSignature(tx, d, sig) })
}

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

// SetComposed records what an image's layers were composed to; a fault of kind
// NotFound when the image has gone.
func (db *DB) SetComposed(d digest.Digest, c manifest.Composed) error {
	return db.bolt.Update(func(tx *bolt.Tx) error {
		img, ok, err := get[manifest.Image](tx, bucketImages, string(d))
		if err != nil {
			return err
		}
		if !ok {
			return fault.New(fault.NotFound, "image %s is not on this node", d)
		}
		img.Composed = c
		return put(tx, bucketImages, string(d), img)
	})
}

// DropName removes a name; last tells that the image has no other. The last
// name of an image stays when mayGo, called within the transaction, gives an
// error, which is returned.
func (db *DB) DropName(n Name, mayGo func(digest.Digest) error) (last bool, err error) {
	err = db.bolt.Update(func(tx *bolt.Tx) error {
		now, ok, err := get[Name](tx, bucketNames, n.Reference)
		if err != nil {
			return err
		}
		if !ok || now.Digest != n.Digest {
			return fault.New(fault.Conflict, "image %s changed in the meantime", n.Reference).WithHint("look again with: tero image ls")
		}
		last = true
		if err := each(tx, bucketNames, func(_ string, o Name) error {
			if o.Digest == n.Digest && o.Reference != n.Reference {
				last = false
			}
			return nil
		}); err != nil {
			return err
		}
		if last {
			if err := mayGo(n.Digest); err != nil {
				return err
			}
		}
		return tx.Bucket([]byte(bucketNames)).Delete([]byte(n.Reference))
	})
	return last, err
}

// Prune removes the images that have no name and that inUse, called within the
// transaction, does not report; and the signatures that are over none that stay.
func (db *DB) Prune(inUse func(digest.Digest) bool) error {
	return db.bolt.Update(func(tx *bolt.Tx) error {
		named := map[string]bool{}
		if err := each(tx, bucketNames, func(_ string, n Name) error {
			named[string(n.Digest)], named[string(n.Index)] = true, true
			return nil
		}); err != nil {
			return err
		}
		var images []string
		if err := each(tx, bucketImages, func(key string, img manifest.Image) error {
			if !named[key] && !inUse(img.Digest) {
				images = append(images, key)
			} else {
				named[key] = true // in use: its signatures stay
			}
			return nil
		}); err != nil {
			return err
		}
		for _, key := range images {
			if err := tx.Bucket([]byte(bucketImages)).Delete([]byte(key)); err != nil {
				return err
			}
		}
		var signed [][]byte
		if err := tx.Bucket([]byte(bucketSignatures)).ForEach(func(k, _ []byte) error {
			if !named[string(k)] {
				signed = append(signed, append([]byte(nil), k...))
			}
			return nil
		}); err != nil {
			return err
		}
		for _, k := range signed {
			if err := tx.Bucket([]byte(bucketSignatures)).Delete(k); err != nil {
				return err
			}
		}
		return nil
	})
}
