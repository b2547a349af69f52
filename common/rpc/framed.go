package rpc

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"

	"tero.internal/common/fault"
	"tero.internal/common/frame"
)

// framed serves calls that come as frames (common/frame), on connections that
// gRPC has accepted and given away: same socket, same callers, same guard.
type framed struct {
	server  *server
	methods map[string]method // complete before the first connection

	running sync.WaitGroup // what waits for a call, and calls
	mu      sync.Mutex     // guards what follows
	conns   map[net.Conn]struct{}
	ended   bool
}

// method is a stream of a service.
type method struct {
	service any
	desc    grpc.StreamDesc
}

// register makes the streams of a service callable.
func (f *framed) register(d *grpc.ServiceDesc, service any) {
	for _, s := range d.Streams {
		f.methods["/"+d.ServiceName+"/"+s.StreamName] = method{service: service, desc: s}
	}
}

// stop ends all calls; their callers see the connection close.
func (f *framed) stop() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.ended = true
	for c := range f.conns {
		_ = c.Close()
	}
}

// enter counts a connection in, unless the server has ended.
func (f *framed) enter(c net.Conn) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.ended {
		return false
	}
	f.conns[c] = struct{}{}
	f.running.Add(1)
	return true
}

func (f *framed) leave(c net.Conn) {
	f.mu.Lock()
	delete(f.conns, c)
	f.mu.Unlock()
	f.running.Done()
}

// dispatcher keeps connections from gRPC that open with frames.
type dispatcher struct {
	credentials.TransportCredentials
	framed *framed
}

// Clone gives the same: there is no state of a connection.
func (d dispatcher) Clone() credentials.TransportCredentials {
	return dispatcher{d.TransportCredentials.Clone(), d.framed}
}

// firstCall is how long a connection may wait before it says what it wants.
const firstCall = 10 * time.Second

// ServerHandshake proves the caller and looks at how it opens.
func (d dispatcher) ServerHandshake(c net.Conn) (net.Conn, credentials.AuthInfo, error) {
	c, info, err := d.TransportCredentials.ServerHandshake(c)
	if err != nil {
		return nil, nil, err
	}
	if !d.framed.enter(c) { // so that stop ends it while it says nothing
		return nil, nil, io.EOF
	}
	first, err := peek(c)
	if err != nil || first != frame.Opening[0] {
		d.framed.leave(c)
		return c, info, err
	}
	_ = c.SetDeadline(time.Now().Add(firstCall)) // gRPC takes it away when it has given the connection up
	r := bufio.NewReader(c)
	name, message, err := readCall(r)
	if err != nil {
		d.framed.leave(c)
		return nil, nil, io.EOF // nobody to tell, as of HTTP/2 that opens wrongly
	}
	go func() {
		defer d.framed.leave(c)
		defer func() { _ = c.Close() }()
		s := &framedStream{conn: c, in: r, messages: make(chan []byte, 1)}
		s.messages <- message
		d.framed.call(s, name, info)
	}()
	return nil, nil, credentials.ErrConnDispatched
}

// peek waits for the first byte and leaves it there.
func peek(c net.Conn) (byte, error) {
	raw, err := c.(*net.UnixConn).SyscallConn() // of peerCredentials
	if err != nil {
		return 0, err
	}
	var b [1]byte
	var n int
	var failed error
	if err := raw.Read(func(fd uintptr) bool {
		n, _, failed = unix.Recvfrom(int(fd), b[:], unix.MSG_PEEK|unix.MSG_DONTWAIT)
		return !errors.Is(failed, unix.EAGAIN) && !errors.Is(failed, unix.EINTR)
	}); err != nil {
		return 0, err
	}
	if failed == nil && n == 0 {
		failed = io.EOF
	}
	return b[0], failed
}

// readCall reads up to the first message, without which a handler has nothing to do.
func readCall(r io.Reader) (name string, message []byte, err error) {
	if err := frame.ReadOpening(r); err != nil {
		return "", nil, err
	}
	const longest = 1 << 10 // of the API's names
	kind, call, err := frame.Read(r, nil, longest)
	if err != nil || kind != frame.Call {
		return "", nil, errors.Join(err, frame.ErrMalformed)
	}
	kind, message, err = frame.Read(r, nil, frame.MaxRequest)
	if err != nil || kind != frame.Message {
		return "", nil, errors.Join(err, frame.ErrMalformed)
	}
	return string(call), message, nil
}

// call serves one call and says how it ended.
func (f *framed) call(s *framedStream, name string, info credentials.AuthInfo) {
	ctx, cancel := context.WithCancel(peer.NewContext(context.Background(), &peer.Peer{
		Addr: s.conn.RemoteAddr(), LocalAddr: s.conn.LocalAddr(), AuthInfo: info,
	}))
	s.ctx = ctx
	var reader sync.WaitGroup
	reader.Go(func() {
		s.read()
		cancel() // the caller has gone
	})
	var err error
	if m, ok := f.methods[name]; ok {
		err = f.server.stream(m.service, s, &grpc.StreamServerInfo{
			FullMethod: name, IsClientStream: m.desc.ClientStreams, IsServerStream: m.desc.ServerStreams,
		}, m.desc.Handler)
	} else {
		err = fault.New(fault.Unsupported, "the node has no stream %s", name)
	}
	cancel()
	last := s.begin()
	if err == nil {
		last = frame.Append(last, frame.End, "")
	} else {
		err = FromStatus(ToStatus(err)) // in the same words as over gRPC
		last = frame.AppendFault(last, fault.KindOf(err).String(), err.Error(), fault.HintOf(err))
	}
	_, _ = s.conn.Write(last) // who has gone does not hear it
	_ = s.conn.Close()        // ends the reader
	reader.Wait()
}
