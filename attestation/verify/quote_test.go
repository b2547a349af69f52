package verify

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"testing"

	"github.com/google/go-tpm/tpm2"

	"tero.internal/attestation/bundle"
)

// FuzzStructures feeds foreign bytes to what reads a TPM's structures.
func FuzzStructures(f *testing.F) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(tpm2.Marshal(bundle.AKTemplate()))
	f.Add(tpm2.Marshal(tpm2.TPMTSignature{
		SigAlg: tpm2.TPMAlgECDSA,
		Signature: tpm2.NewTPMUSignature(tpm2.TPMAlgECDSA, &tpm2.TPMSSignatureECC{
			Hash: tpm2.TPMAlgSHA256, SignatureR: tpm2.TPM2BECCParameter{Buffer: []byte{1}}, SignatureS: tpm2.TPM2BECCParameter{Buffer: []byte{2}},
		}),
	}))
	f.Fuzz(func(t *testing.T, data []byte) {
		if checkSignature(&key.PublicKey, &bundle.Quote{Attest: data, Signature: data}) == nil {
			t.Error("a signature was made up")
		}
		_, _ = attestationKey(data)
		_, _ = parse[tpm2.TPMSAttest](data, maxAttest)
	})
}
