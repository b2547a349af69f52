package daemon

import (
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"time"

	"google.golang.org/grpc"

	"tero.internal/common/fault"
	"tero.internal/common/rpc"
	"tero.internal/common/undo"
	"tero.internal/network-manager/cni"
)

// lastWords is how long calls may still run when the node ends.
const lastWords = 2 * time.Second

// serve opens the API's sockets and the CNI socket. The unix socket is for
// root: who else may do what is decided by policy, and its mode by the operator.
func (n *node) serve(ctx context.Context, open *undo.Stack) error {
	local, err := rpc.ListenUnix(ctx, n.config.Socket, 0o600)
	if err != nil {
		return err
	}
	plugin, err := cni.Open(ctx, n.cniSocket(), n.network, n.log)
	if err != nil {
		_ = local.Close()
		return err
	}
	open.Push("CNI socket", func(context.Context) error { return plugin.Close() })
	n.serveOn(local, grpcServer(rpc.NewServer(rpc.PeerCredentials(), n.mayEnter(), n.log), n), open)
	if n.config.Address == "" {
		return nil
	}
	var lc net.ListenConfig
	remote, err := lc.Listen(ctx, "tcp", n.config.Address)
	if err != nil {
		return fault.New(fault.Unavailable, "the API cannot listen on %s: %w", n.config.Address, err).
			WithHint("choose another --address, or none: the unix socket is enough on this machine")
	}
	host, _, _ := net.SplitHostPort(n.config.Address) // checked with the configuration
	own, err := n.issuer.ServerTLS(n.config.NodeName, hosts(host))
	if err != nil {
		return err
	}
	creds := rpc.ServerTLS(func() (*tls.Certificate, error) { return own.GetCertificate(nil) }, own.ClientCAs)
	n.serveOn(remote, grpcServer(rpc.NewServer(creds, n.mayEnter(), n.log), n), open)
	return nil
}

// hosts are the names in the node's certificate beside localhost's.
func hosts(listen string) []string {
	if ip, err := netip.ParseAddr(listen); listen == "" || err == nil && ip.IsUnspecified() {
		if name, err := os.Hostname(); err == nil {
			return []string{name}
		}
		return nil
	}
	return []string{listen}
}

func grpcServer(s *rpc.Server, n *node) *rpc.Server {
	n.register(s)
	return s
}

// serveOn serves l until open is run.
func (n *node) serveOn(l net.Listener, s *rpc.Server, open *undo.Stack) {
	done := make(chan error, 1)
	go func() { done <- s.Serve(l) }()
	open.Push("server on "+l.Addr().String(), func(ctx context.Context) error {
		force := time.AfterFunc(lastWords, s.Stop) // streams that follow something would never end
		defer force.Stop()
		s.GracefulStop()
		if err := <-done; err != nil && !errors.Is(err, grpc.ErrServerStopped) {
			n.log.ErrorContext(ctx, "server failed", slog.String("error", err.Error()))
			return err
		}
		return nil
	})
}
