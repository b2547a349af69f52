package rpc_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"

	runtimev1 "tero.internal/api/runtime/v1"
	"tero.internal/common/fault"
	"tero.internal/common/frame"
	"tero.internal/common/rpc"
	"tero.internal/common/workload"
)

const attach = runtimev1.RuntimeService_Attach_FullMethodName

// attacher gives back what it gets, or does what it is told to.
type attacher struct {
	runtimev1.UnimplementedRuntimeServiceServer
	entered chan struct{}
	ended   chan error
}

func (a *attacher) Attach(s runtimev1.RuntimeService_AttachServer) (err error) {
	defer func() { a.ended <- err }()
	a.entered <- struct{}{}
	for {
		m, err := s.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		switch m.GetSignal() {
		case "wait": // and take nothing any more
			<-s.Context().Done()
			return s.Context().Err()
		case "panic":
			panic("on purpose")
		}
		if err := s.Send(&runtimev1.AttachResponse{Response: &runtimev1.AttachResponse_Output{
			Output: &runtimev1.Output{Data: []byte(m.GetSignal())},
		}}); err != nil {
			return err
		}
	}
}

// framed is a server whose calls come as frames.
type framed struct {
	*attacher
	path   string
	server *rpc.Server
}

func serveFramed(t *testing.T, guard rpc.Guard) framed {
	t.Helper()
	path := filepath.Join(t.TempDir(), "s")
	l, err := rpc.ListenUnix(t.Context(), path, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	s := rpc.NewServer(rpc.PeerCredentials(), guard, slog.New(slog.DiscardHandler))
	a := &attacher{entered: make(chan struct{}, 1), ended: make(chan error, 1)}
	runtimev1.RegisterRuntimeServiceServer(s, a)
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = s.Serve(l) // ends by Stop
	}()
	t.Cleanup(func() { s.Stop(); <-done })
	return framed{attacher: a, path: path, server: s}
}

func allow(context.Context, workload.Principal, string, any) error { return nil }

// dial connects and sends what opens a call of Attach with a signal.
func (f framed) dial(t *testing.T, method, signal string) *net.UnixConn {
	t.Helper()
	c, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: f.path})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	b := frame.Append([]byte(frame.Opening), frame.Call, method)
	if _, err := c.Write(append(b, message(t, signal)...)); err != nil {
		t.Fatal(err)
	}
	return c
}

func message(t *testing.T, signal string) []byte {
	t.Helper()
	b, err := proto.Marshal(&runtimev1.AttachRequest{Request: &runtimev1.AttachRequest_Signal{Signal: signal}})
	if err != nil {
		t.Fatal(err)
	}
	return frame.Append(nil, frame.Message, string(b))
}

// answers reads all that the node says, as text.
func answers(t *testing.T, c io.Reader) string {
	t.Helper()
	if err := frame.ReadOpening(c); err != nil {
		return "closed"
	}
	var all []string
	for {
		k, payload, err := frame.Read(c, nil, frame.MaxResponse)
		if err != nil {
			return strings.Join(append(all, "closed"), ", ")
		}
		switch k {
		case frame.Message:
			var m runtimev1.AttachResponse
			if err := proto.Unmarshal(payload, &m); err != nil {
				t.Fatal(err)
			}
			all = append(all, string(m.GetOutput().GetData()))
		case frame.Fault:
			all = append(all, strings.ReplaceAll("fault "+string(payload), "\x00", "|"))
		default:
			all = append(all, "end")
		}
	}
}

func TestFramed(t *testing.T) {
	guard := func(_ context.Context, caller workload.Principal, method string, request any) error {
		r, ok := request.(*runtimev1.AttachRequest)
		if !ok || !caller.Local || caller.UID != 0 || caller.PID == 0 || method != attach {
			return fault.New(fault.Internal, "wrong question: %v %s %T", caller, method, request)
		}
		if r.GetSignal() == "refused" {
			return fault.New(fault.Denied, "not you").WithHint("ask")
		}
		return nil
	}
	for name, c := range map[string]struct{ method, first, want string }{
		"answered":       {attach, "one", "one, two, end, closed"},
		"empty message":  {attach, "", ", two, end, closed"},
		"refused":        {attach, "refused", "fault denied|not you|ask, closed"},
		"panic":          {attach, "panic", "fault internal|internal error; the node's log has the details|, closed"},
		"unknown method": {"/x/Y", "one", "fault unsupported|the node has no stream /x/Y|, closed"},
		"no stream":      {runtimev1.RuntimeService_Run_FullMethodName, "one", "fault unsupported|the node has no stream " + runtimev1.RuntimeService_Run_FullMethodName + "|, closed"},
		"long name":      {strings.Repeat("x", 2000), "one", "closed"},
	} {
		t.Run(name, func(t *testing.T) {
			f := serveFramed(t, guard)
			conn := f.dial(t, c.method, c.first)
			if _, err := conn.Write(frame.Append(message(t, "two"), frame.End, "")); err != nil && !errors.Is(err, unix.EPIPE) {
				t.Fatal(err) // a call that failed is over by now
			}
			if got := answers(t, conn); got != c.want {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}
}

// TestFramedJunk is refused, and holds nothing.
func TestFramedJunk(t *testing.T) {
	f := serveFramed(t, allow)
	call := string(frame.Append([]byte(frame.Opening), frame.Call, attach))
	for name, b := range map[string]string{
		"opening": "tero/2\n", "no call": frame.Opening + string(message(t, "x")), "no message": call + string(frame.Append(nil, frame.End, "")),
		"too large": call + "\xff\xff\xff\xff\x02", "no frame": call + "\x00\x00\x00\x00\x09", "nothing": "", "half": "te",
	} {
		t.Run(name, func(t *testing.T) {
			c, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: f.path})
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			if _, err := c.Write([]byte(b)); err != nil {
				t.Fatal(err)
			}
			if err := c.CloseWrite(); err != nil {
				t.Fatal(err)
			}
			if got, err := io.ReadAll(c); err != nil && !strings.Contains(err.Error(), "reset") || len(got) > 0 {
				t.Errorf("got %q, %v", got, err)
			}
		})
	}
	f.server.GracefulStop() // would wait for what is left
}

// TestFramedCallerGoes ends the call of a caller that has gone, whatever it sent
// before that nobody takes.
func TestFramedCallerGoes(t *testing.T) {
	for name, flood := range map[string]int{"silent": 0, "with input in the way": 100} {
		t.Run(name, func(t *testing.T) {
			f := serveFramed(t, allow)
			c := f.dial(t, attach, "wait")
			<-f.entered
			if _, err := c.Write(bytes.Repeat(message(t, "input"), flood)); err != nil {
				t.Fatal(err)
			}
			if err := c.Close(); err != nil {
				t.Fatal(err)
			}
			if err := <-f.ended; !errors.Is(err, context.Canceled) {
				t.Errorf("the handler ended with %v", err)
			}
		})
	}
}

// TestFramedMalformed ends a call in which something comes that is no message.
func TestFramedMalformed(t *testing.T) {
	f := serveFramed(t, allow)
	c := f.dial(t, attach, "one")
	if _, err := c.Write([]byte("junk and more junk")); err != nil {
		t.Fatal(err)
	}
	if err := <-f.ended; !errors.Is(err, context.Canceled) {
		t.Errorf("the handler ended with %v", err)
	}
}

// TestFramedStop waits for calls, and ends them when told to, as well as
// connections that say nothing.
func TestFramedStop(t *testing.T) {
	f := serveFramed(t, allow)
	c := f.dial(t, attach, "wait")
	<-f.entered
	silent, err := net.Dial("unix", f.path)
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		f.server.GracefulStop()
	}()
	for { // until it listens no more
		c, err := net.Dial("unix", f.path)
		if err != nil {
			break
		}
		_ = c.Close()
	}
	select {
	case <-stopped:
		t.Error("it did not wait for the call")
	case err := <-f.ended:
		t.Errorf("the call ended with %v", err)
	default:
	}
	f.server.Stop()
	<-stopped
	if err := <-f.ended; !errors.Is(err, context.Canceled) {
		t.Errorf("the handler ended with %v", err)
	}
	if got := answers(t, c); got != "closed" {
		t.Errorf("the caller was told %q", got)
	}
}
