package image

import (
	"archive/tar"
	"bytes"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"

	"tero.internal/common/fault"
	"tero.internal/common/ocilayout"
	"tero.internal/runtime/internal/imagetest"
)

func TestSignatures(t *testing.T) {
	s := newStore(t)
	info := s.mustImport(t, imagetest.Archive(t, "web:v1", imagetest.Tar(t, imagetest.Entry("app", tar.TypeReg, "one"))))
	signers := func() (out []string) {
		t.Helper()
		img, err := s.Resolve(t.Context(), "web:v1")
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range img.Signers {
			out = append(out, s.Name)
		}
		return out
	}
	ref := ocilayout.Reference{Registry: "localhost", Repository: "web"}
	sign := func(k *ocilayout.PrivateKey, d digest.Digest) ocilayout.Signature {
		t.Helper()
		sig, err := ocilayout.SignDigest(k, ref, d)
		if err != nil {
			t.Fatal(err)
		}
		return sig
	}
	stranger, err := ocilayout.GenerateKey()
	if err != nil {
		t.Fatal(err)
	}
	release := trustKey(t, s)
	if i, signer, err := s.AttachSignature(t.Context(), "web:v1", sign(stranger, info.Digest)); err != nil || signer != nil || i.Signatures != 1 {
		t.Errorf("a stranger's signature: %v, %v, %d stored", signer, err, i.Signatures)
	}
	if got := signers(); got != nil {
		t.Errorf("a stranger counts: %v", got)
	}
	if _, _, err := s.AttachSignature(t.Context(), "web:v1", sign(release, digest.FromString("other"))); fault.KindOf(err) != fault.Invalid {
		t.Errorf("a signature over something else: %v", err)
	}
	sig := sign(release, info.Digest)
	bent := sig
	bent.Payload = append(bytes.Clone(sig.Payload), '\n')
	if _, signer, err := s.AttachSignature(t.Context(), "web:v1", bent); err != nil || signer != nil {
		t.Errorf("a bent payload: %v, %v", signer, err)
	}
	for range 2 { // twice is once
		if i, signer, err := s.AttachSignature(t.Context(), "web:v1", sig); err != nil || signer == nil || signer.Name != "release" || i.Signatures != 3 {
			t.Errorf("signer %v, %v, %d stored", signer, err, i.Signatures)
		}
	}
	if diff := cmp.Diff([]string{"release"}, signers()); diff != "" {
		t.Errorf("signers (-want +got):\n%s", diff)
	}
	// Trust is the folder's, at once: a key that goes, one that is replaced,
	// one that comes, one that others may write.
	path := filepath.Join(s.trust.dir, "release.pub")
	key, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	trustKey(t, s)
	if got := signers(); got != nil {
		t.Errorf("after the key was replaced: %v", got)
	}
	if err := os.WriteFile(path, key, 0o644); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"release"}, signers()); diff != "" {
		t.Errorf("after the key came back (-want +got):\n%s", diff)
	}
	if err := os.WriteFile(filepath.Join(s.trust.dir, "bad.pub"), []byte("no key"), 0o644); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"release"}, signers()); diff != "" {
		t.Errorf("beside a bad key (-want +got):\n%s", diff)
	}
	if err := os.Chmod(path, 0o666); err != nil {
		t.Fatal(err)
	}
	if got := signers(); got != nil {
		t.Errorf("a key that everybody may write: %v", got)
	}
	if err := os.RemoveAll(s.trust.dir); err != nil {
		t.Fatal(err)
	}
	if got := signers(); got != nil {
		t.Errorf("without a trust folder: %v", got)
	}
}

func TestSignaturesGoWithTheirImage(t *testing.T) {
	s := newStore(t)
	archive := imagetest.Archive(t, "web:v1", imagetest.Tar(t, imagetest.Entry("app", tar.TypeReg, "one")))
	info := s.mustImport(t, archive)
	sig, err := ocilayout.SignDigest(trustKey(t, s), ocilayout.Reference{Registry: "localhost", Repository: "web"}, info.Digest)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := s.AttachSignature(t.Context(), "web:v1", sig); err != nil {
		t.Fatal(err)
	}
	if again := s.mustImport(t, archive); len(again.Signers) != 1 {
		t.Errorf("signers %v after a second import, want them kept", again.Signers)
	}
	if _, err := s.Remove(t.Context(), "web:v1"); err != nil {
		t.Fatal(err)
	}
	if again := s.mustImport(t, archive); again.Signatures != 0 {
		t.Errorf("%d signatures outlived their image", again.Signatures)
	}
}

// TestSignedLayout imports what the command line builds and signs.
func TestSignedLayout(t *testing.T) {
	s := newStore(t)
	k := trustKey(t, s)
	source := t.TempDir()
	if err := os.WriteFile(filepath.Join(source, "app"), []byte("x"), 0o755); err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(t.TempDir(), "layout")
	built, err := ocilayout.Build(t.Context(), ocilayout.BuildOptions{Source: source, Layout: dir, Reference: "web:v1", Entrypoint: []string{"/app"}})
	if err != nil {
		t.Fatal(err)
	}
	l, err := ocilayout.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := l.Sign("", k); err != nil {
		t.Fatal(err)
	}
	pr, pw := io.Pipe()
	sent := make(chan error, 1)
	go func() { err := l.WriteTar(t.Context(), pw); _ = pw.CloseWithError(err); sent <- err }()
	infos, err := s.Import(t.Context(), pr, ImportOptions{})
	_ = pr.Close()
	if serr := <-sent; err != nil || serr != nil {
		t.Fatal(err, serr)
	}
	if len(infos) != 1 || infos[0].Digest != built.Manifest.Digest || len(infos[0].Signers) != 1 || infos[0].Signers[0].Name != "release" {
		t.Errorf("images %+v", infos)
	}
}
