// Package bundle is the form in which evidence leaves a node, and the form of
// the public material that it is judged with. It is shared by those who make
// evidence and those who judge it, and touches no disk and no TPM.
//
// A bundle is one JSON document that is also line by line: a few head lines,
// then one line a record. There is exactly one way to write it, so that no
// byte of it can change unnoticed and every fault is told by its record.
package bundle

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"time"

	"tero.internal/attestation/record"
	"tero.internal/common/workload"
)

// The evidence types.
const (
	// Software is a hash chain and ratchet in a file, with signed heads: L0.
	Software = "tero-sw"
	// TPM is PCR 13 of a TPM 2.0, with quotes.
	TPM = "tero-tpm"
)

// Version is the version of the formats in this package.
const Version = 1

// Limits of nonces in bytes.
const (
	MinNonce = 16
	MaxNonce = 64
)

// MaxRecords is the most records that a bundle may hold.
const MaxRecords = 4 << 20

// Bundle is evidence: the launch log, and what fixes it to a key and a moment.
type Bundle struct {
	Type string
	// Head is the text that is signed; ParseHead reads it.
	Head string
	// Ed25519 and MLDSA44 are signatures over Head by the node's keys.
	Ed25519, MLDSA44 []byte
	// Quote is the TPM's word on its register; nil for Software.
	Quote *Quote
	// Records are the log, from record 0.
	Records []record.Entry
}

// Quote is a TPM's signed statement (TPM 2.0 part 3, TPM2_Quote).
type Quote struct {
	// Attest is the TPMS_ATTEST, Signature the TPMT_SIGNATURE over it.
	Attest    []byte `json:"attest"`
	Signature []byte `json:"signature"`
}

// Head is what a node says about itself and its log at one moment.
type Head struct {
	// Aggregate is the ratchet's aggregate MAC; empty unless Software.
	Aggregate string `json:"aggregate"`
	Boot      string `json:"boot"`
	// Chain is the hash chain over all records, never reset.
	Chain string `json:"chain"`
	Node  string `json:"node"`
	// Nonce is the verifier's challenge in hexadecimal.
	Nonce string `json:"nonce"`
	// SHA256 and SHA384 are what the register's banks hold.
	SHA256   string `json:"sha256"`
	SHA384   string `json:"sha384"`
	Size     uint64 `json:"size"`
	SPIFFEID string `json:"spiffeId"`
	// Time is the node's clock, in record.TimeFormat.
	Time string `json:"time"`
	Type string `json:"type"`
}

// headPrefix keeps a head apart from everything else that is ever signed.
const headPrefix = "tero/v1 head "

// SignatureContext is the ML-DSA context of heads (FIPS 204, section 5.2).
const SignatureContext = "tero/v1 head"

// Text gives the bytes that are signed.
func (h *Head) Text() (string, error) {
	b, err := workload.CanonicalJSON(h)
	if err != nil {
		return "", fmt.Errorf("head: %w", err)
	}
	return headPrefix + string(b), nil
}

// ParseHead reads a head; it accepts exactly what Text gives.
func ParseHead(text string) (Head, error) {
	var h Head
	if len(text) > 4096 || len(text) < len(headPrefix) || text[:len(headPrefix)] != headPrefix {
		return h, fmt.Errorf("head does not begin with %q", headPrefix)
	}
	if err := json.Unmarshal([]byte(text[len(headPrefix):]), &h); err != nil {
		return Head{}, fmt.Errorf("head: %w", err)
	}
	if again, err := h.Text(); err != nil || again != text {
		return Head{}, fmt.Errorf("head is not canonical")
	}
	if _, err := time.Parse(record.TimeFormat, h.Time); err != nil {
		return Head{}, fmt.Errorf("head: time %q is malformed", h.Time)
	}
	return h, nil
}

// Binding is the extraData of a quote: it ties the TPM's word to the
// challenge, to the node's key and to the signed head.
//
//	SHA-256("tero/v1 evidence" | 0 | len | nonce | len | SPKI | log size | SHA-256(head))
//
// with lengths of 4 and the size of 8 bytes, big endian.
func Binding(nonce, spki []byte, size uint64, head string) [sha256.Size]byte {
	be := binary.BigEndian
	b := append([]byte("tero/v1 evidence"), 0)
	b = be.AppendUint32(b, uint32(len(nonce))) //nolint:gosec // MaxNonce bounds it.
	b = append(b, nonce...)
	b = be.AppendUint32(b, uint32(len(spki))) //nolint:gosec // a public key is far under 4 GiB.
	b = append(b, spki...)
	b = be.AppendUint64(b, size)
	sum := sha256.Sum256([]byte(head))
	return sha256.Sum256(append(b, sum[:]...))
}

// Encode writes the document.
func (b *Bundle) Encode() ([]byte, error) {
	out, err := b.encodeFront(make([]byte, 0, 4096+1024*len(b.Records)))
	if err != nil {
		return nil, err
	}
	for i := range b.Records {
		out = appendLine(out, &b.Records[i])
		if i < len(b.Records)-1 {
			out = append(out, ',')
		}
		out = append(out, '\n')
	}
	return append(out, "]\n}\n"...), nil
}

// encodeFront writes everything before the records.
func (b *Bundle) encodeFront(out []byte) ([]byte, error) {
	out = append(out, "{\n"...)
	for _, m := range []struct {
		key   string
		value any
	}{{"version", Version}, {"type", b.Type}, {"head", b.Head}, {"ed25519", b.Ed25519}, {"mldsa44", b.MLDSA44}, {"quote", b.Quote}} {
		v, err := json.Marshal(m.value)
		if err != nil {
			return nil, fmt.Errorf("bundle: %w", err)
		}
		out = fmt.Appendf(out, "%q: %s,\n", m.key, v)
	}
	return append(out, `"records": [`+"\n"...), nil
}

// appendLine writes one record. Its event holds nothing that JSON escapes but
// quotation marks.
func appendLine(out []byte, e *record.Entry) []byte {
	out = append(out, `{"event":"`...)
	for _, c := range e.Event {
		if c == '"' {
			out = append(out, '\\')
		}
		out = append(out, c)
	}
	return appendDigests(out, e.Digests)
}

// appendDigests writes what follows a record's event.
func appendDigests(out []byte, d record.Digests) []byte {
	out = append(out, `","sha256":"`...)
	out = hex.AppendEncode(out, d.SHA256[:])
	out = append(out, `","sha384":"`...)
	out = hex.AppendEncode(out, d.SHA384[:])
	return append(out, `"}`...)
}

// canonicalFront tells whether front is exactly how b's front is written.
func (b *Bundle) canonicalFront(front []byte) bool {
	again, err := b.encodeFront(nil)
	return err == nil && bytes.Equal(again, front)
}
