package rpc

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"

	"tero.internal/common/fault"
	"tero.internal/common/frame"
)

// framedStream is the node's end of a call: a grpc.ServerStream, so that
// handlers need not know how they were called.
type framedStream struct {
	ctx    context.Context //nolint:containedctx // grpc.ServerStream gives it out
	conn   net.Conn
	in     *bufio.Reader // used by read alone
	out    []byte        // room for the next message
	opened bool          // the node's opening is on its way

	messages chan []byte // closed when no more can come; the first is there from the beginning
	over     error       // why it is closed: io.EOF when the caller said so
}

// begin gives room for a frame, after the opening when that is still to be sent.
func (s *framedStream) begin() []byte {
	if s.opened {
		return s.out[:0]
	}
	s.opened = true
	return append(s.out[:0], frame.Opening...)
}

// lookEvery is how often a call whose handler does not take the caller's input
// looks whether the caller is still there.
const lookEvery = time.Second

// read hands messages over until the caller has no more, or has gone: only then
// does it return.
func (s *framedStream) read() {
	for {
		kind, payload, err := frame.Read(s.in, nil, frame.MaxRequest)
		switch {
		case err == nil && kind == frame.End:
			s.over = io.EOF
			close(s.messages)
			_, _ = s.in.Peek(1) // the caller listens on, until it goes
			return
		case err != nil || kind != frame.Message || !s.hand(payload):
			s.over = context.Canceled
			close(s.messages)
			return
		}
	}
}

// hand waits until the handler takes a message; false when that makes no sense any more.
func (s *framedStream) hand(payload []byte) bool {
	look := time.NewTicker(lookEvery)
	defer look.Stop()
	for {
		select {
		case s.messages <- payload:
			return true
		case <-s.ctx.Done():
			return false
		case <-look.C:
			if hungUp(s.conn) {
				return false
			}
		}
	}
}

// hungUp tells whether the other side has closed, whatever is still to be read.
func hungUp(c net.Conn) bool {
	raw, err := c.(*net.UnixConn).SyscallConn()
	if err != nil {
		return true
	}
	var gone bool
	err = raw.Control(func(fd uintptr) {
		fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLRDHUP}} //nolint:gosec // a file descriptor
		n, perr := unix.Poll(fds, 0)
		gone = perr == nil && n > 0
	})
	return gone || err != nil
}

// Context ends when the caller has gone.
func (s *framedStream) Context() context.Context { return s.ctx }

// SetHeader does nothing: frames have no metadata.
func (s *framedStream) SetHeader(metadata.MD) error { return nil }

// SendHeader does nothing.
func (s *framedStream) SendHeader(metadata.MD) error { return nil }

// SetTrailer does nothing.
func (s *framedStream) SetTrailer(metadata.MD) {}

// keepRoom is how much room for messages a stream keeps.
const keepRoom = 128 << 10

// SendMsg sends a message; it waits while the caller does not take it.
func (s *framedStream) SendMsg(m any) error {
	message, ok := m.(proto.Message)
	if !ok {
		return fmt.Errorf("%T is no message", m)
	}
	b := s.begin()
	begin := len(b)
	b = append(b, make([]byte, frame.HeaderBytes)...)
	b, err := proto.MarshalOptions{}.MarshalAppend(b, message)
	if err != nil {
		return fmt.Errorf("encode %T: %w", m, err)
	}
	if len(b)-begin-frame.HeaderBytes > frame.MaxResponse {
		return fault.New(fault.Exhausted, "an answer of %d bytes is too large", len(b))
	}
	frame.PutHeader(b[begin:], frame.Message)
	if cap(b) <= keepRoom {
		s.out = b
	}
	if _, err := s.conn.Write(b); err != nil {
		return s.gone(err)
	}
	return nil
}

// RecvMsg receives a message; io.EOF when the caller has no more.
func (s *framedStream) RecvMsg(m any) error {
	message, ok := m.(proto.Message)
	if !ok {
		return fmt.Errorf("%T is no message", m)
	}
	b, ok := <-s.messages
	if !ok {
		return s.over
	}
	if err := proto.Unmarshal(b, message); err != nil {
		return fault.New(fault.Invalid, "the request is malformed: %w", err)
	}
	return nil
}

// gone is a caller that closed the connection, or one that stop closed.
func (s *framedStream) gone(err error) error {
	if errors.Is(err, unix.EPIPE) || errors.Is(err, unix.ECONNRESET) || errors.Is(err, net.ErrClosed) {
		return context.Canceled
	}
	return fmt.Errorf("send: %w", err)
}
