package pluginpkg

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2"
	"oras.land/oras-go/v2/content/oci"

	"tero.internal/common/fault"
	"tero.internal/common/workload"
)

// domain keeps a signature over a plugin from being one over anything else.
const domain = "tero-plugin-v1\x00"

func signed(d digest.Digest) []byte { return []byte(domain + d.String()) }

// Sign adds a signature by key, Ed25519 or ECDSA on P-256, to the package in
// the OCI layout at dir, and gives the package's digest.
func Sign(ctx context.Context, dir string, key crypto.Signer) (digest.Digest, error) {
	p, err := Open(ctx, dir)
	if err != nil {
		return "", err
	}
	s, err := sign(key, p.Digest)
	if err != nil {
		return "", err
	}
	id, err := KeyID(key.Public())
	if err != nil {
		return "", err
	}
	store, err := oci.NewWithContext(ctx, dir)
	if err != nil {
		return "", fmt.Errorf("open layout %s: %w", dir, err)
	}
	subject, err := store.Resolve(ctx, p.Manifest.Version)
	if err != nil {
		return "", fmt.Errorf("find package in %s: %w", dir, err)
	}
	layer, err := push(ctx, store, s.media, s.bytes)
	if err != nil {
		return "", err
	}
	subject = v1.Descriptor{MediaType: subject.MediaType, Digest: subject.Digest, Size: subject.Size}
	if _, err := oras.PackManifest(ctx, store, oras.PackManifestVersion1_1, ArtifactSignature, oras.PackManifestOptions{
		Subject: &subject, Layers: []v1.Descriptor{layer},
		ManifestAnnotations: map[string]string{v1.AnnotationCreated: epoch, "io.tero.key.id": id},
	}); err != nil {
		return "", fmt.Errorf("write signature: %w", err)
	}
	return p.Digest, nil
}

func sign(key crypto.Signer, d digest.Digest) (signature, error) {
	message := signed(d)
	switch pub := key.Public().(type) {
	case ed25519.PublicKey:
		b, err := key.Sign(rand.Reader, message, crypto.Hash(0))
		return signature{mediaEd25519, b}, err
	case *ecdsa.PublicKey:
		if pub.Curve == elliptic.P256() {
			sum := sha256.Sum256(message)
			b, err := key.Sign(rand.Reader, sum[:], crypto.SHA256)
			return signature{mediaECDSA, b}, err
		}
	}
	return signature{}, unsupportedKey("the signing key")
}

func unsupportedKey(what string) error {
	return fault.New(fault.Unsupported, "%s is neither Ed25519 nor ECDSA on P-256", what).
		WithHint("make one with: openssl genpkey -algorithm ed25519 -out plugin.key")
}

// TrustedKey is a key whose plugins may be loaded.
type TrustedKey struct {
	Signer workload.Signer
	key    crypto.PublicKey
}

// LoadTrust reads the trusted keys of a folder: each file NAME.pub holds one
// PEM public key. A folder that does not exist holds none.
func LoadTrust(dir string) ([]TrustedKey, error) {
	files, err := filepath.Glob(filepath.Join(dir, "*.pub"))
	if err != nil {
		return nil, fmt.Errorf("trust folder %s: %w", dir, err)
	}
	var keys []TrustedKey
	for _, f := range files {
		b, err := os.ReadFile(f) //nolint:gosec // a file in the operator's trust folder
		if errors.Is(err, fs.ErrNotExist) {
			continue // removed meanwhile: no longer trusted
		}
		if err != nil {
			return nil, fmt.Errorf("trusted key: %w", err)
		}
		key, err := ParsePublicKey(b)
		if err != nil {
			return nil, fmt.Errorf("trusted key %s: %w", f, err)
		}
		id, err := KeyID(key)
		if err != nil {
			return nil, fmt.Errorf("trusted key %s: %w", f, err)
		}
		name := strings.TrimSuffix(filepath.Base(f), ".pub")
		keys = append(keys, TrustedKey{Signer: workload.Signer{Name: name, KeyID: id}, key: key})
	}
	return keys, nil
}

// Verify gives the trusted key that signed the package, or a fault of kind Denied.
func (p *Package) Verify(trusted []TrustedKey) (workload.Signer, error) {
	message := signed(p.Digest)
	sum := sha256.Sum256(message)
	for _, t := range trusted {
		for _, s := range p.signatures {
			switch key := t.key.(type) {
			case ed25519.PublicKey:
				if s.media == mediaEd25519 && ed25519.Verify(key, message, s.bytes) {
					return t.Signer, nil
				}
			case *ecdsa.PublicKey:
				if s.media == mediaECDSA && ecdsa.VerifyASN1(key, sum[:], s.bytes) {
					return t.Signer, nil
				}
			}
		}
	}
	f := fault.New(fault.Denied, "plugin %s %s (%s) has no valid signature by one of the %d trusted keys",
		p.Manifest.Name, p.Manifest.Version, p.Digest, len(trusted))
	if len(p.signatures) == 0 {
		return workload.Signer{}, f.WithHint("it has no signature at all; sign it with \"tero plugin sign\"")
	}
	return workload.Signer{}, f.WithHint("put its author's public key, as NAME.pub, into the node's plugin trust folder if you trust it")
}

// KeyID gives "sha256:" and the hexadecimal SHA-256 of key's DER SubjectPublicKeyInfo.
func KeyID(key crypto.PublicKey) (string, error) {
	der, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		return "", fmt.Errorf("public key: %w", err)
	}
	sum := sha256.Sum256(der)
	return "sha256:" + hex.EncodeToString(sum[:]), nil
}

// ParsePublicKey reads a PEM public key (PKIX), Ed25519 or ECDSA on P-256.
func ParsePublicKey(b []byte) (crypto.PublicKey, error) {
	block, _ := pem.Decode(b)
	if block == nil || block.Type != "PUBLIC KEY" {
		return nil, fault.New(fault.Invalid, "not a PEM file with a PUBLIC KEY")
	}
	key, err := x509.ParsePKIXPublicKey(block.Bytes)
	if err != nil {
		return nil, fault.New(fault.Invalid, "malformed public key: %w", err)
	}
	switch k := key.(type) {
	case ed25519.PublicKey:
		return k, nil
	case *ecdsa.PublicKey:
		if k.Curve == elliptic.P256() {
			return k, nil
		}
	}
	return nil, unsupportedKey("the public key")
}

// ParsePrivateKey reads an unencrypted PEM private key (PKCS #8), Ed25519 or ECDSA on P-256.
func ParsePrivateKey(b []byte) (crypto.Signer, error) {
	block, _ := pem.Decode(b)
	if block == nil || block.Type != "PRIVATE KEY" {
		return nil, fault.New(fault.Invalid, "not a PEM file with an unencrypted PRIVATE KEY (PKCS #8)")
	}
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, fault.New(fault.Invalid, "malformed private key: %w", err)
	}
	switch k := key.(type) {
	case ed25519.PrivateKey:
		return k, nil
	case *ecdsa.PrivateKey:
		if k.Curve == elliptic.P256() {
			return k, nil
		}
	}
	return nil, unsupportedKey("the private key")
}
