package keeper

import (
	"errors"
	"io"
	"log"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"tero.internal/runtime/internal/protocol"
)

// lines gives what is logged, one line a value.
type lines chan string

func (l lines) Write(b []byte) (int, error) {
	l <- string(b)
	return len(b), nil
}

func seqpacket(t *testing.T) int {
	t.Helper()
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	return fd
}

// ask sends a request and waits for its reply.
func ask(t *testing.T, conn *os.File, req *protocol.Request) *protocol.Reply {
	t.Helper()
	req.Program, req.Folder, req.OOM, req.Cgroup = protocol.None, protocol.None, protocol.None, protocol.None
	if err := protocol.Send(conn, req.Encode(), nil); err != nil {
		t.Fatal(err)
	}
	if err := conn.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, protocol.MaxMessage)
	n, _, err := protocol.Receive(conn, buf)
	if err != nil {
		t.Fatal(err)
	}
	reply, err := protocol.DecodeReply(buf[:n])
	if err != nil {
		t.Fatal(err)
	}
	return reply
}

// TestServeOutOfDescriptors connects while the process has no descriptor left:
// the connection must be served once there is one again.
func TestServeOutOfDescriptors(t *testing.T) {
	logged := make(lines, 16)
	k, err := New(log.New(logged, "", 0))
	if err != nil {
		t.Fatal(err)
	}
	address := &unix.SockaddrUnix{Name: filepath.Join(t.TempDir(), "keeper.sock")}
	fd := seqpacket(t)
	listener := os.NewFile(uintptr(fd), "listener")
	if err := errors.Join(unix.Bind(fd, address), unix.Listen(fd, 16)); err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- k.Serve(listener) }()
	client := seqpacket(t)
	conn := os.NewFile(uintptr(client), "client")
	defer func() { _ = conn.Close() }()

	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: 0, Max: limit.Max}); err != nil {
		t.Fatal(err)
	}
	restore := func() {
		if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
			t.Error(err)
		}
	}
	defer restore()
	if err := unix.Connect(client, address); err != nil {
		t.Fatal(err)
	}
	select {
	case line := <-logged:
		if !strings.Contains(line, "too many open files") {
			t.Errorf("logged %q", line)
		}
	case err := <-served:
		t.Fatalf("Serve ended: %v", err)
	}
	restore()
	if r := ask(t, conn, &protocol.Request{Op: protocol.OpHello, Seq: 1}); r.Seq != 1 || int(r.PID) != os.Getpid() {
		t.Errorf("%+v", r)
	}
	if r := ask(t, conn, &protocol.Request{Op: protocol.OpShutdown, Seq: 2}); r.Code != protocol.OK {
		t.Errorf("%+v", r)
	}
	if err := <-served; err != nil {
		t.Error(err)
	}
	if n := len(logged); n != 0 {
		t.Errorf("%d more lines are logged: %q", n, <-logged)
	}
}

// TestForgetPending forgets a container whose creation is under way: the keeper
// must not say that there is none.
func TestForgetPending(t *testing.T) {
	k, err := New(log.New(io.Discard, "", 0))
	if err != nil {
		t.Fatal(err)
	}
	k.pending["a"] = true
	for id, want := range map[string]protocol.ErrorCode{"a": protocol.WrongPhase, "b": protocol.Unknown} {
		var r protocol.Reply
		if describe(&r, k.forget(id, "")); r.Code != want {
			t.Errorf("forget %s: %+v", id, r)
		}
	}
}
