package issue_test

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
	"encoding/pem"
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"
	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	gospiffeid "github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"

	"tero.internal/attestation/issue"
	"tero.internal/common/fault"
	"tero.internal/common/spiffeid"
	"tero.internal/common/workload"
)

const web = "spiffe://node1.tero/workload/web"

func config(t testing.TB) issue.Config {
	t.Helper()
	td, err := spiffeid.ParseTrustDomain("node1.tero")
	if err != nil {
		t.Fatal(err)
	}
	return issue.Config{StateDir: filepath.Join(t.TempDir(), "issue"), TrustDomain: td, Log: slog.New(slog.DiscardHandler)}
}

func mustOpen(t testing.TB, cfg issue.Config) *issue.Issuer {
	t.Helper()
	i, err := issue.Open(context.Background(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	return i
}

func evidence(s string) workload.Evidence {
	return workload.Evidence{Sequence: 7, Record: digest.FromString(s)}
}

func request(t testing.TB, key crypto.Signer) []byte {
	t.Helper()
	csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{DNSNames: []string{"evil.example"}}, key)
	if err != nil {
		t.Fatal(err)
	}
	return csr
}

func newKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func TestEnrolRevokeAndRestore(t *testing.T) {
	cfg := config(t)
	i := mustOpen(t, cfg)
	a, b := workload.NewID(), workload.NewID()
	id, err := i.Enrol(t.Context(), a, web, evidence("a"))
	if err != nil || id.SPIFFEID != web || id.Record != digest.FromString("a") || id.Enrolled.IsZero() {
		t.Fatalf("Enrol = %+v, %v", id, err)
	}
	if _, err := i.Enrol(t.Context(), b, web, evidence("b")); fault.KindOf(err) != fault.Exists || fault.HintOf(err) == "" {
		t.Errorf("a name twice: %v", err)
	}
	if _, err := i.Enrol(t.Context(), a, "spiffe://node1.tero/workload/db", evidence("b")); fault.KindOf(err) != fault.Exists {
		t.Errorf("a container twice: %v", err)
	}
	again := mustOpen(t, cfg) // a restart: the container's record brings the identity back
	if err := again.Restore(t.Context(), a, id, evidence("a")); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(i.List(), again.List()); diff != "" || len(again.List()) != 1 {
		t.Errorf("after a restart (-before +after):\n%s", diff)
	}
	if string(i.CA()) != string(again.CA()) {
		t.Error("the authority changed with a restart")
	}
	for range 2 {
		if err := again.Revoke(t.Context(), a); err != nil {
			t.Error(err)
		}
	}
	if _, err := again.Enrol(t.Context(), b, web, evidence("b")); err != nil {
		t.Errorf("the name is not free after its revocation: %v", err)
	}
	if l := again.List(); len(l) != 1 || l[0].Container != b {
		t.Errorf("identities %+v", l)
	}
}

func TestEnrolRefuses(t *testing.T) {
	i := mustOpen(t, config(t))
	for name, tt := range map[string]struct {
		container workload.ID
		spiffeID  string
		evidence  workload.Evidence
	}{
		"container": {"../x", web, evidence("a")},
		"evidence":  {workload.NewID(), web, workload.Evidence{}},
		"domain":    {workload.NewID(), "spiffe://other/workload/web", evidence("a")},
		"node":      {workload.NewID(), "spiffe://node1.tero/node/node1", evidence("a")},
		"user":      {workload.NewID(), "spiffe://node1.tero/user/root", evidence("a")},
	} {
		if _, err := i.Enrol(t.Context(), tt.container, tt.spiffeID, tt.evidence); fault.KindOf(err) != fault.Invalid {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestOneOfManyGetsTheName(t *testing.T) {
	i := mustOpen(t, config(t))
	var got atomic.Int32
	var wg sync.WaitGroup
	for range 16 {
		wg.Go(func() {
			id := workload.NewID()
			if _, err := i.Enrol(context.Background(), id, web, evidence("a")); err == nil {
				got.Add(1)
			} else if fault.KindOf(err) != fault.Exists {
				t.Error(err)
			}
			_, _ = i.IssueSVID(context.Background(), id, nil)
			i.List()
		})
	}
	wg.Wait()
	if got.Load() != 1 {
		t.Errorf("%d containers hold the name", got.Load())
	}
}

// TestSVID has SPIFFE's own library judge what is minted.
func TestSVID(t *testing.T) {
	i := mustOpen(t, config(t))
	c, key := workload.NewID(), newKey(t)
	csr := request(t, key)
	if _, err := i.IssueSVID(t.Context(), c, csr); fault.KindOf(err) != fault.Denied {
		t.Errorf("before enrolment: %v", err)
	}
	if _, err := i.Enrol(t.Context(), c, web, evidence("a")); err != nil {
		t.Fatal(err)
	}
	s, err := i.IssueSVID(t.Context(), c, csr)
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(i.CA())
	b, err := x509bundle.ParseRaw(gospiffeid.RequireTrustDomainFromString("node1.tero"), block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	id, _, err := x509svid.ParseAndVerify([][]byte{s.Certificate}, b)
	if err != nil || id.String() != web {
		t.Errorf("%s, %v", id, err)
	}
	leaf, err := x509.ParseCertificate(s.Certificate)
	if err != nil {
		t.Fatal(err)
	}
	if life := time.Until(leaf.NotAfter); life > 15*time.Minute || len(leaf.DNSNames) > 0 || leaf.IsCA || !key.PublicKey.Equal(leaf.PublicKey) {
		t.Errorf("life %s, names %v", life, leaf.DNSNames)
	}
	if err := i.Revoke(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	if _, err := i.IssueSVID(t.Context(), c, csr); fault.KindOf(err) != fault.Denied || fault.HintOf(err) == "" {
		t.Errorf("after revocation: %v", err)
	}
}

func TestRequestsAreChecked(t *testing.T) {
	i := mustOpen(t, config(t))
	weak, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Fatal(err)
	}
	_, ed, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	forged := request(t, newKey(t))
	forged[len(forged)-1] ^= 1
	for name, tt := range map[string]struct {
		csr []byte
		ok  bool
	}{
		"RSA 1024":  {request(t, weak), false},
		"Ed25519":   {request(t, ed), true},
		"malformed": {[]byte("csr"), false},
		"forged":    {forged, false},
	} {
		if _, err := i.IssueUser(t.Context(), "alice", tt.csr, 0); (err == nil) != tt.ok || !tt.ok && fault.KindOf(err) != fault.Invalid {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, name := range []string{"", "Alice", "../root", "a/b"} {
		if _, err := i.IssueUser(t.Context(), name, nil, 0); fault.KindOf(err) != fault.Invalid {
			t.Errorf("user %q: %v", name, err)
		}
	}
	for _, ttl := range []time.Duration{-1, time.Second, 31 * 24 * time.Hour} {
		if _, err := i.IssueUser(t.Context(), "alice", nil, ttl); fault.KindOf(err) != fault.Invalid {
			t.Errorf("ttl %s: %v", ttl, err)
		}
	}
}

// TestMutualTLS connects users to a server, for as long as they may.
func TestMutualTLS(t *testing.T) {
	cfg := config(t)
	now := time.Now()
	var mu sync.Mutex
	cfg.Now = func() time.Time { mu.Lock(); defer mu.Unlock(); return now }
	i := mustOpen(t, cfg)
	server, err := i.ServerTLS("node1", []string{"node1.example", "192.0.2.1"})
	if err != nil {
		t.Fatal(err)
	}
	server.Time = cfg.Now
	user, err := i.IssueUser(t.Context(), "alice", nil, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	pair, err := tls.X509KeyPair(user.Certificate, user.Key)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(user.CA)
	shake := func(certs []tls.Certificate, name string) (tls.ConnectionState, error) {
		return handshake(server, &tls.Config{Certificates: certs, RootCAs: roots, ServerName: name, Time: cfg.Now})
	}
	var first tls.ConnectionState
	for _, name := range []string{"localhost", "127.0.0.1", "node1.example", "192.0.2.1"} {
		if first, err = shake([]tls.Certificate{pair}, name); err != nil {
			t.Errorf("as %s: %v", name, err)
		}
	}
	if id := first.PeerCertificates[0].URIs[0].String(); id != "spiffe://node1.tero/node/node1" {
		t.Errorf("server is %s", id)
	}
	if _, err := shake([]tls.Certificate{pair}, "other.example"); err == nil {
		t.Error("the server serves a name that it does not have")
	}
	if _, err := shake(nil, "localhost"); err == nil {
		t.Error("a caller without a certificate came in")
	}
	foreign, err := mustOpen(t, config(t)).IssueUser(t.Context(), "alice", nil, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	foreignPair, err := tls.X509KeyPair(foreign.Certificate, foreign.Key)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := shake([]tls.Certificate{foreignPair}, "localhost"); err == nil {
		t.Error("a caller of another authority came in")
	}
	mu.Lock()
	now = now.Add(13 * time.Hour) // the user's hour is over, the server's day half
	mu.Unlock()
	if _, err := shake([]tls.Certificate{pair}, "localhost"); err == nil {
		t.Error("an expired caller came in")
	}
	if user, err = i.IssueUser(t.Context(), "alice", nil, time.Hour); err != nil {
		t.Fatal(err)
	}
	if pair, err = tls.X509KeyPair(user.Certificate, user.Key); err != nil {
		t.Fatal(err)
	}
	later, err := shake([]tls.Certificate{pair}, "localhost")
	if err != nil {
		t.Fatal(err)
	}
	if later.PeerCertificates[0].SerialNumber.Cmp(first.PeerCertificates[0].SerialNumber) == 0 {
		t.Error("the server's certificate was not renewed at half its life")
	}
}

// handshake gives the client's view, or the first error of either side.
func handshake(server, client *tls.Config) (tls.ConnectionState, error) {
	a, b := net.Pipe()
	defer a.Close()
	defer b.Close()
	c := tls.Client(b, client)
	done := make(chan error, 1)
	go func() {
		s := tls.Server(a, server)
		err := s.Handshake()
		if err == nil {
			_, err = s.Write([]byte("x"))
		}
		a.Close()
		done <- err
	}()
	_, err := io.ReadFull(c, make([]byte, 1))
	b.Close()
	return c.ConnectionState(), errors.Join(err, <-done)
}

func TestDamagedState(t *testing.T) {
	tests := map[string]struct {
		damage func(t *testing.T, cfg *issue.Config)
		kind   fault.Kind
	}{
		"key gone":        {func(t *testing.T, c *issue.Config) { must(t, os.Remove(filepath.Join(c.StateDir, "ca-key.pem"))) }, fault.Corrupt},
		"key cut":         {func(t *testing.T, c *issue.Config) { must(t, os.Truncate(filepath.Join(c.StateDir, "ca-key.pem"), 50)) }, fault.Corrupt},
		"key readable":    {func(t *testing.T, c *issue.Config) { must(t, os.Chmod(filepath.Join(c.StateDir, "ca-key.pem"), 0o644)) }, fault.Denied},
		"certificate cut": {func(t *testing.T, c *issue.Config) { must(t, os.Truncate(filepath.Join(c.StateDir, "ca.pem"), 50)) }, fault.Corrupt},
		"another domain":  {func(t *testing.T, c *issue.Config) { c.TrustDomain, _ = spiffeid.ParseTrustDomain("other.tero") }, fault.Conflict},
		"another authority": {func(t *testing.T, c *issue.Config) {
			other := config(t)
			mustOpen(t, other)
			must(t, os.Rename(filepath.Join(other.StateDir, "ca.pem"), filepath.Join(c.StateDir, "ca.pem")))
		}, fault.Corrupt},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			cfg := config(t)
			i := mustOpen(t, cfg)
			if _, err := i.Enrol(t.Context(), workload.NewID(), web, evidence("a")); err != nil {
				t.Fatal(err)
			}
			tt.damage(t, &cfg)
			if _, err := issue.Open(t.Context(), cfg); fault.KindOf(err) != tt.kind || fault.HintOf(err) == "" {
				t.Errorf("Open = %v", err)
			}
		})
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func BenchmarkEnrol(b *testing.B) {
	i := mustOpen(b, config(b))
	for b.Loop() {
		id := workload.NewID()
		if _, err := i.Enrol(b.Context(), id, web, evidence("a")); err != nil {
			b.Fatal(err)
		}
		if err := i.Revoke(b.Context(), id); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkIssueSVID(b *testing.B) {
	i := mustOpen(b, config(b))
	c, csr := workload.NewID(), request(b, newKey(b))
	if _, err := i.Enrol(b.Context(), c, web, evidence("a")); err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if _, err := i.IssueSVID(b.Context(), c, csr); err != nil {
			b.Fatal(err)
		}
	}
}
