// Package cni serves the Container Network Interface (CNI SPEC 1.1.0): the
// verbs that quantum-cni hands over on a socket. Containers that come by CNI
// meet the same default deny as all others.
package cni

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"tero.internal/common/fault"
	"tero.internal/common/rpc"
	"tero.internal/common/workload"
	"tero.internal/network-manager/cni/frame"
	"tero.internal/network-manager/network"
)

// Network is the part of the manager that CNI needs.
type Network interface {
	// AttachFile attaches a container whose namespace is an open file.
	AttachFile(ctx context.Context, a workload.Attachment, ns *os.File, cni string) (network.Endpoint, error)
	// DetachInterface removes one interface; nil for one that is not there.
	DetachInterface(ctx context.Context, container workload.ID, name string) error
	// Check tells what of an endpoint is not as it was made.
	Check(ctx context.Context, container workload.ID, name string, ns *os.File) error
	// CollectCNI removes what a configuration made and that is not valid.
	CollectCNI(ctx context.Context, cni string, valid func(container workload.ID, name string) bool) error
	// Status is nil when a container could be attached to the network.
	Status(network string) error
}

// Server answers on a socket.
type Server struct {
	listener net.Listener
	network  Network
	log      *slog.Logger
	running  sync.WaitGroup
	stop     context.CancelFunc
}

// patience bounds one verb.
const patience = 30 * time.Second

// acceptPause is how long a socket that does not accept is left alone.
const acceptPause = 100 * time.Millisecond

// Open listens on a unix socket and answers until Close.
func Open(ctx context.Context, socket string, n Network, log *slog.Logger) (*Server, error) {
	l, err := rpc.ListenUnix(ctx, socket, 0o600)
	if err != nil {
		return nil, err
	}
	return Serve(ctx, l, n, log), nil
}

// Serve answers on l, a unix socket, until Close. Only root may call: the
// socket's mode says so, and each caller's credentials are looked at.
func Serve(ctx context.Context, l net.Listener, n Network, log *slog.Logger) *Server {
	ctx, stop := context.WithCancel(context.WithoutCancel(ctx))
	s := &Server{listener: l, network: n, log: log, stop: stop}
	s.running.Go(func() { s.accept(ctx) })
	return s
}

// Close stops listening and waits for the verbs that are under way.
func (s *Server) Close() error {
	err := s.listener.Close()
	s.stop()
	s.running.Wait()
	if err != nil && !errors.Is(err, net.ErrClosed) {
		return fmt.Errorf("CNI socket: %w", err)
	}
	return nil
}

func (s *Server) accept(ctx context.Context) {
	for {
		c, err := s.listener.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil { // such as no descriptor left, which passes
			s.log.ErrorContext(ctx, "the CNI socket does not accept", slog.String("error", err.Error()))
			select {
			case <-ctx.Done():
				return
			case <-time.After(acceptPause):
			}
			continue
		}
		s.running.Go(func() {
			defer c.Close()
			if err := s.serve(ctx, c); err != nil {
				s.log.WarnContext(ctx, "CNI request dropped", slog.String("error", err.Error()))
			}
		})
	}
}

// serve answers one request.
func (s *Server) serve(ctx context.Context, c net.Conn) error {
	u, ok := c.(*net.UnixConn)
	if !ok {
		return errors.New("not a unix socket")
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	if err := u.SetDeadline(time.Now().Add(patience)); err != nil {
		return err
	}
	if err := onlyRoot(u); err != nil {
		return err
	}
	body, ns, err := receive(u)
	if ns != nil {
		defer ns.Close()
	}
	if err != nil {
		return err
	}
	answer := s.answer(ctx, body, ns)
	_, err = u.Write(answer)
	return err
}

// answer gives exit code and output.
func (s *Server) answer(ctx context.Context, body []byte, ns *os.File) []byte {
	r, err := frame.Parse(body)
	var result any
	version := "1.1.0"
	if err != nil {
		err = cniError{code: codeDecode, message: err.Error()}
	} else {
		result, version, err = s.verb(ctx, r, ns)
	}
	if err != nil {
		s.log.WarnContext(ctx, "CNI verb failed", slog.String("command", r.Command), slog.String("container", r.ContainerID), slog.String("error", err.Error()))
		return encode(1, errorResult(version, err))
	}
	if result == nil {
		return []byte{0}
	}
	return encode(0, result)
}

func encode(code byte, v any) []byte {
	b, err := json.Marshal(v)
	if err != nil { // our own types always encode
		return []byte{1}
	}
	return append(append([]byte{code}, b...), '\n')
}

func onlyRoot(c *net.UnixConn) error {
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	var cred *unix.Ucred
	var credErr error
	if err := raw.Control(func(fd uintptr) {
		cred, credErr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	}); err != nil {
		return err
	}
	if credErr != nil {
		return fmt.Errorf("peer credentials: %w", credErr)
	}
	if cred.Uid != 0 {
		return fault.New(fault.Denied, "user %d may not configure networks; only root may", cred.Uid)
	}
	return nil
}

// receive reads a request and the namespace that came with it.
func receive(c *net.UnixConn) (body []byte, ns *os.File, err error) {
	var head [frame.LengthBytes]byte
	oob := make([]byte, unix.CmsgSpace(4*8))
	n, oobn, _, _, err := c.ReadMsgUnix(head[:], oob)
	if ns, err = namespaceOf(oob[:max(oobn, 0)], err); err != nil {
		return nil, ns, err
	}
	if _, err := io.ReadFull(c, head[n:]); err != nil {
		return nil, ns, fmt.Errorf("read request: %w", err)
	}
	length, err := frame.Length(head)
	if err != nil {
		return nil, ns, err
	}
	// Not more memory than has come: a length is easily claimed.
	body, err = io.ReadAll(io.LimitReader(c, int64(length)))
	if err == nil && len(body) < length {
		err = io.ErrUnexpectedEOF
	}
	if err != nil {
		return nil, ns, fmt.Errorf("read request: %w", err)
	}
	return body, ns, nil
}

// namespaceOf takes the descriptor out of a control message; all but the first
// are closed.
func namespaceOf(oob []byte, readErr error) (*os.File, error) {
	messages, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return nil, fmt.Errorf("control message: %w", err)
	}
	var ns *os.File
	for i := range messages {
		fds, err := unix.ParseUnixRights(&messages[i])
		if err != nil {
			continue
		}
		for _, fd := range fds {
			unix.CloseOnExec(fd)
			if f := os.NewFile(uintptr(fd), "the namespace of CNI_NETNS"); ns == nil {
				ns = f
			} else {
				_ = f.Close()
			}
		}
	}
	if readErr != nil {
		return ns, fmt.Errorf("read request: %w", readErr)
	}
	return ns, nil
}
