package protocol_test

import (
	"errors"
	"os"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"tero.internal/runtime/internal/protocol"
)

func TestRoundTrip(t *testing.T) {
	request := &protocol.Request{
		Op: protocol.OpStart, Seq: 7, ID: "id", From: "prepared", Token: 9, Flags: 3, Number: -4, HostID: 1 << 31, Size: 65536, CloneFlags: 1 << 40,
		UID: 5, GID: 6, Rlimits: []protocol.Rlimit{{Resource: 7, Soft: 1, Hard: ^uint64(0)}}, Program: 0, Folder: 1, OOM: protocol.None, Cgroup: 2,
	}
	got, err := protocol.DecodeRequest(request.Encode(), 3)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(request, got); diff != "" {
		t.Error(diff)
	}
	if _, err := protocol.DecodeRequest(request.Encode(), 2); !errors.Is(err, protocol.ErrMalformed) {
		t.Errorf("a file that did not come: %v", err)
	}
	reply := &protocol.Reply{
		Seq: 8, Code: protocol.Step, Text: "why", At: 3, Errno: 2, PID: 77, Number: 5, Token: 1, More: true,
		Exit:     protocol.Exit{Code: 137, Signal: 9, OOM: true, At: -1},
		Statuses: []protocol.Status{{ID: "a", Phase: protocol.Running, PID: 4}, {ID: "b", Phase: protocol.Exited, Exit: protocol.Exit{Code: 1}}},
	}
	back, err := protocol.DecodeReply(reply.Encode())
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(reply, back); diff != "" {
		t.Error(diff)
	}
}

func FuzzDecode(f *testing.F) {
	f.Add((&protocol.Request{Op: protocol.OpList, ID: "x", Program: -1, Folder: -1, OOM: -1, Cgroup: -1}).Encode())
	f.Add((&protocol.Reply{Statuses: []protocol.Status{{ID: "a"}}}).Encode())
	f.Fuzz(func(t *testing.T, b []byte) {
		if r, err := protocol.DecodeRequest(b, 4); err == nil {
			again, err := protocol.DecodeRequest(r.Encode(), 4)
			if err != nil || !cmp.Equal(r, again) {
				t.Errorf("%+v, again %+v, %v", r, again, err)
			}
		}
		if r, err := protocol.DecodeReply(b); err == nil {
			if again, err := protocol.DecodeReply(r.Encode()); err == nil && !cmp.Equal(r, again) {
				t.Errorf("%+v, again %+v", r, again)
			}
		}
	})
}

// TestClosed sends and receives on a socket that this process has closed.
func TestClosed(t *testing.T) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer protocol.CloseAll(pair[1:])
	f := os.NewFile(uintptr(pair[0]), "socket")
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	if err := protocol.Send(f, []byte("x"), nil); !errors.Is(err, os.ErrClosed) {
		t.Errorf("send: %v", err)
	}
	if _, _, err := protocol.Receive(f, make([]byte, 8)); !errors.Is(err, os.ErrClosed) {
		t.Errorf("receive: %v", err)
	}
}
