// Package record is the format of the launch log, for those who write it and
// for those who judge it. It touches no disk and no TPM.
//
// A record is one TCG_PCR_EVENT2 (TCG PC Client Platform Firmware Profile,
// section 10.2.2) of type EV_EVENT_TAG in PCR 13, whose event is the text
//
//	tero/v1 KIND {RFC 8785 JSON}
//
// and whose digests are SHA-256 and SHA-384 of exactly these bytes: nothing
// hidden stands before them, so that sha256sum of the event gives the digest.
// The format is fixed for good; golden tests hold it.
//
// Every value is a string of printable ASCII without quotation mark and
// backslash, or an integer under 2^53. For such values RFC 8785 allows just
// one encoding, which is why the decoder here can be small, fast and strict.
package record

import (
	"crypto/sha256"
	"crypto/sha512"
	"encoding/hex"
	"fmt"
	"time"

	"github.com/opencontainers/go-digest"

	"tero.internal/common/workload"
)

// Kind says what a record tells.
type Kind string

// The kinds of records.
const (
	// Launch is a workload that is about to be executed.
	Launch Kind = "launch"
	// Boot begins the records of one boot of the machine. A TPM's register
	// starts anew here; Chain commits to everything before.
	Boot Kind = "boot"
	// Resume is a boot counter that moved on while the register was kept
	// (suspend to memory): the register does not start anew.
	Resume Kind = "resume"
	// Abort says that the records From to To were extended by recovery after a
	// crash: a launch among them was measured and never executed.
	Abort Kind = "abort"
	// Policy is a change of the policy set.
	Policy Kind = "policy"
)

// PCR is the register that the records are extended into. 16 and 23 would be
// in reach of whoever is root; 13 is free of firmware and boot loaders.
const PCR = 13

// MaxEvent is the most bytes of one event.
const MaxEvent = 4096

// TimeFormat is how times stand in records: UTC, milliseconds.
const TimeFormat = "2006-01-02T15:04:05.000Z"

// Record is one entry of the log. Which fields count depends on Kind.
type Record struct {
	Kind     Kind
	Sequence uint64
	// Boot names the boot of the machine: the kernel's boot id, or a TPM's
	// reset and restart counters ("tpm-3.0").
	Boot string
	// Time is the node's clock, to the millisecond; nobody vouches for it.
	Time time.Time

	// Launch is what is launched (Launch).
	Launch workload.Measurement

	// Chain is the log's chain before this record (Boot, Resume).
	Chain Digest256
	// Keys is the digest of the node's public keys (Boot, Resume).
	Keys Digest256
	// Node is the node's name (Boot, Resume).
	Node string
	// Register is the evidence type of the register (Boot, Resume).
	Register string

	// From and To are sequence numbers, both included (Abort).
	From, To uint64
	// Reason says what happened (Abort).
	Reason string

	// Policy is the digest of the policy set (Policy).
	Policy digest.Digest
}

// Name gives what people call the record: the workload's name or the kind.
func (r *Record) Name() string {
	if r.Kind == Launch {
		return r.Launch.Name
	}
	return string(r.Kind)
}

// Digest256 is a SHA-256.
type Digest256 [sha256.Size]byte

// String gives 64 hexadecimal digits.
func (d Digest256) String() string { return hex.EncodeToString(d[:]) }

// MarshalText writes what String gives.
func (d Digest256) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// UnmarshalText reads what MarshalText writes.
func (d *Digest256) UnmarshalText(b []byte) error {
	if len(b) != 2*len(d) {
		return fmt.Errorf("%q is not a SHA-256 in hexadecimal", b)
	}
	if _, err := hex.Decode(d[:], b); err != nil {
		return fmt.Errorf("%q is not a SHA-256 in hexadecimal: %w", b, err)
	}
	return nil
}

// Digest gives the form "sha256:...".
func (d Digest256) Digest() digest.Digest { return digest.NewDigestFromBytes(digest.SHA256, d[:]) }

// Digest384 is a SHA-384.
type Digest384 [sha512.Size384]byte

// String gives 96 hexadecimal digits.
func (d Digest384) String() string { return hex.EncodeToString(d[:]) }

// Digests are what is extended for one event, one a bank.
type Digests struct {
	SHA256 Digest256
	SHA384 Digest384
}

// Sum gives the digests of an event's bytes.
func Sum(event []byte) Digests {
	return Digests{SHA256: sha256.Sum256(event), SHA384: sha512.Sum384(event)}
}

// Register holds the values of PCR 13, or of its equal in software.
type Register struct {
	SHA256 Digest256
	SHA384 Digest384
}

// Extend gives the value after d: H(old || digest) in each bank.
func (v Register) Extend(d Digests) Register {
	var b [2 * sha256.Size]byte
	copy(b[:], v.SHA256[:])
	copy(b[sha256.Size:], d.SHA256[:])
	var c [2 * sha512.Size384]byte
	copy(c[:], v.SHA384[:])
	copy(c[sha512.Size384:], d.SHA384[:])
	return Register{SHA256: sha256.Sum256(b[:]), SHA384: sha512.Sum384(c[:])}
}

// Entry is a record with the bytes that were measured for it.
type Entry struct {
	Record
	Event   []byte
	Digests Digests
}

// Seal makes the entry of r. It fails when a value cannot stand in a record.
func Seal(r Record) (Entry, error) {
	event, err := r.encode()
	if err != nil {
		return Entry{}, err
	}
	if len(event) > MaxEvent {
		return Entry{}, fmt.Errorf("%s record of %d bytes is over the limit of %d", r.Kind, len(event), MaxEvent)
	}
	r.Time = r.Time.UTC().Truncate(time.Millisecond)
	return Entry{Record: r, Event: event, Digests: Sum(event)}, nil
}
