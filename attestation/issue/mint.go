package issue

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"net/url"
	"sync"
	"time"

	"tero.internal/common/fault"
	"tero.internal/common/workload"
)

// leaf is what a certificate says.
type leaf struct {
	spiffeID string
	ttl      time.Duration
	dns      []string
	ips      []net.IP
	usage    []x509.ExtKeyUsage
}

// sign mints a certificate (X509-SVID, sections 2 to 4).
func (i *Issuer) sign(l leaf, public crypto.PublicKey) ([]byte, time.Time, error) {
	id, err := url.Parse(l.spiffeID)
	if err != nil {
		return nil, time.Time{}, fmt.Errorf("SPIFFE ID %q: %w", l.spiffeID, err)
	}
	now := i.cfg.Now()
	expires := now.Add(l.ttl)
	if expires.After(i.cert.NotAfter) {
		expires = i.cert.NotAfter
	}
	template := &x509.Certificate{
		SerialNumber: serial(), NotBefore: now.Add(-backdate), NotAfter: expires,
		URIs: []*url.URL{id}, DNSNames: l.dns, IPAddresses: l.ips,
		BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: l.usage,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, i.cert, public, i.key)
	if err != nil {
		return nil, time.Time{}, fmt.Errorf("sign a certificate for %s: %w", l.spiffeID, err)
	}
	return der, expires, nil
}

// UserCertificate is what a client needs for mutual TLS.
type UserCertificate struct {
	SPIFFEID string
	// Certificate and CA are PEM; Key is PEM, and empty for a CSR.
	Certificate, Key, CA []byte
	Expires              time.Time
}

// IssueUser mints a client certificate for the user called name. csr is a
// PKCS #10 request in DER, or empty to have a key made. A ttl of 0 is UserTTL.
func (i *Issuer) IssueUser(_ context.Context, name string, csr []byte, ttl time.Duration) (*UserCertificate, error) {
	if err := workload.ValidateName(name); err != nil {
		return nil, fault.New(fault.Invalid, "user: %w", err)
	}
	id, err := i.cfg.TrustDomain.User(name)
	if err != nil {
		return nil, fault.New(fault.Invalid, "user: %w", err)
	}
	if ttl == 0 {
		ttl = UserTTL
	}
	if ttl < time.Minute || ttl > MaxUserTTL {
		return nil, fault.New(fault.Invalid, "a life of %s is not between %s and %s", ttl, time.Minute, MaxUserTTL)
	}
	u := &UserCertificate{SPIFFEID: id, CA: i.CA()}
	var public crypto.PublicKey
	if len(csr) > 0 {
		if public, err = requestedKey(csr); err != nil {
			return nil, err
		}
	} else {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			return nil, fmt.Errorf("generate a key: %w", err)
		}
		if u.Key, err = encodeKey(key); err != nil {
			return nil, err
		}
		public = key.Public()
	}
	der, expires, err := i.sign(leaf{spiffeID: id, ttl: ttl, usage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}, public)
	if err != nil {
		return nil, err
	}
	u.Certificate, u.Expires = encodeCertificate(der), expires
	return u, nil
}

// requestedKey reads a certificate request. Only its key counts: what it asks
// to be called is not for the asker to say.
func requestedKey(csr []byte) (crypto.PublicKey, error) {
	r, err := x509.ParseCertificateRequest(csr)
	if err != nil {
		return nil, fault.New(fault.Invalid, "the certificate request is malformed: %w", err).
			WithHint("send a PKCS #10 request in DER")
	}
	if err := r.CheckSignature(); err != nil {
		return nil, fault.New(fault.Invalid, "the certificate request is not signed with its own key: %w", err)
	}
	switch k := r.PublicKey.(type) {
	case *ecdsa.PublicKey:
		if k.Curve != elliptic.P224() {
			return k, nil
		}
	case ed25519.PublicKey:
		return k, nil
	case *rsa.PublicKey:
		if k.N.BitLen() >= 2048 {
			return k, nil
		}
	}
	return nil, fault.New(fault.Invalid, "the certificate request's key is too weak or of an unknown kind").
		WithHint("use ECDSA P-256, Ed25519 or RSA of 2048 bits and more")
}

// ServerTLS gives the TLS configuration of the node's API: its certificate
// names the node, localhost and hosts (DNS names and IP addresses), is renewed
// at half its life, and callers must show a certificate of the trust domain.
func (i *Issuer) ServerTLS(node string, hosts []string) (*tls.Config, error) {
	id, err := i.cfg.TrustDomain.Node(node)
	if err != nil {
		return nil, fault.New(fault.Invalid, "node: %w", err)
	}
	l := leaf{
		spiffeID: id, ttl: NodeTTL, dns: []string{"localhost"}, ips: []net.IP{net.IPv4(127, 0, 0, 1), net.IPv6loopback},
		usage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	for _, h := range hosts {
		if ip := net.ParseIP(h); ip != nil {
			l.ips = append(l.ips, ip)
		} else {
			l.dns = append(l.dns, h)
		}
	}
	s := &serving{issuer: i, leaf: l}
	if _, err := s.certificate(nil); err != nil {
		return nil, err
	}
	return &tls.Config{
		MinVersion: tls.VersionTLS13, GetCertificate: s.certificate,
		ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: i.Roots(),
	}, nil
}

// serving is a certificate that renews itself when it is used.
type serving struct {
	issuer *Issuer
	leaf   leaf

	// mu guards current and renew.
	mu      sync.Mutex
	current *tls.Certificate
	renew   time.Time
}

func (s *serving) certificate(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.issuer.cfg.Now()
	if s.current != nil && now.Before(s.renew) {
		return s.current, nil
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("generate a key: %w", err)
	}
	der, _, err := s.issuer.sign(s.leaf, key.Public())
	if err != nil {
		return nil, err
	}
	s.current = &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
	s.renew = now.Add(s.leaf.ttl / 2)
	return s.current, nil
}
