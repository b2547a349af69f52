package bundle

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	stdx509 "crypto/x509"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"

	"filippo.io/mldsa"
	"filippo.io/mldsa/x509"

	"tero.internal/attestation/record"
)

// Enrolment is the public material that a verifier must get from a node once,
// by a way that it trusts, before it can judge evidence of that node.
type Enrolment struct {
	Version  int    `json:"version"`
	Node     string `json:"node"`
	SPIFFEID string `json:"spiffeId"`
	// Type is the evidence type that this node gives.
	Type string `json:"type"`
	// Ed25519 and MLDSA44 are the node's keys as DER SubjectPublicKeyInfo.
	Ed25519 []byte `json:"ed25519"`
	MLDSA44 []byte `json:"mldsa44"`
	// TPM is set for evidence of type TPM.
	TPM *TPMKeys `json:"tpm,omitempty"`
}

// TPMKeys is the public part of a TPM's keys.
type TPMKeys struct {
	// AK is the attestation key, a TPMT_PUBLIC.
	AK []byte `json:"ak"`
	// EK is the endorsement key, a TPMT_PUBLIC.
	EK []byte `json:"ek"`
	// EKCertificate is DER; empty when the TPM holds none.
	EKCertificate []byte `json:"ekCertificate,omitempty"`
	// Banks are the PCR banks that are extended: "sha256", and "sha384" when
	// the TPM has it.
	Banks []string `json:"banks"`
}

// Encode writes the document that an operator stores.
func (e *Enrolment) Encode() ([]byte, error) {
	b, err := json.MarshalIndent(e, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("enrolment: %w", err)
	}
	return append(b, '\n'), nil
}

// ParseEnrolment reads an enrolment and checks that its keys are keys.
func ParseEnrolment(data []byte) (*Enrolment, error) {
	var e Enrolment
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	if err := d.Decode(&e); err != nil {
		return nil, fmt.Errorf("enrolment: %w", err)
	}
	switch {
	case d.More():
		return nil, errors.New("enrolment: something follows the document")
	case e.Version != Version:
		return nil, fmt.Errorf("enrolment is of version %d; %d is known", e.Version, Version)
	case e.Type != Software && e.Type != TPM:
		return nil, fmt.Errorf("enrolment: evidence type %q is not known", e.Type)
	case e.Node == "" || e.SPIFFEID == "":
		return nil, errors.New("enrolment names no node")
	case (e.Type == TPM) != (e.TPM != nil):
		return nil, errors.New("enrolment: the evidence type and the TPM's keys do not fit together")
	}
	if _, _, err := e.Keys(); err != nil {
		return nil, err
	}
	return &e, nil
}

// Keys gives the node's keys.
func (e *Enrolment) Keys() (ed25519.PublicKey, *mldsa.PublicKey, error) {
	ed, err := stdx509.ParsePKIXPublicKey(e.Ed25519)
	if err != nil {
		return nil, nil, fmt.Errorf("enrolment: Ed25519 key: %w", err)
	}
	pq, err := x509.ParsePKIXPublicKey(e.MLDSA44)
	if err != nil {
		return nil, nil, fmt.Errorf("enrolment: ML-DSA key: %w", err)
	}
	edKey, ok1 := ed.(ed25519.PublicKey)
	pqKey, ok2 := pq.(*mldsa.PublicKey)
	if !ok1 || !ok2 || pqKey.Parameters() != mldsa.MLDSA44() {
		return nil, nil, errors.New("enrolment: the keys are not Ed25519 and ML-DSA-44")
	}
	return edKey, pqKey, nil
}

// KeysDigest fixes the keys that sign: boot records carry it, so that a log tells which
// keys it belongs to.
func (e *Enrolment) KeysDigest() record.Digest256 {
	parts := [][]byte{[]byte(e.Type), e.Ed25519, e.MLDSA44}
	if e.TPM != nil {
		parts = append(parts, e.TPM.AK)
	}
	b := []byte("tero/v1 keys\x00")
	for _, p := range parts {
		b = binary.BigEndian.AppendUint32(b, uint32(len(p))) //nolint:gosec // keys are far under 4 GiB.
		b = append(b, p...)
	}
	return sha256.Sum256(b)
}
