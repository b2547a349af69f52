package main

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"io"
	"math/big"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	networkv1 "tero.internal/api/network/v1"
	"tero.internal/common/fault"
	"tero.internal/common/rpc"
)

// TestMain gives the whole process a network namespace of its own.
func TestMain(m *testing.M) {
	if os.Getenv("TERO_TEST_IN_NETNS") == "" {
		runtime.LockOSThread()
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			panic(err)
		}
		panic(unix.Exec("/proc/self/exe", os.Args, append(os.Environ(), "TERO_TEST_IN_NETNS=1")))
	}
	os.Exit(m.Run())
}

// authority makes certificates with SPIFFE IDs.
type authority struct {
	dir  string
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	a := &authority{dir: t.TempDir()}
	a.key, _ = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"}, NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, a.key.Public(), a.key)
	if err != nil {
		t.Fatal(err)
	}
	a.cert, _ = x509.ParseCertificate(der)
	a.write(t, "ca.pem", "CERTIFICATE", der)
	return a
}

func (a *authority) write(t *testing.T, name, kind string, der []byte) string {
	t.Helper()
	path := filepath.Join(a.dir, name)
	if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func (a *authority) issue(t *testing.T, name, id string) (cert, key string) {
	t.Helper()
	k, _ := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	u, _ := url.Parse(id)
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: big.NewInt(2), NotAfter: time.Now().Add(time.Hour), URIs: []*url.URL{u}, DNSNames: []string{"localhost"},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}, a.cert, k.Public(), a.key)
	if err != nil {
		t.Fatal(err)
	}
	b, _ := x509.MarshalPKCS8PrivateKey(k)
	return a.write(t, name+".pem", "CERTIFICATE", der), a.write(t, name+".key", "PRIVATE KEY", b)
}

func (a *authority) dial(t *testing.T, address, cert, key string) networkv1.NetworkServiceClient {
	t.Helper()
	roots := x509.NewCertPool()
	roots.AddCert(a.cert)
	c := &tls.Config{RootCAs: roots, ServerName: "localhost", MinVersion: tls.VersionTLS13}
	if cert != "" {
		pair, err := tls.LoadX509KeyPair(cert, key)
		if err != nil {
			t.Fatal(err)
		}
		c.Certificates = []tls.Certificate{pair}
	}
	conn, err := grpc.NewClient(address, grpc.WithTransportCredentials(credentials.NewTLS(c)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return networkv1.NewNetworkServiceClient(conn)
}

func TestServesRootAndTheCallersOfTheConfiguration(t *testing.T) {
	up(t)
	a := newAuthority(t)
	cert, key := a.issue(t, "server", "spiffe://test.tero/node/n1")
	dir := t.TempDir()
	file := filepath.Join(dir, "q.yaml")
	if err := os.WriteFile(file, []byte("pool: 10.95.0.0/24\ntable: qapi\ninterfacePrefix: qa\ntls:\n  callers: [\"spiffe://test.tero/user/alice\"]\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	var log bytes.Buffer
	go func() {
		done <- run(ctx, []string{
			"-config", file, "-state-dir", filepath.Join(dir, "state"), "-address", "127.0.0.1:19443",
			"-tls-certificate", cert, "-tls-key", key, "-tls-client-ca", filepath.Join(a.dir, "ca.pem"),
		}, []string{"QUANTUM_RUN_DIR=" + filepath.Join(dir, "run")}, io.Discard, &log)
	}()
	ended := false
	t.Cleanup(func() {
		if cancel(); !ended {
			if err := <-done; err != nil {
				t.Error(err)
			}
		}
	})
	socket := filepath.Join(dir, "run", "api.sock")
	conn, err := grpc.NewClient("unix:"+socket, grpc.WithTransportCredentials(rpc.PeerCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	local := networkv1.NewNetworkServiceClient(conn)
	list, err := local.ListNetworks(t.Context(), &networkv1.ListNetworksRequest{}, grpc.WaitForReady(true))
	if err != nil || list.GetNetworks()[0].GetPool() != "10.95.0.0/24" {
		t.Fatalf("by the unix socket: %v %v", list, err)
	}
	alice, aliceKey := a.issue(t, "alice", "spiffe://test.tero/user/alice")
	bob, bobKey := a.issue(t, "bob", "spiffe://test.tero/user/bob")
	if _, err := a.dial(t, "127.0.0.1:19443", alice, aliceKey).ListNetworks(t.Context(), &networkv1.ListNetworksRequest{}); err != nil {
		t.Errorf("alice: %v", err)
	}
	if _, err := a.dial(t, "127.0.0.1:19443", bob, bobKey).ListNetworks(t.Context(), &networkv1.ListNetworksRequest{}); fault.KindOf(rpc.FromStatus(err)) != fault.Denied {
		t.Errorf("bob: %v", err)
	}
	if _, err := a.dial(t, "127.0.0.1:19443", "", "").ListNetworks(t.Context(), &networkv1.ListNetworksRequest{}); err == nil {
		t.Error("nobody was let in")
	}
	if c, err := net.Dial("unix", filepath.Join(dir, "run", "cni.sock")); err != nil {
		t.Error(err)
	} else {
		c.Close()
	}
	cancel()
	ended = true
	if err := <-done; err != nil {
		t.Errorf("end: %v\n%s", err, log.String())
	}
}

// up brings lo up for the TLS socket.
func up(t *testing.T) {
	t.Helper()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	r, _ := unix.NewIfreq("lo")
	r.SetUint16(unix.IFF_UP)
	if err := unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, r); err != nil {
		t.Fatal(err)
	}
}

func TestWrongSettingsAreErrors(t *testing.T) {
	file := filepath.Join(t.TempDir(), "q.yaml")
	if err := os.WriteFile(file, []byte("tabel: x\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		args, env []string
		want      string
	}{
		"wrong key":      {[]string{"-config", file}, nil, "q.yaml:1"},
		"wrong variable": {nil, []string{"QUANTUM_POOOL=x"}, "QUANTUM_POOOL"},
		"wrong flag":     {[]string{"-pool", "x"}, nil, "--pool"},
		"argument":       {[]string{"x"}, nil, `"x" is not a flag`},
		"no TLS":         {[]string{"-address", "127.0.0.1:1"}, nil, "tls."},
		"wrong prefix":   {[]string{"-interface-prefix", "toolong", "-state-dir", t.TempDir(), "-run-dir", t.TempDir()}, nil, "interface prefix"},
	} {
		t.Run(name, func(t *testing.T) {
			err := run(t.Context(), c.args, c.env, io.Discard, io.Discard)
			if fault.KindOf(err) != fault.Invalid || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error: %v", err)
			}
		})
	}
	var out bytes.Buffer
	if err := run(t.Context(), []string{"-describe-config"}, nil, &out, io.Discard); err != nil || !strings.Contains(out.String(), "QUANTUM_CNI_SOCKET") {
		t.Errorf("%v\n%s", err, out.String())
	}
}
