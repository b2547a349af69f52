package rpc

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"syscall"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/status"

	"tero.internal/common/fault"
	"tero.internal/common/workload"
)

// Guard decides whether caller may make the request: the full method name
// ("/tero.runtime.v1.RuntimeService/Run") and its first message. An error refuses.
type Guard func(ctx context.Context, caller workload.Principal, method string, request any) error

// NewServer gives a server that knows each caller by creds, asks guard before
// any handler sees a request, turns faults into statuses and logs internal
// errors. A handler's panic becomes an internal error. With PeerCredentials its
// streams can be called by frames, too (common/frame).
func NewServer(creds credentials.TransportCredentials, guard Guard, log *slog.Logger) *Server {
	s := &server{guard: guard, log: log}
	f := &framed{server: s, methods: map[string]method{}, conns: map[net.Conn]struct{}{}}
	if local, ok := creds.(peerCredentials); ok {
		creds = dispatcher{local, f}
	}
	return &Server{framed: f, Server: grpc.NewServer(
		grpc.Creds(creds),
		grpc.UnaryInterceptor(s.unary),
		grpc.StreamInterceptor(s.stream),
	)}
}

// Server serves the API on one or more listeners.
type Server struct {
	*grpc.Server
	framed *framed
}

// RegisterService adds a service; before the server serves.
func (s *Server) RegisterService(d *grpc.ServiceDesc, service any) {
	s.Server.RegisterService(d, service)
	s.framed.register(d, service)
}

// GracefulStop takes no more calls and waits for those that run, which Stop ends.
func (s *Server) GracefulStop() {
	s.Server.GracefulStop()
	s.framed.running.Wait()
}

// Stop ends all calls at once.
func (s *Server) Stop() {
	s.framed.stop()
	s.Server.Stop()
	s.framed.running.Wait()
}

type server struct {
	guard Guard
	log   *slog.Logger
}

func (s *server) unary(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (resp any, err error) {
	defer func() { err = s.finish(ctx, info.FullMethod, err, recover()) }()
	caller, err := Principal(ctx)
	if err != nil {
		return nil, err
	}
	if err := s.guard(ctx, caller, info.FullMethod, req); err != nil {
		return nil, err
	}
	return handler(ctx, req)
}

func (s *server) stream(srv any, ss grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) (err error) {
	ctx := ss.Context()
	defer func() { err = s.finish(ctx, info.FullMethod, err, recover()) }()
	caller, err := Principal(ctx)
	if err != nil {
		return err
	}
	return handler(srv, &guardedStream{ServerStream: ss, check: func(req any) error {
		return s.guard(ctx, caller, info.FullMethod, req)
	}})
}

// finish logs what only the operator can act on and makes the status.
func (s *server) finish(ctx context.Context, method string, err error, panicked any) error {
	if panicked != nil {
		s.log.ErrorContext(ctx, "handler panicked", slog.String("method", method),
			slog.Any("panic", panicked), slog.String("stack", string(debug.Stack())))
		return status.Error(codes.Internal, "internal error; the node's log has the details")
	}
	if err == nil {
		return nil
	}
	st := ToStatus(err)
	if status.Code(st) == codes.Internal {
		s.log.ErrorContext(ctx, "request failed", slog.String("method", method), slog.String("error", err.Error()))
	}
	return st
}

// guardedStream asks the guard with the first message, before the handler has
// it, and lets nothing out before the guard has agreed.
type guardedStream struct {
	grpc.ServerStream
	once    sync.Once
	check   func(req any) error
	allowed atomic.Bool
}

// RecvMsg receives the next message.
func (g *guardedStream) RecvMsg(m any) error {
	if err := g.ServerStream.RecvMsg(m); err != nil {
		return err
	}
	var err error
	g.once.Do(func() {
		err = g.check(m)
		g.allowed.Store(err == nil)
	})
	return err
}

// SendMsg sends a message to an authorised caller.
func (g *guardedStream) SendMsg(m any) error {
	if !g.allowed.Load() {
		return fault.New(fault.Denied, "the request was not authorised")
	}
	return g.ServerStream.SendMsg(m)
}

// ListenUnix listens on a unix socket that only mode's users may open. A
// socket file that nobody serves any more is replaced; one that is served is a
// fault of kind Exists.
func ListenUnix(ctx context.Context, path string, mode fs.FileMode) (net.Listener, error) {
	if len(path) > 107 { // sun_path of unix(7) holds 108 bytes with its NUL
		return nil, fault.New(fault.Invalid, "socket path %s has %d bytes; the kernel takes 107", path, len(path)).
			WithHint("choose a shorter folder")
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil { //nolint:gosec // the socket's mode guards it; the folder must be passable
		return nil, fmt.Errorf("socket folder: %w", err)
	}
	var d net.Dialer
	if c, err := d.DialContext(ctx, "unix", path); err == nil {
		_ = c.Close()
		return nil, fault.New(fault.Exists, "something serves %s already", path).
			WithHint("end the other node first, or give this one a socket of its own")
	}
	st, err := os.Lstat(path)
	switch {
	case err == nil && st.Mode().Type() != fs.ModeSocket:
		return nil, fault.New(fault.Invalid, "%s is there and is no socket", path).
			WithHint("choose another path for the socket; TERO replaces nothing else")
	case err == nil:
		err = os.Remove(path)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("stale socket: %w", err)
	}
	// The mode that bind gives the name, so that there is no moment with another.
	lc := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		var failed error
		err := c.Control(func(fd uintptr) { failed = syscall.Fchmod(int(fd), uint32(mode.Perm())) })
		return errors.Join(err, failed)
	}}
	l, err := lc.Listen(ctx, "unix", path)
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", path, err)
	}
	if err := os.Chmod(path, mode); err != nil { // what the umask took
		_ = l.Close()
		return nil, fmt.Errorf("socket mode: %w", err)
	}
	return l, nil
}
