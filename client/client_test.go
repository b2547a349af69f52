package client_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"log/slog"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	nodev1 "tero.internal/api/node/v1"
	runtimev1 "tero.internal/api/runtime/v1"
	"tero.internal/client"
	"tero.internal/common/fault"
	"tero.internal/common/rpc"
	"tero.internal/common/workload"
)

// node answers Status, sends one event, and refuses Down.
type node struct {
	nodev1.UnimplementedNodeServiceServer
}

func (n *node) Status(context.Context, *nodev1.StatusRequest) (*nodev1.StatusResponse, error) {
	return &nodev1.StatusResponse{Name: "n"}, nil
}

func (n *node) WatchEvents(_ *nodev1.WatchEventsRequest, s nodev1.NodeService_WatchEventsServer) error {
	if err := s.Send(&nodev1.WatchEventsResponse{Type: "a"}); err != nil {
		return err
	}
	<-s.Context().Done()
	return s.Context().Err()
}

func (n *node) Down(context.Context, *nodev1.DownRequest) (*nodev1.DownResponse, error) {
	return nil, fault.New(fault.Denied, "not you").WithHint("ask root")
}

// serve runs a node on a socket until the test ends, or until kill.
func serve(t *testing.T) (path string, kill func()) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "s")
	l, err := rpc.ListenUnix(t.Context(), path, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	s := rpc.NewServer(rpc.PeerCredentials(), func(context.Context, workload.Principal, string, any) error { return nil }, slog.New(slog.DiscardHandler))
	nodev1.RegisterNodeServiceServer(s, &node{})
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = s.Serve(l) // ends by Stop
	}()
	t.Cleanup(func() { s.Stop(); <-done })
	return path, s.Stop
}

func dial(t *testing.T, o client.Options) *client.Client {
	t.Helper()
	c, err := client.Dial(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	return c
}

// wantFault checks kind, a part of the message, and that there is a hint.
func wantFault(t *testing.T, err error, kind fault.Kind, part string) {
	t.Helper()
	if err == nil || fault.KindOf(err) != kind || !strings.Contains(err.Error(), part) || fault.HintOf(err) == "" {
		t.Errorf("got %v (%s, hint %q), want %s with %q", err, fault.KindOf(err), fault.HintOf(err), kind, part)
	}
}

func TestCallsAndFaults(t *testing.T) {
	path, _ := serve(t)
	c := dial(t, client.Options{Socket: path})
	if r, err := c.Node.Status(t.Context(), &nodev1.StatusRequest{}); err != nil || r.GetName() != "n" {
		t.Errorf("status: %v, %v", r, err)
	}
	_, err := c.Node.Down(t.Context(), &nodev1.DownRequest{})
	wantFault(t, err, fault.Denied, "not you")
	_, err = c.Runtime.Run(t.Context(), &runtimev1.RunRequest{})
	if fault.KindOf(err) != fault.Unsupported {
		t.Errorf("unknown service: %v", err)
	}
}

func TestNodeThatIsKilledInMidStream(t *testing.T) {
	path, kill := serve(t)
	c := dial(t, client.Options{Socket: path})
	s, err := c.Node.WatchEvents(t.Context(), &nodev1.WatchEventsRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Recv(); err != nil {
		t.Fatal(err)
	}
	kill()
	_, err = s.Recv()
	if fault.KindOf(err) != fault.Unavailable || !strings.Contains(err.Error(), path) || fault.HintOf(err) == "" {
		t.Errorf("got %v (%s, hint %q)", err, fault.KindOf(err), fault.HintOf(err))
	}
}

func TestNoNode(t *testing.T) {
	path := filepath.Join(t.TempDir(), "none")
	_, err := dial(t, client.Options{Socket: path}).Node.Status(t.Context(), &nodev1.StatusRequest{})
	wantFault(t, err, fault.Unavailable, "no TERO node answers at "+path)

	// What a node that was killed leaves behind.
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	_, err = dial(t, client.Options{Socket: path}).Node.Status(t.Context(), &nodev1.StatusRequest{})
	wantFault(t, err, fault.Unavailable, "no TERO node answers")
}

func TestSocketThatMayNotBeOpened(t *testing.T) {
	c, err := client.New("/run/x", rpc.PeerCredentials(), func(context.Context) (net.Conn, error) {
		return nil, &net.OpError{Op: "dial", Err: os.ErrPermission}
	})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_, err = c.Node.Status(t.Context(), &nodev1.StatusRequest{})
	wantFault(t, err, fault.Denied, "you may not open the node's socket /run/x")
}

func TestTLSOptions(t *testing.T) {
	dir := t.TempDir()
	cert, key := selfSigned(t, dir)
	junk := filepath.Join(dir, "junk")
	if err := os.WriteFile(junk, []byte("junk"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		o    client.Options
		kind fault.Kind
		want string
	}{
		"no port":     {client.Options{Address: "host"}, fault.Invalid, "not host:port"},
		"no files":    {client.Options{Address: "h:1"}, fault.Invalid, "needs a CA"},
		"no CA":       {client.Options{Address: "h:1", CAFile: dir + "/x", CertFile: cert, KeyFile: key}, fault.NotFound, "does not exist"},
		"junk CA":     {client.Options{Address: "h:1", CAFile: junk, CertFile: cert, KeyFile: key}, fault.Invalid, "no PEM certificate"},
		"folder":      {client.Options{Address: "h:1", CAFile: dir, CertFile: cert, KeyFile: key}, fault.Invalid, "is a directory"},
		"swapped":     {client.Options{Address: "h:1", CAFile: cert, CertFile: key, KeyFile: cert}, fault.Invalid, "cannot be used"},
		"nobody home": {client.Options{Address: "127.0.0.1:1", CAFile: cert, CertFile: cert, KeyFile: key}, fault.Unavailable, "no TERO node answers at 127.0.0.1:1"},
	} {
		t.Run(name, func(t *testing.T) {
			n, err := client.Dial(c.o)
			if err == nil {
				defer n.Close()
				_, err = n.Node.Status(t.Context(), &nodev1.StatusRequest{})
			}
			if fault.KindOf(err) != c.kind || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v (%s), want %s with %q", err, fault.KindOf(err), c.kind, c.want)
			}
		})
	}
}

// selfSigned writes a certificate and its key.
func selfSigned(t *testing.T, dir string) (certFile, keyFile string) {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, k.Public(), k)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		t.Fatal(err)
	}
	certFile, keyFile = filepath.Join(dir, "c.pem"), filepath.Join(dir, "k.pem")
	for file, b := range map[string]*pem.Block{certFile: {Type: "CERTIFICATE", Bytes: der}, keyFile: {Type: "PRIVATE KEY", Bytes: keyDER}} {
		if err := os.WriteFile(file, pem.EncodeToMemory(b), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return certFile, keyFile
}
