package bundle

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"

	"tero.internal/attestation/record"
)

// maxFront bounds the bytes before the records.
const maxFront = 64 << 10

// RecordError is a fault in one record.
type RecordError struct {
	// Index is the record's place in the bundle, from 0.
	Index int
	// Name is the workload's name as far as it can be read, else "".
	Name string
	Err  error
}

// Error names the record: "record 17 (web): its SHA-256 digest differs from its bytes".
func (e *RecordError) Error() string {
	if e.Name == "" {
		return fmt.Sprintf("record %d: %v", e.Index, e.Err)
	}
	return fmt.Sprintf("record %d (%s): %v", e.Index, e.Name, e.Err)
}

// Unwrap gives what is wrong.
func (e *RecordError) Unwrap() error { return e.Err }

// Decode reads a document. It accepts exactly what Encode writes, checks each
// record's digests against its bytes, and names the record that is at fault
// with a *RecordError. It judges nothing else.
func Decode(data []byte) (*Bundle, error) {
	b, rest, frontErr := decodeFront(data)
	if rest == nil {
		return nil, frontErr
	}
	// A fault in a record is told before one in the front, as it is worth more.
	for i := 0; !bytes.HasPrefix(rest, []byte("]\n")); i++ {
		if i >= MaxRecords {
			return nil, fmt.Errorf("evidence holds over %d records", MaxRecords)
		}
		line, after, ok := bytes.Cut(rest, []byte("\n"))
		if !ok {
			return nil, &RecordError{Index: i, Name: nameIn(line), Err: errors.New("the evidence ends inside it")}
		}
		line, more := bytes.CutSuffix(line, []byte(","))
		if last := bytes.HasPrefix(after, []byte("]")); last == more {
			return nil, &RecordError{Index: i, Name: nameIn(line), Err: errors.New("its line is not followed by what must follow")}
		}
		e, err := decodeLine(line)
		if err != nil {
			return nil, &RecordError{Index: i, Name: nameIn(line), Err: err}
		}
		b.Records, rest = append(b.Records, e), after
	}
	if frontErr != nil {
		return nil, frontErr
	}
	if string(rest) != "]\n}\n" {
		return nil, errors.New("evidence does not end after its records")
	}
	return b, nil
}

// decodeFront reads what stands before the records and gives the rest; that is
// nil when no records were found.
func decodeFront(data []byte) (*Bundle, []byte, error) {
	marker := []byte("\n\"records\": [\n")
	end := bytes.Index(data[:min(len(data), maxFront)], marker)
	if end < 0 {
		return nil, nil, errors.New("this is not evidence of TERO: no list of records was found")
	}
	front, rest := data[:end+len(marker)], data[end+len(marker):]
	var doc struct {
		Version int    `json:"version"`
		Type    string `json:"type"`
		Head    string `json:"head"`
		Ed25519 []byte `json:"ed25519"`
		MLDSA44 []byte `json:"mldsa44"`
		Quote   *Quote `json:"quote"`
		Records []bool `json:"records"`
	}
	b := &Bundle{}
	if err := json.Unmarshal(append(bytes.Clone(front), "]}"...), &doc); err != nil {
		return b, rest, fmt.Errorf("evidence is malformed before its records: %w", err)
	}
	if doc.Version != Version {
		return b, rest, fmt.Errorf("evidence is of version %d; this verifier knows %d", doc.Version, Version)
	}
	b.Type, b.Head, b.Ed25519, b.MLDSA44, b.Quote = doc.Type, doc.Head, doc.Ed25519, doc.MLDSA44, doc.Quote
	if !b.canonicalFront(front) {
		return b, rest, errors.New("evidence is not in the form that TERO writes, before its records")
	}
	return b, rest, nil
}

// errLine is a line that does not have the one form that a record's line has.
var errLine = errors.New("its line is malformed")

// decodeLine reads what appendLine writes.
func decodeLine(line []byte) (record.Entry, error) {
	const tail = `","sha256":"` + "................................................................" +
		`","sha384":"` + "................................................................................................" + `"}`
	body, ok := bytes.CutPrefix(line, []byte(`{"event":"`))
	if !ok || len(body) < len(tail) || len(body) > 2*record.MaxEvent+len(tail) {
		return record.Entry{}, errLine
	}
	escaped, rest := body[:len(body)-len(tail)], body[len(body)-len(tail):]
	event := make([]byte, 0, len(escaped))
	for i := 0; i < len(escaped); i++ {
		switch c := escaped[i]; c {
		case '\\':
			if i++; i == len(escaped) || escaped[i] != '"' {
				return record.Entry{}, errLine
			}
			event = append(event, '"')
		case '"':
			return record.Entry{}, errLine
		default:
			event = append(event, c)
		}
	}
	var d record.Digests
	_, err256 := hex.Decode(d.SHA256[:], rest[len(`","sha256":"`):][:64])
	_, err384 := hex.Decode(d.SHA384[:], rest[len(`","sha256":"`)+64+len(`","sha384":"`):][:96])
	if err256 != nil || err384 != nil {
		return record.Entry{}, errors.New("a digest of it is not hexadecimal")
	}
	if !bytes.Equal(appendDigests(make([]byte, 0, len(tail)), d), rest) {
		return record.Entry{}, errLine
	}
	return record.Open(event, d)
}

var namePattern = regexp.MustCompile(`\\"name\\":\\"([a-z0-9-]{1,63})\\"`)

// nameIn finds the workload's name in a line that may be damaged, for messages.
func nameIn(line []byte) string {
	if m := namePattern.FindSubmatch(line[:min(len(line), 2*record.MaxEvent)]); m != nil {
		return string(m[1])
	}
	return ""
}
