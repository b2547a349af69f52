// Package client is the typed client of a node's API, over its unix socket or
// over mutual TLS. Every error it gives is a fault, with what to do next.
package client

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	attestationv1 "tero.internal/api/attestation/v1"
	networkv1 "tero.internal/api/network/v1"
	nodev1 "tero.internal/api/node/v1"
	pluginv1 "tero.internal/api/plugin/v1"
	policyv1 "tero.internal/api/policy/v1"
	runtimev1 "tero.internal/api/runtime/v1"
	"tero.internal/client/reach"
	"tero.internal/common/fault"
	"tero.internal/common/rpc"
)

// DefaultSocket is where a node's API socket is unless somebody said otherwise.
const DefaultSocket = reach.DefaultSocket

// maxMessage bounds a single answer; streams have no bound.
const maxMessage = 64 << 20

// dialTimeout bounds one attempt to connect.
const dialTimeout = 10 * time.Second

// Options say which node to talk to.
type Options struct {
	// Socket is the path of the node's unix socket; DefaultSocket when empty.
	Socket string
	// Address is "host:port" of a node's API over mutual TLS; it wins over Socket.
	Address string
	// CAFile, CertFile and KeyFile are PEM files: the trust domain's CA, and the
	// caller's certificate and key. Address needs all three.
	CAFile, CertFile, KeyFile string
}

// Client talks to one node. It is safe for concurrent use.
type Client struct {
	Node        nodev1.NodeServiceClient
	Runtime     runtimev1.RuntimeServiceClient
	Images      runtimev1.ImageServiceClient
	Volumes     runtimev1.VolumeServiceClient
	Network     networkv1.NetworkServiceClient
	Policy      policyv1.PolicyServiceClient
	Plugins     pluginv1.PluginServiceClient
	Attestation attestationv1.AttestationServiceClient

	conn *grpc.ClientConn
}

// Dialer connects to the node's API.
type Dialer func(ctx context.Context) (net.Conn, error)

// Dial prepares a client; it connects with the first call. The error is a
// fault about the options: that no node answers shows with the first call.
func Dial(o Options) (*Client, error) {
	if o.Address != "" {
		creds, err := mutualTLS(o)
		if err != nil {
			return nil, err
		}
		return New(o.Address, creds, func(ctx context.Context) (net.Conn, error) {
			return (&net.Dialer{Timeout: dialTimeout}).DialContext(ctx, "tcp", o.Address)
		})
	}
	if o.Socket == "" {
		o.Socket = DefaultSocket
	}
	return New(o.Socket, rpc.PeerCredentials(), func(ctx context.Context) (net.Conn, error) {
		return (&net.Dialer{Timeout: dialTimeout}).DialContext(ctx, "unix", o.Socket)
	})
}

// New makes a client of the node called name in messages, over connections
// that dial makes; tests use it with connections in memory.
func New(name string, creds credentials.TransportCredentials, dial Dialer) (*Client, error) {
	w := &where{name: name}
	conn, err := grpc.NewClient("passthrough:///"+name,
		grpc.WithTransportCredentials(creds),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
			c, err := dial(ctx)
			w.note(err)
			return c, err
		}),
		grpc.WithNoProxy(),
		grpc.WithDisableServiceConfig(),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxMessage)),
		grpc.WithUnaryInterceptor(w.unary),
		grpc.WithStreamInterceptor(w.stream),
	)
	if err != nil {
		return nil, fault.New(fault.Invalid, "the node's address %q is malformed", name).
			WithHint("give a socket path with --socket, or host:port with --address")
	}
	return &Client{
		Node:        nodev1.NewNodeServiceClient(conn),
		Runtime:     runtimev1.NewRuntimeServiceClient(conn),
		Images:      runtimev1.NewImageServiceClient(conn),
		Volumes:     runtimev1.NewVolumeServiceClient(conn),
		Network:     networkv1.NewNetworkServiceClient(conn),
		Policy:      policyv1.NewPolicyServiceClient(conn),
		Plugins:     pluginv1.NewPluginServiceClient(conn),
		Attestation: attestationv1.NewAttestationServiceClient(conn),
		conn:        conn,
	}, nil
}

// Close ends the connection and every stream on it.
func (c *Client) Close() error { return c.conn.Close() }

// mutualTLS gives credentials that show the caller's certificate and accept
// only a node of the same trust domain whose certificate names the address.
func mutualTLS(o Options) (credentials.TransportCredentials, error) {
	host, _, err := net.SplitHostPort(o.Address)
	if err != nil {
		return nil, fault.New(fault.Invalid, "the node's address %q is not host:port", o.Address)
	}
	if o.CAFile == "" || o.CertFile == "" || o.KeyFile == "" {
		return nil, fault.New(fault.Invalid, "talking to a node over TCP needs a CA, a certificate and a key").
			WithHint("give --tls-ca, --tls-cert and --tls-key; on the node, \"tero identity issue-user NAME\" makes them")
	}
	pem, err := os.ReadFile(o.CAFile)
	if err != nil {
		return nil, fileFault("CA", o.CAFile, err)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(pem) {
		return nil, fault.New(fault.Invalid, "CA file %s holds no PEM certificate", o.CAFile)
	}
	cert, err := tls.LoadX509KeyPair(o.CertFile, o.KeyFile)
	if err != nil {
		return nil, fileFault("certificate", o.CertFile+" with key "+o.KeyFile, err)
	}
	return credentials.NewTLS(&tls.Config{
		MinVersion:   tls.VersionTLS13,
		RootCAs:      roots,
		Certificates: []tls.Certificate{cert},
		ServerName:   host,
	}), nil
}

func fileFault(what, file string, err error) error {
	kind, reason := fault.Invalid, err.Error()
	var pe *fs.PathError
	switch {
	case errors.Is(err, fs.ErrNotExist):
		kind, reason = fault.NotFound, "it does not exist"
	case errors.As(err, &pe):
		reason = pe.Err.Error()
	}
	return fault.New(kind, "%s file %s cannot be used: %s", what, file, reason)
}

// where turns statuses into faults that name the node.
type where struct {
	name string
	last atomic.Pointer[error] // outcome of the newest attempt to connect
}

func (w *where) note(err error) { w.last.Store(&err) }

// fault gives err as a fault; io.EOF of a stream's end stays as it is.
func (w *where) fault(err error) error {
	err = rpc.FromStatus(err)
	var f *fault.Error
	if !errors.As(err, &f) || f.Kind != fault.Unavailable || f.Hint != "" {
		return err
	}
	var dialed error
	if p := w.last.Load(); p != nil {
		dialed = *p
	}
	switch {
	case dialed == nil:
		text, hint := reach.Closed(w.name)
		return &fault.Error{Kind: fault.Unavailable, Cause: err, Message: text, Hint: hint}
	case errors.Is(dialed, fs.ErrPermission):
		return &fault.Error{
			Kind: fault.Denied, Cause: dialed,
			Message: fmt.Sprintf("you may not open the node's socket %s", w.name),
			Hint:    "run the command with sudo, or reach the node over TCP with --address and a certificate",
		}
	}
	return &fault.Error{
		Kind: fault.Unavailable, Cause: dialed,
		Message: fmt.Sprintf("no TERO node answers at %s", w.name),
		Hint:    "start one with \"sudo tero up\", or name another with --socket or --address",
	}
}
