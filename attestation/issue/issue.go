// Package issue mints the identities of a trust domain: a small certificate
// authority, and the registry of who holds which name on which proof.
//
// Certificates follow the X.509-SVID specification: exactly one URI name, the
// SPIFFE ID, and short lives. The private key of the authority lies in a file
// for its owner alone (mode 0600).
package issue

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"math/big"
	"net/url"
	"os"
	"path/filepath"
	"sync"
	"time"

	"tero.internal/common/atomicfile"
	"tero.internal/common/fault"
	"tero.internal/common/spiffeid"
	"tero.internal/common/workload"
)

// How long certificates hold.
const (
	authorityTTL = 10 * 365 * 24 * time.Hour
	// NodeTTL is the life of a node's serving certificate; it is renewed at half.
	NodeTTL = 24 * time.Hour
	// WorkloadTTL is the life of a workload's SVID.
	WorkloadTTL = 15 * time.Minute
	// UserTTL and MaxUserTTL are the life of a user's certificate.
	UserTTL    = 24 * time.Hour
	MaxUserTTL = 30 * 24 * time.Hour
	// backdate allows for clocks that are a little behind.
	backdate = time.Minute
)

// The files in the state directory.
const (
	keyFile  = "ca-key.pem"
	certFile = "ca.pem"
)

// Config says whose authority this is.
type Config struct {
	// StateDir is this package's own folder; it is made when missing.
	StateDir    string
	TrustDomain spiffeid.TrustDomain
	Log         *slog.Logger
	// Now is the clock; time.Now when nil.
	Now func() time.Time
}

// Issuer is the authority of a trust domain with its registry. It is safe for
// concurrent use.
type Issuer struct {
	cfg  Config
	key  *ecdsa.PrivateKey
	cert *x509.Certificate
	pool *x509.CertPool

	// mu guards byContainer and bySPIFFEID.
	mu          sync.Mutex
	byContainer map[workload.ID]Enrolled
	bySPIFFEID  map[string]workload.ID
}

// Open opens the authority; on the first start it makes its key.
func Open(_ context.Context, cfg Config) (*Issuer, error) {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if err := os.MkdirAll(cfg.StateDir, 0o700); err != nil {
		return nil, fmt.Errorf("make the folder of the certificate authority: %w", err)
	}
	if err := atomicfile.Sweep(cfg.StateDir); err != nil {
		return nil, fmt.Errorf("open the certificate authority: %w", err)
	}
	i := &Issuer{cfg: cfg, byContainer: map[workload.ID]Enrolled{}, bySPIFFEID: map[string]workload.ID{}}
	_, keyErr := os.Lstat(i.path(keyFile))
	_, certErr := os.Lstat(i.path(certFile))
	if errors.Is(keyErr, fs.ErrNotExist) && errors.Is(certErr, fs.ErrNotExist) {
		if err := i.create(); err != nil {
			return nil, err
		}
	}
	if err := i.load(); err != nil {
		return nil, err
	}
	return i, nil
}

func (i *Issuer) path(name string) string { return filepath.Join(i.cfg.StateDir, name) }

// create makes the authority. The certificate is written last: a key without
// one was never used, so that an interrupted start can begin again.
func (i *Issuer) create() error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return fmt.Errorf("generate the authority's key: %w", err)
	}
	id := &url.URL{Scheme: "spiffe", Host: i.cfg.TrustDomain.String()}
	now := i.cfg.Now()
	template := &x509.Certificate{
		SerialNumber: serial(), Subject: pkix.Name{Organization: []string{"TERO"}, CommonName: i.cfg.TrustDomain.String()},
		NotBefore: now.Add(-backdate), NotAfter: now.Add(authorityTTL), URIs: []*url.URL{id},
		IsCA: true, BasicConstraintsValid: true, MaxPathLenZero: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return fmt.Errorf("sign the authority's certificate: %w", err)
	}
	keyPEM, err := encodeKey(key)
	if err != nil {
		return err
	}
	if err := atomicfile.Write(i.path(keyFile), keyPEM, 0o600); err != nil {
		return fmt.Errorf("store the authority's key: %w", err)
	}
	if err := atomicfile.Write(i.path(certFile), encodeCertificate(der), 0o644); err != nil {
		return fmt.Errorf("store the authority's certificate: %w", err)
	}
	return nil
}

// load reads the authority and checks that it is whole and ours.
func (i *Issuer) load() error {
	damaged := func(name string, err error) error {
		return fault.New(fault.Corrupt, "the certificate authority's file %s cannot be used: %w", i.path(name), err).
			WithHint("restore %s and %s from a backup; a new authority would end every identity of the trust domain", keyFile, certFile)
	}
	fi, err := os.Lstat(i.path(keyFile))
	if err != nil {
		return damaged(keyFile, err)
	}
	if fi.Mode() != fi.Mode().Perm() || fi.Mode().Perm()&0o077 != 0 {
		return fault.New(fault.Denied, "the authority's key %s is not a plain file for its owner alone (mode %s)", i.path(keyFile), fi.Mode()).
			WithHint("others may have read it: if so, begin a new trust domain; if not, chmod 600 %s", i.path(keyFile))
	}
	keyDER, err := readPEM(i.path(keyFile), "PRIVATE KEY")
	if err != nil {
		return damaged(keyFile, err)
	}
	key, err := x509.ParsePKCS8PrivateKey(keyDER)
	if err != nil {
		return damaged(keyFile, err)
	}
	certDER, err := readPEM(i.path(certFile), "CERTIFICATE")
	if err != nil {
		return damaged(certFile, err)
	}
	cert, err := x509.ParseCertificate(certDER)
	if err != nil {
		return damaged(certFile, err)
	}
	ec, ok := key.(*ecdsa.PrivateKey)
	if !ok || !ec.PublicKey.Equal(cert.PublicKey) {
		return damaged(certFile, errors.New("key and certificate do not belong together"))
	}
	if len(cert.URIs) != 1 || cert.URIs[0].String() != "spiffe://"+i.cfg.TrustDomain.String() {
		return fault.New(fault.Conflict, "the authority in %s is that of another trust domain than %q", i.cfg.StateDir, i.cfg.TrustDomain).
			WithHint("the trust domain of a node cannot change: set it back, or begin with another state directory")
	}
	i.key, i.cert, i.pool = ec, cert, x509.NewCertPool()
	i.pool.AddCert(cert)
	return nil
}

// CA gives the authority's certificate in PEM: what others trust it by.
func (i *Issuer) CA() []byte { return encodeCertificate(i.cert.Raw) }

// Roots gives the pool that verifies certificates of this trust domain.
func (i *Issuer) Roots() *x509.CertPool { return i.pool.Clone() }

// TrustDomain gives the trust domain's name.
func (i *Issuer) TrustDomain() string { return i.cfg.TrustDomain.String() }

// serial draws a serial number (RFC 5280, section 4.1.2.2: at most 20 bytes, positive).
func serial() *big.Int {
	var b [16]byte
	_, _ = rand.Read(b[:]) // crypto/rand.Read never fails (Go 1.24)
	b[0] = b[0]&0x7f | 0x40
	return new(big.Int).SetBytes(b[:])
}

func encodeCertificate(der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

func encodeKey(key *ecdsa.PrivateKey) ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("encode a key: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), nil
}

func readPEM(path, kind string) ([]byte, error) {
	data, err := os.ReadFile(path) //nolint:gosec // the path is made of the state directory and a constant.
	if err != nil {
		return nil, err
	}
	block, rest := pem.Decode(data)
	if block == nil || block.Type != kind || len(rest) > 0 {
		return nil, fmt.Errorf("it is not one PEM block %s", kind)
	}
	return block.Bytes, nil
}
