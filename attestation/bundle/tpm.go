package bundle

import (
	"fmt"

	"github.com/google/go-tpm/tpm2"

	"tero.internal/attestation/record"
)

// AKTemplate is the attestation key: ECDSA P-256, restricted, so that the TPM
// signs with it nothing that looks like its own word and is not.
func AKTemplate() tpm2.TPMTPublic {
	return tpm2.TPMTPublic{
		Type: tpm2.TPMAlgECC, NameAlg: tpm2.TPMAlgSHA256,
		ObjectAttributes: tpm2.TPMAObject{
			FixedTPM: true, FixedParent: true, SensitiveDataOrigin: true,
			UserWithAuth: true, NoDA: true, Restricted: true, SignEncrypt: true,
		},
		Parameters: tpm2.NewTPMUPublicParms(tpm2.TPMAlgECC, &tpm2.TPMSECCParms{
			Scheme: tpm2.TPMTECCScheme{
				Scheme:  tpm2.TPMAlgECDSA,
				Details: tpm2.NewTPMUAsymScheme(tpm2.TPMAlgECDSA, &tpm2.TPMSSigSchemeECDSA{HashAlg: tpm2.TPMAlgSHA256}),
			},
			CurveID: tpm2.TPMECCNistP256,
		}),
		Unique: tpm2.NewTPMUPublicID(tpm2.TPMAlgECC, &tpm2.TPMSECCPoint{
			X: tpm2.TPM2BECCParameter{Buffer: []byte("tero-ak-v1")}, Y: tpm2.TPM2BECCParameter{},
		}),
	}
}

// Selection selects PCR 13 in each of the banks, in this order.
func Selection(algs ...tpm2.TPMAlgID) tpm2.TPMLPCRSelection {
	var s tpm2.TPMLPCRSelection
	for _, alg := range algs {
		s.PCRSelections = append(s.PCRSelections, tpm2.TPMSPCRSelection{Hash: alg, PCRSelect: tpm2.PCClientCompatible.PCRs(record.PCR)})
	}
	return s
}

// Algorithms gives the TPM's numbers of banks; a name that is not known is left out.
func Algorithms(banks []string) []tpm2.TPMAlgID {
	var algs []tpm2.TPMAlgID
	for _, b := range banks {
		switch b {
		case "sha256":
			algs = append(algs, tpm2.TPMAlgSHA256)
		case "sha384":
			algs = append(algs, tpm2.TPMAlgSHA384)
		}
	}
	return algs
}

// BootCycle names the time from one reset of a TPM to the next: the PCRs are
// zero at its beginning.
func BootCycle(resets uint32) string { return fmt.Sprintf("tpm-%d", resets) }

// BootName names a boot by a TPM's counters.
func BootName(resets, restarts uint32) string {
	return fmt.Sprintf("%s.%d", BootCycle(resets), restarts)
}
