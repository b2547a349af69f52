package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc"

	"tero.internal/common/fault"
	"tero.internal/common/rpc"
	"tero.internal/common/workload"
	"tero.internal/network-manager/cni"
	"tero.internal/network-manager/network"
	"tero.internal/network-manager/server"
)

// lastWords is how long calls may still run at the end.
const lastWords = 2 * time.Second

// run serves until ctx ends. Containers stay connected then.
func run(ctx context.Context, args, environ []string, stdout, stderr io.Writer) (err error) {
	s, done, err := configure(args, environ, stdout, stderr)
	if err != nil || done {
		return err
	}
	var level slog.Level
	if err := level.UnmarshalText([]byte(s.LogLevel)); err != nil {
		return err
	}
	log := slog.New(slog.NewTextHandler(stderr, &slog.HandlerOptions{Level: level}))
	m, err := network.Open(ctx, network.Config{
		StateDir: s.StateDir, RunDir: s.RunDir, Pool: s.Pool, Table: s.Table, InterfacePrefix: s.InterfacePrefix,
		MTU: s.MTU, Grace: s.Grace, Log: log,
	})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, m.Close()) }()
	plugin, err := cni.Open(ctx, s.CNISocket, m, log)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, plugin.Close()) }()
	local, err := rpc.ListenUnix(ctx, s.Socket, 0o600)
	if err != nil {
		return err
	}
	servers := map[net.Listener]*rpc.Server{local: newServer(m, rpc.NewServer(rpc.PeerCredentials(), onlyRoot, log))}
	if s.Address != "" {
		l, remote, err := listenTLS(ctx, s, m, log)
		if err != nil {
			return errors.Join(err, local.Close())
		}
		servers[l] = remote
	}
	log.InfoContext(ctx, "quantum-api serves", slog.String("socket", s.Socket), slog.String("cni_socket", s.CNISocket), slog.String("address", s.Address))
	return serve(ctx, servers)
}

func newServer(m *network.Manager, g *rpc.Server) *rpc.Server {
	server.New(m).Register(g)
	return g
}

// onlyRoot lets root of this machine do everything and nobody else anything.
func onlyRoot(_ context.Context, caller workload.Principal, _ string, _ any) error {
	if caller.Local && caller.UID == 0 {
		return nil
	}
	return fault.New(fault.Denied, "user %d may not manage networks; only root may", caller.UID)
}

// listenTLS serves callers whose certificates hold one of the IDs in the configuration.
func listenTLS(ctx context.Context, s settings, m *network.Manager, log *slog.Logger) (net.Listener, *rpc.Server, error) {
	pem, err := os.ReadFile(s.TLS.ClientCA)
	if err != nil {
		return nil, nil, fault.New(fault.Invalid, "tls.clientCA: %w", err)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(pem) {
		return nil, nil, fault.New(fault.Invalid, "tls.clientCA: %s holds no certificate in PEM form", s.TLS.ClientCA)
	}
	load := func() (*tls.Certificate, error) { // read anew each time, so that it can be renewed
		c, err := tls.LoadX509KeyPair(s.TLS.Certificate, s.TLS.Key)
		return &c, err
	}
	if _, err := load(); err != nil {
		return nil, nil, fault.New(fault.Invalid, "tls.certificate and tls.key: %w", err)
	}
	guard := func(_ context.Context, caller workload.Principal, _ string, _ any) error {
		if !caller.Local && slices.Contains(s.TLS.Callers, caller.SPIFFEID) {
			return nil
		}
		return fault.New(fault.Denied, "%s is not one of the callers in the configuration", caller.SPIFFEID)
	}
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp", s.Address)
	if err != nil {
		return nil, nil, fault.New(fault.Unavailable, "the API cannot listen on %s: %w", s.Address, err).WithHint("choose another --address")
	}
	return l, newServer(m, rpc.NewServer(rpc.ServerTLS(load, roots), guard, log)), nil
}

// serve runs the servers until ctx ends or one of them fails.
func serve(ctx context.Context, servers map[net.Listener]*rpc.Server) error {
	failed := make(chan error, len(servers))
	var running sync.WaitGroup
	for l, g := range servers {
		running.Go(func() {
			if err := g.Serve(l); err != nil && !errors.Is(err, grpc.ErrServerStopped) {
				failed <- err
			}
		})
	}
	var err error
	select {
	case <-ctx.Done():
	case err = <-failed:
	}
	for _, g := range servers {
		force := time.AfterFunc(lastWords, g.Stop) // streams that follow flows would never end
		g.GracefulStop()
		force.Stop()
	}
	running.Wait()
	return err
}
