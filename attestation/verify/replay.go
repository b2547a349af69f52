package verify

import (
	"crypto/sha256"
	"strconv"
	"strings"

	"tero.internal/attestation/bundle"
	"tero.internal/attestation/record"
	"tero.internal/common/fault"
)

// replayed is what the records of a log add up to.
type replayed struct {
	size     uint64
	chain    record.Digest256
	register record.Register
	// boot is the newest boot or resume record.
	boot      record.Record
	ratchet   bundle.Ratchet
	witnessed bool
	launches  []Launch
	// epoch is the index in launches of the first one since the newest boot.
	epoch int
}

// replay goes through all records, extends what a register would have been
// extended with, and checks that they tell one story.
func replay(b *bundle.Bundle, trust Trust) (*replayed, error) {
	log := &replayed{}
	switch len(trust.WitnessKey) {
	case 0:
	case sha256.Size:
		if b.Type == bundle.Software {
			log.witnessed = true
			copy(log.ratchet.Key[:], trust.WitnessKey)
		}
	default:
		return nil, fault.New(fault.Invalid, "the witness key has %d bytes, not %d", len(trust.WitnessKey), sha256.Size)
	}
	for i := range b.Records {
		e := &b.Records[i]
		if f := log.take(e); f != nil {
			f.Record, f.Name = i, e.Name()
			return nil, fail(*f)
		}
		if s := trust.Seen; s != nil && s.Size == log.size && s.Chain != log.chain {
			return nil, fail(Failure{
				Record: -1, Field: "chain", Expected: s.Chain.String(), Found: log.chain.String(),
				Reason: "the log was rewritten: its records that were seen before are others now",
			})
		}
	}
	if s := trust.Seen; s != nil && log.size < s.Size {
		return nil, failf("the log was rolled back: it holds %d records, and %d were seen before", log.size, s.Size)
	}
	if log.size == 0 {
		return nil, failf("the log holds no record, not even that of a boot")
	}
	for i := log.epoch; i < len(log.launches); i++ {
		log.launches[i].Current = true
	}
	return log, nil
}

// take takes one record into account. Its digests were checked by Decode.
func (log *replayed) take(e *record.Entry) *Failure {
	if e.Sequence != log.size {
		return &Failure{Field: "seq", Reason: "records are missing, doubled or in another order", Expected: utoa(log.size), Found: utoa(e.Sequence)}
	}
	if f := log.follows(e); f != nil {
		return f
	}
	switch e.Kind {
	case record.Boot:
		log.boot, log.epoch = e.Record, len(log.launches)
		if e.Register == bundle.TPM {
			log.register = record.Register{}
		}
	case record.Resume:
		log.boot = e.Record
	case record.Launch:
		log.launches = append(log.launches, Launch{
			Measurement: e.Launch, Sequence: e.Sequence, Record: e.Digests.SHA256, Boot: e.Boot, Time: e.Time,
		})
	case record.Abort:
		for i := len(log.launches) - 1; i >= 0 && log.launches[i].Sequence >= e.From; i-- {
			log.launches[i].Aborted = log.launches[i].Aborted || log.launches[i].Sequence <= e.To
		}
	case record.Policy:
	}
	log.register = log.register.Extend(e.Digests)
	log.chain = extendChain(log.chain, e.Digests)
	if log.witnessed {
		log.ratchet = log.ratchet.Step(e.Digests)
	}
	log.size++
	return nil
}

// follows tells whether the record may stand where it does.
func (log *replayed) follows(e *record.Entry) *Failure {
	switch e.Kind {
	case record.Boot, record.Resume:
		if e.Chain != log.chain {
			return &Failure{Field: "chain", Reason: "the records before it are not those that it was written after", Expected: log.chain.String(), Found: e.Chain.String()}
		}
		if e.Kind == record.Resume && (log.size == 0 || e.Register != bundle.TPM || cycle(e.Boot) != cycle(log.boot.Boot)) {
			return &Failure{Field: "boot", Reason: "it resumes another boot than the one that it stands in", Expected: log.boot.Boot, Found: e.Boot}
		}
		return nil
	case record.Abort:
		if e.From > e.To || e.To >= e.Sequence {
			return &Failure{Field: "to", Reason: "it aborts records that do not stand before it"}
		}
	case record.Launch, record.Policy:
	}
	if log.size == 0 {
		return &Failure{Field: "kind", Reason: "a log begins with a boot", Expected: string(record.Boot), Found: string(e.Kind)}
	}
	if e.Boot != log.boot.Boot {
		return &Failure{Field: "boot", Reason: "it belongs to another boot", Expected: log.boot.Boot, Found: e.Boot}
	}
	return nil
}

// cycle is the part of a TPM's boot name that names its reset.
func cycle(boot string) string {
	c, _, _ := strings.Cut(boot, ".")
	return c
}

// matches tells whether the signed head is of these records.
func (log *replayed) matches(h *bundle.Head, e *Enrolment) error {
	for _, f := range []struct{ field, want, got, reason string }{
		{"size", utoa(log.size), utoa(h.Size), "the head is of another number of records: some were added or removed"},
		{"chain", log.chain.String(), h.Chain, "the records are not those that the head was signed for: one was rewritten together with its digests"},
		{"sha256", log.register.SHA256.String(), h.SHA256, "the register's SHA-256 bank is not what the records give"},
		{"sha384", log.register.SHA384.String(), h.SHA384, "the register's SHA-384 bank is not what the records give"},
		{"boot", log.boot.Boot, h.Boot, "the head was signed in another boot than the newest in the log"},
		{"node", log.boot.Node, h.Node, "the log is that of another node"},
		{"register", log.boot.Register, h.Type, "the log was kept with another kind of register"},
		{"keys", log.boot.Keys.String(), e.KeysDigest().String(), "the log was kept under other keys than the enrolled ones"},
	} {
		if f.want != f.got {
			return differs(f.field, f.want, f.got, f.reason)
		}
	}
	return nil
}

func utoa(n uint64) string { return strconv.FormatUint(n, 10) }
