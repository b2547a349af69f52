package ocilayout

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"fmt"

	"golang.org/x/crypto/nacl/secretbox"
	"golang.org/x/crypto/scrypt"

	"tero.internal/common/fault"
)

// The PEM types of keys. cosign 2 writes the first, earlier ones the second,
// around the same envelope.
const (
	pemEncrypted    = "ENCRYPTED SIGSTORE PRIVATE KEY"
	pemEncryptedOld = "ENCRYPTED COSIGN PRIVATE KEY"
	pemPKCS8        = "PRIVATE KEY"
	pemPublic       = "PUBLIC KEY"
)

// The scrypt cost that cosign uses, and the most that TERO works off for a
// key file of unknown origin (128*N*r bytes of memory: 256 MiB).
const (
	scryptN    = 65536
	scryptR    = 8
	scryptP    = 1
	maxScryptN = 262144
)

// envelope is cosign's encrypted private key (go-securesystemslib, encrypted).
type envelope struct {
	KDF struct {
		Name   string `json:"name"`
		Params struct {
			N int `json:"N"`
			R int `json:"r"`
			P int `json:"p"`
		} `json:"params"`
		Salt []byte `json:"salt"`
	} `json:"kdf"`
	Cipher struct {
		Name  string `json:"name"`
		Nonce []byte `json:"nonce"`
	} `json:"cipher"`
	Ciphertext []byte `json:"ciphertext"`
}

// PrivateKey signs images: ECDSA on P-256, as cosign's own keys.
type PrivateKey struct{ key *ecdsa.PrivateKey }

// PublicKey verifies signatures.
type PublicKey struct {
	key *ecdsa.PublicKey
	id  string
}

// GenerateKey makes a key.
func GenerateKey() (*PrivateKey, error) {
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("generate key: %w", err)
	}
	return &PrivateKey{key: k}, nil
}

// Public gives the key's public half.
func (k *PrivateKey) Public() (*PublicKey, error) { return newPublicKey(&k.key.PublicKey) }

// MarshalPEM writes the key: with a password in cosign's encrypted form, which
// cosign reads back, without one as plain PKCS #8.
func (k *PrivateKey) MarshalPEM(password []byte) ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(k.key)
	if err != nil {
		return nil, fmt.Errorf("encode key: %w", err)
	}
	if len(password) == 0 {
		return pem.EncodeToMemory(&pem.Block{Type: pemPKCS8, Bytes: der}), nil
	}
	var e envelope
	e.KDF.Name, e.Cipher.Name = "scrypt", "nacl/secretbox"
	e.KDF.Params.N, e.KDF.Params.R, e.KDF.Params.P = scryptN, scryptR, scryptP
	e.KDF.Salt, e.Cipher.Nonce = random(32), random(24)
	secret, err := e.secret(password)
	if err != nil {
		return nil, err
	}
	e.Ciphertext = secretbox.Seal(nil, der, (*[24]byte)(e.Cipher.Nonce), secret)
	b, err := json.Marshal(e)
	if err != nil {
		return nil, fmt.Errorf("encode key: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: pemEncrypted, Bytes: b}), nil
}

// ParsePrivateKey reads a private key: cosign.key with its password, or plain
// PKCS #8. name is what messages call it (its path).
func ParsePrivateKey(name string, b, password []byte) (*PrivateKey, error) {
	block, _ := pem.Decode(b)
	if block == nil {
		return nil, fault.New(fault.Invalid, "%s holds no PEM block", name).
			WithHint("a signing key is what \"cosign generate-key-pair\" or \"tero image keygen\" writes")
	}
	der := block.Bytes
	switch block.Type {
	case pemPKCS8:
	case pemEncrypted, pemEncryptedOld:
		var err error
		if der, err = decrypt(name, block.Bytes, password); err != nil {
			return nil, err
		}
	default:
		return nil, fault.New(fault.Unsupported, "%s: PEM block %q is not a private key that can sign images", name, block.Type).
			WithHint("known are %q (cosign) and %q (PKCS #8)", pemEncrypted, pemPKCS8)
	}
	parsed, err := x509.ParsePKCS8PrivateKey(der)
	if err != nil {
		return nil, fault.New(fault.Invalid, "%s: %w", name, err)
	}
	k, ok := parsed.(*ecdsa.PrivateKey)
	if !ok || k.Curve != elliptic.P256() {
		return nil, fault.New(fault.Unsupported, "%s is not an ECDSA P-256 key", name)
	}
	return &PrivateKey{key: k}, nil
}

func decrypt(name string, b, password []byte) ([]byte, error) {
	var e envelope
	if err := json.Unmarshal(b, &e); err != nil {
		return nil, fault.New(fault.Invalid, "%s: envelope: %w", name, err)
	}
	p := e.KDF.Params
	if e.KDF.Name != "scrypt" || e.Cipher.Name != "nacl/secretbox" {
		return nil, fault.New(fault.Unsupported, "%s: key derivation %q with cipher %q is not cosign's", name, e.KDF.Name, e.Cipher.Name)
	}
	if p.N < 2 || p.N > maxScryptN || p.N&(p.N-1) != 0 || p.R != scryptR || p.P != scryptP || len(e.KDF.Salt) > 1024 || len(e.Cipher.Nonce) != 24 {
		return nil, fault.New(fault.Invalid, "%s: the envelope's scrypt parameters or nonce are out of bounds", name)
	}
	secret, err := e.secret(password)
	if err != nil {
		return nil, fault.New(fault.Invalid, "%s: %w", name, err)
	}
	der, ok := secretbox.Open(nil, e.Ciphertext, (*[24]byte)(e.Cipher.Nonce), secret)
	if !ok {
		return nil, fault.New(fault.Denied, "%s: wrong password", name).WithHint("the password is read from COSIGN_PASSWORD")
	}
	return der, nil
}

func (e *envelope) secret(password []byte) (*[32]byte, error) {
	p := e.KDF.Params
	k, err := scrypt.Key(password, e.KDF.Salt, p.N, p.R, p.P, 32)
	if err != nil {
		return nil, fmt.Errorf("derive key: %w", err)
	}
	return (*[32]byte)(k), nil
}

// ParsePublicKey reads a PEM public key; name is what messages call it.
func ParsePublicKey(name string, b []byte) (*PublicKey, error) {
	block, _ := pem.Decode(b)
	if block == nil || block.Type != pemPublic {
		return nil, fault.New(fault.Invalid, "%s is not a PEM public key (cosign.pub)", name)
	}
	parsed, err := x509.ParsePKIXPublicKey(block.Bytes)
	if err != nil {
		return nil, fault.New(fault.Invalid, "%s: %w", name, err)
	}
	k, ok := parsed.(*ecdsa.PublicKey)
	if !ok || k.Curve != elliptic.P256() {
		return nil, fault.New(fault.Unsupported, "%s is not an ECDSA P-256 key", name)
	}
	return newPublicKey(k)
}

func newPublicKey(k *ecdsa.PublicKey) (*PublicKey, error) {
	der, err := x509.MarshalPKIXPublicKey(k)
	if err != nil {
		return nil, fmt.Errorf("encode key: %w", err)
	}
	sum := sha256.Sum256(der)
	return &PublicKey{key: k, id: "sha256:" + hex.EncodeToString(sum[:])}, nil
}

// ID is "sha256:" and the SHA-256 of the key's DER SubjectPublicKeyInfo.
func (k *PublicKey) ID() string { return k.id }

// MarshalPEM writes the key as cosign.pub is.
func (k *PublicKey) MarshalPEM() ([]byte, error) {
	der, err := x509.MarshalPKIXPublicKey(k.key)
	if err != nil {
		return nil, fmt.Errorf("encode key: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: pemPublic, Bytes: der}), nil
}

func random(n int) []byte {
	b := make([]byte, n)
	_, _ = rand.Read(b) // never fails (Go 1.24)
	return b
}
