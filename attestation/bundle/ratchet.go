package bundle

import (
	"crypto/hmac"
	"crypto/sha256"

	"tero.internal/attestation/record"
)

// Ratchet is the forward-secure MAC over the log of a node without hardware.
// For each record
//
//	tag       = HMAC(key, "tag" | SHA-256 | SHA-384)
//	aggregate = SHA-256(aggregate | tag)
//	key       = HMAC(key, "next")
//
// and the old key is erased. Who breaks into the node finds only the newest
// key and cannot make the tags of older records again; who kept the first key
// sees in the aggregate that one of them was rewritten, or cut off.
type Ratchet struct {
	Key       [sha256.Size]byte
	Aggregate record.Digest256
}

// Step gives the ratchet after one record.
func (r Ratchet) Step(d record.Digests) Ratchet {
	m := hmac.New(sha256.New, r.Key[:])
	m.Write([]byte("tag"))
	m.Write(d.SHA256[:])
	m.Write(d.SHA384[:])
	next := Ratchet{Aggregate: sha256.Sum256(m.Sum(r.Aggregate[:]))}
	m = hmac.New(sha256.New, r.Key[:])
	m.Write([]byte("next"))
	m.Sum(next.Key[:0])
	return next
}
