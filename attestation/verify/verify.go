// Package verify judges evidence with nothing but public material. It needs no
// daemon, no disk and no TPM, and believes nothing that a node says about
// itself: the assurance level comes from the enrolment record alone.
//
// A verification fails with a *Failure that names the record and the field at
// fault, what was expected there and what was found.
package verify

import (
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"time"

	"filippo.io/mldsa"

	"tero.internal/attestation/bundle"
	"tero.internal/attestation/record"
	"tero.internal/common/fault"
	"tero.internal/common/workload"
)

// Enrolment is a node's public material, as an operator stored it.
type Enrolment = bundle.Enrolment

// ParseEnrolment reads the document that "tero attest --enrolment" printed.
func ParseEnrolment(data []byte) (*Enrolment, error) {
	e, err := bundle.ParseEnrolment(data)
	if err != nil {
		return nil, fault.New(fault.Invalid, "%w", err).
			WithHint("get the enrolment from the node with \"tero attest --enrolment\", by a way that you trust")
	}
	return e, nil
}

// Trust is what a verifier knows beforehand.
type Trust struct {
	// Enrolment is the node's.
	Enrolment *Enrolment
	// WitnessKey is the first key of the node's ratchet, when the verifier has
	// it: then records that the node rewrote after a break-in are found.
	WitnessKey []byte
	// Seen is what an earlier verification of this node found; nil for none.
	Seen *Seen
}

// Seen is how much of a log was verified before. A log may only grow.
type Seen struct {
	Size  uint64           `json:"size"`
	Chain record.Digest256 `json:"chain"`
}

// Result is what evidence proves.
type Result struct {
	Node     string         `json:"node"`
	SPIFFEID string         `json:"spiffeId"`
	Type     string         `json:"type"`
	Level    workload.Level `json:"level"`
	// Time is the node's clock when it signed.
	Time time.Time `json:"time"`
	// Boot names the boot that the node was in.
	Boot string `json:"boot"`
	// Fresh is true when the evidence answers the nonce that was given.
	Fresh bool `json:"fresh"`
	// Witnessed is true when the ratchet was checked with the witness key.
	Witnessed bool `json:"witnessed"`
	// Seen is what to remember for the next verification.
	Seen     Seen     `json:"seen"`
	Launches []Launch `json:"launches"`
	// Notes say what the evidence does not prove.
	Notes []string `json:"notes"`
}

// Launch is one launch that the evidence names.
type Launch struct {
	workload.Measurement
	Sequence uint64           `json:"sequence"`
	Record   record.Digest256 `json:"record"`
	Boot     string           `json:"boot"`
	Time     time.Time        `json:"time"`
	// Aborted is true for one that was recorded and never executed.
	Aborted bool `json:"aborted"`
	// Current is true for one of the boot that the node is in.
	Current bool `json:"current"`
}

// Failure says why evidence proves nothing.
type Failure struct {
	// Record is the number of the record at fault, or -1.
	Record int
	// Name is that record's workload, when it can be read.
	Name string
	// Field is what differs ("nonce", "register"); it may be empty.
	Field string
	// Expected and Found are the field's values; they may be empty.
	Expected, Found string
	// Reason says what is wrong.
	Reason string
}

// Error names the record, the reason, and what was expected and found.
func (f *Failure) Error() string {
	s := f.Reason
	if f.Record >= 0 {
		name := ""
		if f.Name != "" {
			name = " (" + f.Name + ")"
		}
		s = fmt.Sprintf("record %d%s: %s", f.Record, name, s)
	}
	if f.Expected != "" || f.Found != "" {
		s += fmt.Sprintf(" (expected %q, found %q)", f.Expected, f.Found)
	}
	return s
}

// fail makes a fault of a failure.
func fail(f Failure) error {
	return fault.New(fault.Corrupt, "verification failed: %w", &f).
		WithHint("do not rely on this node: compare with evidence from before, and keep both")
}

func failf(format string, args ...any) error {
	return fail(Failure{Record: -1, Reason: fmt.Sprintf(format, args...)})
}

func differs(field, expected, found, reason string) error {
	return fail(Failure{Record: -1, Field: field, Expected: expected, Found: found, Reason: reason})
}

// Verify judges a bundle. nonce is the challenge that the evidence must
// answer; without one the result says that freshness is not proven.
func Verify(data []byte, trust Trust, nonce []byte) (*Result, error) {
	if trust.Enrolment == nil {
		return nil, fault.New(fault.Invalid, "no enrolment of the node was given: evidence cannot vouch for itself")
	}
	b, err := bundle.Decode(data)
	if err != nil {
		if at, ok := errors.AsType[*bundle.RecordError](err); ok {
			return nil, fail(Failure{Record: at.Index, Name: at.Name, Reason: at.Err.Error()})
		}
		return nil, failf("%s", err.Error())
	}
	d, err := driverFor(trust.Enrolment.Type)
	if err != nil {
		return nil, err
	}
	log, err := replay(b, trust)
	if err != nil {
		return nil, err
	}
	head, err := checkHead(b, trust, nonce)
	if err != nil {
		return nil, err
	}
	if err := log.matches(head, trust.Enrolment); err != nil {
		return nil, err
	}
	r := &Result{
		Node: head.Node, SPIFFEID: head.SPIFFEID, Type: head.Type, Boot: head.Boot, Fresh: len(nonce) > 0,
		Witnessed: log.witnessed, Seen: Seen{Size: log.size, Chain: log.chain}, Launches: log.launches,
	}
	r.Time, _ = time.Parse(record.TimeFormat, head.Time) // ParseHead checked it
	if r.Level, err = d(b, head, log, trust.Enrolment); err != nil {
		return nil, err
	}
	r.note(trust)
	return r, nil
}

// driver judges what is particular to an evidence type, and gives the level.
type driver func(*bundle.Bundle, *bundle.Head, *replayed, *Enrolment) (workload.Level, error)

func driverFor(kind string) (driver, error) {
	switch kind {
	case bundle.Software:
		return software, nil
	case bundle.TPM:
		return quoted, nil
	}
	return nil, fault.New(fault.Unsupported, "evidence of type %q cannot be judged by this version", kind)
}

// checkHead checks who signed, for whom and when.
func checkHead(b *bundle.Bundle, trust Trust, nonce []byte) (*bundle.Head, error) {
	e := trust.Enrolment
	h, err := bundle.ParseHead(b.Head)
	if err != nil {
		return nil, failf("%s", err.Error())
	}
	ed, pq, err := e.Keys()
	if err != nil {
		return nil, fault.New(fault.Invalid, "%w", err)
	}
	for _, f := range []struct{ field, want, got string }{
		{"type", e.Type, b.Type},
		{"type", e.Type, h.Type},
		{"node", e.Node, h.Node},
		{"spiffeId", e.SPIFFEID, h.SPIFFEID},
	} {
		if f.want != f.got {
			return nil, differs(f.field, f.want, f.got, "the evidence is not of the enrolled node: "+f.field+" differs")
		}
	}
	if !ed25519.Verify(ed, []byte(b.Head), b.Ed25519) {
		return nil, failf("the Ed25519 signature over the head is not by the enrolled key")
	}
	if mldsa.Verify(pq, []byte(b.Head), b.MLDSA44, &mldsa.Options{Context: bundle.SignatureContext}) != nil {
		return nil, failf("the ML-DSA-44 signature over the head is not by the enrolled key")
	}
	if want := hex.EncodeToString(nonce); len(nonce) > 0 && want != h.Nonce {
		return nil, differs("nonce", want, h.Nonce, "the evidence answers another challenge: it may be old")
	}
	return &h, nil
}

// software judges evidence of type tero-sw. Whoever has the node's key files
// can make it, so that it is never worth more than L0.
func software(b *bundle.Bundle, h *bundle.Head, log *replayed, _ *Enrolment) (workload.Level, error) {
	if b.Quote != nil {
		return workload.L0, failf("evidence of type %s carries a quote", b.Type)
	}
	if log.witnessed && h.Aggregate != log.ratchet.Aggregate.String() {
		return workload.L0, differs("aggregate", log.ratchet.Aggregate.String(), h.Aggregate,
			"the ratchet differs: records were rewritten or cut off after they were made")
	}
	return workload.L0, nil
}

// note says what is not proven.
func (r *Result) note(t Trust) {
	if !r.Fresh {
		r.Notes = append(r.Notes, "no nonce was given: the evidence may be an old one, seen again")
	}
	if t.Seen == nil {
		r.Notes = append(r.Notes, "nothing was remembered of an earlier verification: a log that was replaced as a whole looks the same")
	}
	switch r.Level {
	case workload.L0:
		if !r.Witnessed {
			r.Notes = append(r.Notes, "L0: whoever read the node's key files can have made this evidence")
		} else {
			r.Notes = append(r.Notes, "L0: whoever reads the node's key files can add records, and cannot change those from before")
		}
	case workload.L1:
		r.Notes = append(r.Notes, "L1: that the TPM is a vendor's was not proven (no credential activation): it is worth as much as whoever runs it")
		if !allCurrent(r.Launches) {
			r.Notes = append(r.Notes, "records of earlier boots are vouched for by the node as of its newest boot: the TPM's register began anew there")
		}
	case workload.L2, workload.L3:
	}
}

func allCurrent(ls []Launch) bool {
	for _, l := range ls {
		if !l.Current {
			return false
		}
	}
	return true
}

// extendChain gives the log's chain after one record.
func extendChain(chain record.Digest256, d record.Digests) record.Digest256 {
	return sha256.Sum256(append(chain[:], d.SHA256[:]...))
}
