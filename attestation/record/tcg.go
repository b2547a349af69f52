package record

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
)

// The numbers of the TCG PC Client profile and of the TCG algorithm registry.
const (
	eventTag    = 0x00000006 // EV_EVENT_TAG
	eventAction = 0x00000003 // EV_NO_ACTION
	algSHA256   = 0x000b
	algSHA384   = 0x000c
)

// overhead is what TCG_PCR_EVENT2 adds to the event: PCR, type, count of
// digests, two digests with their algorithms, size.
const overhead = 4 + 4 + 4 + 2 + 32 + 2 + 48 + 4

// MaxSize is the most bytes of one TCG_PCR_EVENT2 in the log.
const MaxSize = overhead + MaxEvent

// Header begins a log file: the TCG_PCClientPCREvent with the Spec ID event
// (TCG PFP section 10.4.5.1) that tells readers the algorithms, so that
// tpm2_eventlog and its like read the file.
func Header() []byte {
	le := binary.LittleEndian
	spec := append([]byte("Spec ID Event03\x00"), 0, 0, 0, 0) // platformClass: client
	spec = append(spec, 0, 2, 105, 2)                         // version 2.00 errata 105, 64-bit UINTN
	spec = le.AppendUint32(spec, 2)
	spec = le.AppendUint16(spec, algSHA256)
	spec = le.AppendUint16(spec, 32)
	spec = le.AppendUint16(spec, algSHA384)
	spec = le.AppendUint16(spec, 48)
	spec = append(spec, 0) // no vendor information

	b := le.AppendUint32(nil, 0) // PCR 0, as the profile asks
	b = le.AppendUint32(b, eventAction)
	b = append(b, make([]byte, 20)...)        // the SHA-1 that is not used
	b = le.AppendUint32(b, uint32(len(spec))) //nolint:gosec // it is of fixed length.
	return append(b, spec...)
}

// Append adds the entry's TCG_PCR_EVENT2 to b.
func (e *Entry) Append(b []byte) []byte {
	le := binary.LittleEndian
	b = le.AppendUint32(b, PCR)
	b = le.AppendUint32(b, eventTag)
	b = le.AppendUint32(b, 2)
	b = le.AppendUint16(b, algSHA256)
	b = append(b, e.Digests.SHA256[:]...)
	b = le.AppendUint16(b, algSHA384)
	b = append(b, e.Digests.SHA384[:]...)
	b = le.AppendUint32(b, uint32(len(e.Event))) //nolint:gosec // Seal and Decode bound it to MaxEvent.
	return append(b, e.Event...)
}

// ErrShort is what Decode gives for a log that ends inside the record: read more.
var ErrShort = errors.New("log ends inside the record")

// Decode reads the first TCG_PCR_EVENT2 of b and gives what follows it. The
// event type is not covered by the digest, so every other one is refused.
func Decode(b []byte) (Entry, []byte, error) {
	if len(b) < overhead {
		return Entry{}, nil, ErrShort
	}
	le := binary.LittleEndian
	u32 := func(at int) uint32 { return le.Uint32(b[at:]) }
	switch {
	case u32(0) != PCR:
		return Entry{}, nil, fmt.Errorf("PCR is %d, not %d", u32(0), PCR)
	case u32(4) != eventTag:
		return Entry{}, nil, fmt.Errorf("event type is %#x, not EV_EVENT_TAG", u32(4))
	case u32(8) != 2 || le.Uint16(b[12:]) != algSHA256 || le.Uint16(b[46:]) != algSHA384:
		return Entry{}, nil, errors.New("digests are not SHA-256 and SHA-384, in this order")
	}
	size := u32(overhead - 4)
	if size > MaxEvent {
		return Entry{}, nil, fmt.Errorf("event of %d bytes is over the limit of %d", size, MaxEvent)
	}
	rest := b[overhead:]
	if uint64(len(rest)) < uint64(size) {
		return Entry{}, nil, ErrShort
	}
	var d Digests
	copy(d.SHA256[:], b[14:])
	copy(d.SHA384[:], b[48:])
	e, err := Open(bytes.Clone(rest[:size]), d)
	if err != nil {
		return Entry{}, nil, err
	}
	return e, rest[size:], nil
}

// Open checks an event against the digests that came with it and reads it.
func Open(event []byte, d Digests) (Entry, error) {
	if got := Sum(event); got != d {
		bank := "SHA-256"
		if got.SHA256 == d.SHA256 {
			bank = "SHA-384"
		}
		return Entry{}, fmt.Errorf("its %s digest differs from its bytes", bank)
	}
	r, err := Parse(event)
	if err != nil {
		return Entry{}, err
	}
	return Entry{Record: r, Event: event, Digests: d}, nil
}
