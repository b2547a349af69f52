package ocilayout_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"tero.internal/common/ocilayout"
)

// TestSignaturesAgainstOpenSSL checks keys and signatures with a program that
// shares no code with us, in both directions: cosign's are plain ECDSA with
// SHA-256 over the payload.
func TestSignaturesAgainstOpenSSL(t *testing.T) {
	dir := t.TempDir()
	k, err := ocilayout.GenerateKey()
	if err != nil {
		t.Fatal(err)
	}
	pub, err := k.Public()
	if err != nil {
		t.Fatal(err)
	}
	private, err := k.MarshalPEM(nil)
	if err != nil {
		t.Fatal(err)
	}
	public, err := pub.MarshalPEM()
	if err != nil {
		t.Fatal(err)
	}
	ref, err := ocilayout.ParseReference("web:v1")
	if err != nil {
		t.Fatal(err)
	}
	s, err := ocilayout.SignDigest(k, ref, "sha256:"+hex64)
	if err != nil {
		t.Fatal(err)
	}
	for name, b := range map[string][]byte{"key": private, "pub": public, "payload": s.Payload, "ours": s.Signature} {
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	openssl := func(args ...string) {
		t.Helper()
		cmd := exec.CommandContext(t.Context(), "openssl", args...)
		cmd.Dir = dir
		if b, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("openssl %q: %v\n%s", args, err, b)
		}
	}
	openssl("dgst", "-sha256", "-verify", "pub", "-signature", "ours", "payload")
	openssl("dgst", "-sha256", "-sign", "key", "-out", "theirs", "payload")
	theirs, err := os.ReadFile(filepath.Join(dir, "theirs"))
	if err != nil {
		t.Fatal(err)
	}
	if !pub.Verify(ocilayout.Signature{Payload: s.Payload, Signature: theirs}) {
		t.Error("what OpenSSL signed does not verify")
	}
}
