package evidence

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"filippo.io/mldsa"
	"filippo.io/mldsa/x509"

	"tero.internal/attestation/bundle"
	"tero.internal/attestation/internal/disk"
	"tero.internal/common/atomicfile"
	"tero.internal/common/fault"
)

// The files of the node's keys.
const (
	ed25519File = "node-ed25519.pem"
	mldsaFile   = "node-mldsa44.pem"
)

// keys sign the heads of the log. Both must be broken to forge one.
type keys struct {
	ed ed25519.PrivateKey
	pq *mldsa.PrivateKey
}

// openKeys reads the node's keys; it makes them only for a log that is fresh,
// since a log whose keys are gone must not quietly get others.
func openKeys(dir string, fresh bool) (*keys, error) {
	ed, err := openKey(filepath.Join(dir, ed25519File), fresh, func() (any, error) {
		_, k, err := ed25519.GenerateKey(rand.Reader)
		return k, err
	})
	if err != nil {
		return nil, err
	}
	pq, err := openKey(filepath.Join(dir, mldsaFile), fresh, func() (any, error) { return mldsa.GenerateKey(mldsa.MLDSA44()) })
	if err != nil {
		return nil, err
	}
	edKey, ok1 := ed.(ed25519.PrivateKey)
	pqKey, ok2 := pq.(*mldsa.PrivateKey)
	if !ok1 || !ok2 || pqKey.PublicKey().Parameters() != mldsa.MLDSA44() {
		return nil, fault.New(fault.Corrupt, "the node keys in %s are of the wrong kinds", dir).
			WithHint("%s must hold an Ed25519 key and %s an ML-DSA-44 key: restore them from a backup", ed25519File, mldsaFile)
	}
	return &keys{ed: edKey, pq: pqKey}, nil
}

// openKey reads one PEM file with a PKCS #8 key, or makes it.
func openKey(path string, create bool, generate func() (any, error)) (any, error) {
	fi, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) && create {
		key, err := generate()
		if err != nil {
			return nil, fmt.Errorf("generate %s: %w", path, err)
		}
		der, err := x509.MarshalPKCS8PrivateKey(key)
		if err != nil {
			return nil, fmt.Errorf("encode %s: %w", path, err)
		}
		if err := atomicfile.Write(path, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), 0o600); err != nil {
			return nil, disk.Fault("write the node key "+path, err)
		}
		return key, nil
	}
	if err != nil {
		return nil, fault.New(fault.Corrupt, "the node key %s cannot be read: %w", path, err).
			WithHint("the launch log beside it was made with that key: restore it from a backup, or move the folder away and enrol the node anew")
	}
	if fi.Mode() != fi.Mode().Perm() || fi.Mode().Perm()&0o077 != 0 {
		return nil, fault.New(fault.Denied, "the node key %s is not a plain file for its owner alone (mode %s)", path, fi.Mode()).
			WithHint("others may have read the key: if so, move the folder away and enrol the node anew; if not, chmod 600 %s", path)
	}
	data, err := os.ReadFile(path) //nolint:gosec // the path is made of the state directory and a constant.
	if err != nil {
		return nil, fmt.Errorf("read the node key: %w", err)
	}
	block, rest := pem.Decode(data)
	if block == nil || block.Type != "PRIVATE KEY" || len(rest) > 0 {
		return nil, fault.New(fault.Corrupt, "the node key %s is not one PEM block PRIVATE KEY", path).WithHint("restore it from a backup")
	}
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, fault.New(fault.Corrupt, "the node key %s is damaged: %w", path, err).WithHint("restore it from a backup")
	}
	return key, nil
}

// enrol writes the public keys into e.
func (k *keys) enrol(e *bundle.Enrolment) error {
	var err error
	if e.Ed25519, err = x509.MarshalPKIXPublicKey(k.ed.Public()); err != nil {
		return fmt.Errorf("encode the node's public key: %w", err)
	}
	if e.MLDSA44, err = x509.MarshalPKIXPublicKey(k.pq.PublicKey()); err != nil {
		return fmt.Errorf("encode the node's public key: %w", err)
	}
	return nil
}

// sign signs a head with both keys.
func (k *keys) sign(b *bundle.Bundle) error {
	b.Ed25519 = ed25519.Sign(k.ed, []byte(b.Head))
	var err error
	b.MLDSA44, err = k.pq.Sign(nil, []byte(b.Head), &mldsa.Options{Context: bundle.SignatureContext})
	if err != nil {
		return fmt.Errorf("sign the head: %w", err)
	}
	return nil
}
