package verify

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"math/big"
	"slices"

	"github.com/google/go-tpm/tpm2"

	"tero.internal/attestation/bundle"
	"tero.internal/common/workload"
)

// The most bytes of a TPM's structures that are looked at.
const (
	maxAttest    = 4096
	maxSignature = 1024
	maxPublic    = 1024
)

// quoted judges evidence of type tero-tpm: that the enrolled TPM itself says,
// to this challenge, that its register holds what the records give.
func quoted(b *bundle.Bundle, h *bundle.Head, log *replayed, e *Enrolment) (workload.Level, error) {
	if b.Quote == nil {
		return workload.L0, failf("the evidence carries no quote, and the enrolled node has a TPM")
	}
	if h.Aggregate != "" {
		return workload.L0, failf("the head of a node with a TPM carries a ratchet's aggregate")
	}
	key, err := attestationKey(e.TPM.AK)
	if err != nil {
		return workload.L0, failf("the enrolled attestation key cannot be used: %s", err.Error())
	}
	if err := checkSignature(key, b.Quote); err != nil {
		return workload.L0, failf("the quote is not signed by the enrolled TPM: %s", err.Error())
	}
	attest, err := parse[tpm2.TPMSAttest](b.Quote.Attest, maxAttest)
	if err != nil {
		return workload.L0, failf("the quote is malformed: %s", err.Error())
	}
	if attest.Magic != tpm2.TPMGeneratedValue || attest.Type != tpm2.TPMSTAttestQuote {
		return workload.L0, failf("what the TPM signed is not a quote")
	}
	info, err := attest.Attested.Quote()
	if err != nil {
		return workload.L0, failf("the quote is malformed: %s", err.Error())
	}
	nonce, err := hex.DecodeString(h.Nonce)
	if err != nil {
		return workload.L0, failf("the nonce in the head is not hexadecimal")
	}
	extra := bundle.Binding(nonce, e.Ed25519, h.Size, b.Head)
	values := sha256.New()
	values.Write(log.register.SHA256[:])
	if slices.Contains(e.TPM.Banks, "sha384") {
		values.Write(log.register.SHA384[:])
	}
	clock := attest.ClockInfo
	for _, f := range []struct {
		field     string
		want, got []byte
		reason    string
	}{
		{"extraData", extra[:], attest.ExtraData.Buffer, "the quote was made for another challenge, node key or head"},
		{"pcrSelect", tpm2.Marshal(bundle.Selection(bundle.Algorithms(e.TPM.Banks)...)), tpm2.Marshal(info.PCRSelect), "the quote is over other PCRs or banks than PCR 13 of the enrolled banks"},
		{"pcrDigest", values.Sum(nil), info.PCRDigest.Buffer, "PCR 13 does not hold what the records give: records were removed, changed, or never extended"},
	} {
		if !bytes.Equal(f.want, f.got) {
			return workload.L0, differs(f.field, hex.EncodeToString(f.want), hex.EncodeToString(f.got), f.reason)
		}
	}
	if boot := bundle.BootName(clock.ResetCount, clock.RestartCount); boot != h.Boot {
		return workload.L0, differs("boot", h.Boot, boot, "the TPM was reset since the newest boot record")
	}
	return workload.L1, nil
}

// parse reads one TPM structure.
func parse[T tpm2.Marshallable, P interface {
	*T
	tpm2.Unmarshallable
}](data []byte, most int) (*T, error) {
	if len(data) > most {
		return nil, fmt.Errorf("%d bytes are over the limit of %d", len(data), most)
	}
	v, err := tpm2.Unmarshal[T, P](data)
	if err != nil {
		return nil, err
	}
	return v, nil
}

// attestationKey reads the enrolled key and checks that it is one with which a
// TPM signs nothing but its own word.
func attestationKey(ak []byte) (*ecdsa.PublicKey, error) {
	public, err := parse[tpm2.TPMTPublic](ak, maxPublic)
	if err != nil {
		return nil, err
	}
	if public.ObjectAttributes != bundle.AKTemplate().ObjectAttributes {
		return nil, errors.New("its attributes are not those of a restricted signing key that is fixed to its TPM")
	}
	key, err := tpm2.Pub(*public)
	if err != nil {
		return nil, err
	}
	ec, ok := key.(*ecdsa.PublicKey)
	if !ok {
		return nil, errors.New("it is not an ECDSA key")
	}
	return ec, nil
}

// checkSignature checks the TPM's signature over the quote.
func checkSignature(key *ecdsa.PublicKey, q *bundle.Quote) error {
	signature, err := parse[tpm2.TPMTSignature](q.Signature, maxSignature)
	if err != nil {
		return err
	}
	if signature.SigAlg != tpm2.TPMAlgECDSA {
		return errors.New("it is not an ECDSA signature")
	}
	ec, err := signature.Signature.ECDSA()
	if err != nil {
		return err
	}
	if ec.Hash != tpm2.TPMAlgSHA256 {
		return errors.New("its hash is not SHA-256")
	}
	if !bytes.Equal(tpm2.Marshal(*signature), q.Signature) {
		return errors.New("something follows the signature")
	}
	sum := sha256.Sum256(q.Attest)
	r, s := new(big.Int).SetBytes(ec.SignatureR.Buffer), new(big.Int).SetBytes(ec.SignatureS.Buffer)
	if !ecdsa.Verify(key, sum[:], r, s) {
		return errors.New("the signature does not fit")
	}
	return nil
}
