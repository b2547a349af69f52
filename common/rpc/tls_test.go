package rpc_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"log/slog"
	"math/big"
	"net"
	"net/url"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"

	"tero.internal/common/fault"
	"tero.internal/common/rpc"
	"tero.internal/common/workload"
)

// authority is a throw-away CA.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pool *x509.CertPool
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	a := &authority{key: key, pool: x509.NewCertPool()}
	a.cert = a.sign(t, &x509.Certificate{IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}, key).Leaf
	a.pool.AddCert(a.cert)
	return a
}

func (a *authority) sign(t *testing.T, c *x509.Certificate, key *ecdsa.PrivateKey) tls.Certificate {
	t.Helper()
	c.SerialNumber, c.NotBefore, c.NotAfter = big.NewInt(1), time.Now().Add(-time.Minute), time.Now().Add(time.Hour)
	parent := a.cert
	if parent == nil {
		parent = c
	}
	der, err := x509.CreateCertificate(rand.Reader, c, parent, key.Public(), a.key)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}
}

func (a *authority) leaf(t *testing.T, uris ...string) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}}
	for _, s := range uris {
		u, err := url.Parse(s)
		if err != nil {
			t.Fatal(err)
		}
		c.URIs = append(c.URIs, u)
	}
	return a.sign(t, c, key)
}

func TestMutualTLS(t *testing.T) {
	ours, theirs := newAuthority(t), newAuthority(t)
	serving := ours.leaf(t, "spiffe://n1.tero/node/n1")
	var seen workload.Principal
	s := rpc.NewServer(rpc.ServerTLS(func() (*tls.Certificate, error) { return &serving, nil }, ours.pool),
		func(_ context.Context, p workload.Principal, _ string, _ any) error { seen = p; return nil },
		slog.New(slog.DiscardHandler))
	healthpb.RegisterHealthServer(s, health.NewServer())
	var lc net.ListenConfig
	l, err := lc.Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- s.Serve(l) }()
	t.Cleanup(func() {
		s.Stop()
		if err := <-done; err != nil && !errors.Is(err, grpc.ErrServerStopped) {
			t.Error(err)
		}
	})

	tests := map[string]struct {
		client *tls.Config
		ok     bool
		kind   fault.Kind
	}{
		"a user of ours":      {client: &tls.Config{Certificates: []tls.Certificate{ours.leaf(t, "spiffe://n1.tero/user/ann")}}, ok: true},
		"no certificate":      {client: &tls.Config{}, kind: fault.Unavailable},
		"somebody else's":     {client: &tls.Config{Certificates: []tls.Certificate{theirs.leaf(t, "spiffe://n1.tero/user/ann")}}, kind: fault.Unavailable},
		"no SPIFFE ID":        {client: &tls.Config{Certificates: []tls.Certificate{ours.leaf(t)}}, kind: fault.Unauthenticated},
		"two SPIFFE IDs":      {client: &tls.Config{Certificates: []tls.Certificate{ours.leaf(t, "spiffe://n1.tero/user/ann", "spiffe://n1.tero/user/root")}}, kind: fault.Unauthenticated},
		"classical key share": {client: &tls.Config{Certificates: []tls.Certificate{ours.leaf(t, "spiffe://n1.tero/user/ann")}, CurvePreferences: []tls.CurveID{tls.X25519}}, kind: fault.Unavailable},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			tt.client.RootCAs, tt.client.MinVersion = ours.pool, tls.VersionTLS13
			c, err := grpc.NewClient(l.Addr().String(), grpc.WithTransportCredentials(credentials.NewTLS(tt.client)))
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			_, err = healthpb.NewHealthClient(c).Check(t.Context(), &healthpb.HealthCheckRequest{})
			if tt.ok {
				if err != nil || seen != (workload.Principal{SPIFFEID: "spiffe://n1.tero/user/ann"}) {
					t.Errorf("got %v, caller %+v", err, seen)
				}
				return
			}
			if got := fault.KindOf(rpc.FromStatus(err)); err == nil || got != tt.kind {
				t.Errorf("got %v of kind %v, want %v", err, got, tt.kind)
			}
		})
	}
}
