package evidence

import (
	"crypto/rsa"
	"crypto/x509"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"

	"tero.internal/attestation/bundle"
	"tero.internal/attestation/internal/register"
	"tero.internal/attestation/record"
	"tero.internal/attestation/verify"
)

// withAK uses the attestation key of a TPM, as node root could.
func withAK(tpm transport.TPM, use func(*tpm2.CreatePrimaryResponse) error) error {
	ak, err := tpm2.CreatePrimary{PrimaryHandle: tpm2.TPMRHEndorsement, InPublic: tpm2.New2B(bundle.AKTemplate())}.Execute(tpm)
	if err != nil {
		return err
	}
	err = use(ak)
	_, flush := tpm2.FlushContext{FlushHandle: ak.ObjectHandle}.Execute(tpm)
	return errors.Join(err, flush)
}

// TestQuoteTampering makes evidence that is wrong in one thing each, most of it
// with the node's own keys and its own TPM, as node root could.
func TestQuoteTampering(t *testing.T) {
	s := startTPM(t)
	l := mustOpen(t, config(t, s.path))
	mustMeasure(t, l, "web", "db")
	enrolment := mustEnrol(t, l)
	nonce := []byte("sixteen bytes and some")
	data, err := l.Attest(t.Context(), nonce)
	if err != nil {
		t.Fatal(err)
	}
	tpm := register.DialSocket(s.path)
	// quoteOver quotes any PCRs and says anything.
	quoteOver := func(extra []byte, sel tpm2.TPMLPCRSelection) *bundle.Quote {
		var q *bundle.Quote
		if err := withAK(tpm, func(ak *tpm2.CreatePrimaryResponse) error {
			r, err := tpm2.Quote{
				SignHandle:     tpm2.AuthHandle{Handle: ak.ObjectHandle, Name: ak.Name, Auth: tpm2.PasswordAuth(nil)},
				QualifyingData: tpm2.TPM2BData{Buffer: extra}, InScheme: tpm2.TPMTSigScheme{Scheme: tpm2.TPMAlgNull}, PCRSelect: sel,
			}.Execute(tpm)
			if err == nil {
				q = &bundle.Quote{Attest: r.Quoted.Bytes(), Signature: tpm2.Marshal(r.Signature)}
			}
			return err
		}); err != nil {
			t.Fatal(err)
		}
		return q
	}
	binding := func(b *bundle.Bundle) []byte {
		x := bundle.Binding(nonce, enrolment.Ed25519, uint64(len(b.Records)), b.Head)
		return x[:]
	}
	both := bundle.Selection(tpm2.TPMAlgSHA256, tpm2.TPMAlgSHA384)
	rewrite := func(b *bundle.Bundle) { // rewrite a record and sign everything anew
		r := b.Records[1].Record
		r.Launch.Name = "good"
		e, err := record.Seal(r)
		if err != nil {
			t.Fatal(err)
		}
		b.Records[1] = e
		o := &owner{log: l}
		for i := range b.Records {
			o.replay(&b.Records[i], 0)
		}
		h := o.head(nonce, register.State{})
		if b.Head, err = h.Text(); err != nil {
			t.Fatal(err)
		}
		if err := l.keys.sign(b); err != nil {
			t.Fatal(err)
		}
		b.Quote = quoteOver(binding(b), both)
	}
	tests := map[string]struct {
		change func(b *bundle.Bundle)
		want   string
	}{
		"nothing":                {func(b *bundle.Bundle) { b.Quote = quoteOver(binding(b), both) }, ""},
		"rewritten and resigned": {rewrite, "PCR 13 does not hold what the records give"},
		"no quote":               {func(b *bundle.Bundle) { b.Quote = nil }, "carries no quote"},
		"one bank":               {func(b *bundle.Bundle) { b.Quote = quoteOver(binding(b), bundle.Selection(tpm2.TPMAlgSHA256)) }, "other PCRs or banks"},
		"another PCR": {func(b *bundle.Bundle) {
			sel := both
			sel.PCRSelections = []tpm2.TPMSPCRSelection{
				{Hash: tpm2.TPMAlgSHA256, PCRSelect: tpm2.PCClientCompatible.PCRs(16)}, {Hash: tpm2.TPMAlgSHA384, PCRSelect: tpm2.PCClientCompatible.PCRs(13)},
			}
			b.Quote = quoteOver(binding(b), sel)
		}, "other PCRs or banks"},
		"another challenge": {func(b *bundle.Bundle) { b.Quote = quoteOver([]byte("x"), both) }, "another challenge, node key or head"},
		"quote flipped":     {func(b *bundle.Bundle) { b.Quote.Attest[20] ^= 1 }, "not signed by the enrolled TPM"},
		"quote cut":         {func(b *bundle.Bundle) { b.Quote.Attest = b.Quote.Attest[:20] }, "not signed by the enrolled TPM"},
		"signature cut":     {func(b *bundle.Bundle) { b.Quote.Signature = b.Quote.Signature[:9] }, "not signed by the enrolled TPM"},
		"signature goes on": {func(b *bundle.Bundle) { b.Quote.Signature = append(b.Quote.Signature, 0) }, "not signed by the enrolled TPM"},
		"signature flipped": {func(b *bundle.Bundle) { b.Quote.Signature[12] ^= 1 }, "not signed by the enrolled TPM"},
		"huge quote":        {func(b *bundle.Bundle) { b.Quote.Signature = make([]byte, 1<<15) }, "over the limit"},
		"time, not a quote": {func(b *bundle.Bundle) {
			if err := withAK(tpm, func(ak *tpm2.CreatePrimaryResponse) error {
				r, err := tpm2.GetTime{
					PrivacyAdminHandle: tpm2.TPMRHEndorsement,
					SignHandle:         tpm2.AuthHandle{Handle: ak.ObjectHandle, Name: ak.Name, Auth: tpm2.PasswordAuth(nil)},
					QualifyingData:     tpm2.TPM2BData{Buffer: binding(b)}, InScheme: tpm2.TPMTSigScheme{Scheme: tpm2.TPMAlgNull},
				}.Execute(tpm)
				if err == nil {
					b.Quote = &bundle.Quote{Attest: r.TimeInfo.Bytes(), Signature: tpm2.Marshal(r.Signature)}
				}
				return err
			}); err != nil {
				t.Fatal(err)
			}
		}, "is not a quote"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			b, err := bundle.Decode(data)
			if err != nil {
				t.Fatal(err)
			}
			tt.change(b)
			changed, err := b.Encode()
			if err != nil {
				t.Fatal(err)
			}
			_, err = verify.Verify(changed, verify.Trust{Enrolment: enrolment}, nonce)
			if tt.want == "" && err != nil || tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)) {
				t.Errorf("got %v, want %q", err, tt.want)
			}
		})
	}
	t.Run("another TPM", func(t *testing.T) {
		other := mustEnrol(t, mustOpen(t, config(t, startTPM(t).path)))
		e := *enrolment
		e.TPM = other.TPM
		if _, err := verify.Verify(data, verify.Trust{Enrolment: &e}, nonce); err == nil {
			t.Error("evidence of another TPM was accepted")
		}
	})
	t.Run("software evidence of a node with TPM", func(t *testing.T) {
		e := *enrolment
		e.Type, e.TPM = bundle.Software, nil
		if _, err := verify.Verify(data, verify.Trust{Enrolment: &e}, nonce); err == nil {
			t.Error("a quote was judged as software evidence")
		}
	})
}

func TestKeysThatKilledProgramsLeftLoadedAreUnloaded(t *testing.T) {
	s := startTPM(t)
	l := mustOpen(t, config(t, s.path))
	tpm := register.DialSocket(s.path)
	for range 3 {
		_, err := tpm2.CreatePrimary{PrimaryHandle: tpm2.TPMRHEndorsement, InPublic: tpm2.New2B(bundle.AKTemplate())}.Execute(tpm)
		if err != nil {
			t.Fatal(err)
		}
	}
	mustMeasure(t, l, "web")
	mustVerify(t, l)
}

// TestEndorsementKey reads the certificate that swtpm's manufacturer made.
func TestEndorsementKey(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	ca := write("ca.conf", "statedir = "+dir+"\nsigningkey = "+dir+"/key.pem\nissuercert = "+dir+"/cert.pem\ncertserial = "+dir+"/serial\n")
	options := write("ca.options", "--platform-manufacturer TERO\n--platform-version 1\n--platform-model test\n")
	setup := write("setup.conf", "create_certs_tool=swtpm_localca\ncreate_certs_tool_config="+ca+"\ncreate_certs_tool_options="+options+"\n")
	s := &swtpm{t: t, dir: dir, path: filepath.Join(dir, "s")}
	out, err := exec.Command("swtpm_setup", "--tpm2", "--tpmstate", dir, "--create-ek-cert", "--config", setup, "--pcr-banks", "sha256").CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	t.Cleanup(s.stop)
	s.start("clear")
	l := mustOpen(t, config(t, s.path))
	mustMeasure(t, l, "web")
	e := mustEnrol(t, l)
	if len(e.TPM.EKCertificate) == 0 || len(e.TPM.EK) == 0 || len(e.TPM.Banks) != 1 {
		t.Fatalf("enrolment %+v", e.TPM)
	}
	mustVerify(t, l) // with one bank
	certificate, err := x509.ParseCertificate(e.TPM.EKCertificate)
	if err != nil {
		t.Fatal(err)
	}
	public, err := tpm2.Unmarshal[tpm2.TPMTPublic](e.TPM.EK)
	if err != nil {
		t.Fatal(err)
	}
	key, err := tpm2.Pub(*public)
	if err != nil {
		t.Fatal(err)
	}
	if !key.(*rsa.PublicKey).Equal(certificate.PublicKey) {
		t.Error("the certificate is not of the endorsement key")
	}
}
