package procfs

import (
	"errors"
	"os"
	"os/exec"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestInfo(t *testing.T) {
	cmd := exec.CommandContext(t.Context(), "cat", "-", "a b", "")
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	pid := cmd.Process.Pid
	p, err := Open(pid)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	i, err := p.Info()
	if err != nil {
		t.Fatal(err)
	}
	if i.HostPID != pid || i.PID != pid || i.ParentPID != os.Getpid() || int(i.UID) != os.Geteuid() || i.Threads != 1 || i.Name != "cat" {
		t.Errorf("%+v", i)
	}
	if diff := cmp.Diff([]string{"cat", "-", "a b"}, i.Args); diff != "" { // the last, empty one is not seen
		t.Error(diff)
	}
	if _, err := p.Traffic(); err != nil {
		t.Error(err)
	}
	both := []int{os.Getpid(), pid}
	list, err := List(func() ([]int, error) { return both, nil })
	if err != nil || len(list) != 2 {
		t.Errorf("%+v, %v", list, err)
	}
	asked := 0
	list, err = List(func() ([]int, error) {
		if asked++; asked == 2 {
			return both[:1], nil // the other pid is somebody else's by now
		}
		return both, nil
	})
	if err != nil || len(list) != 1 || list[0].HostPID != os.Getpid() {
		t.Errorf("%+v, %v", list, err)
	}
	if err := in.Close(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait() // "a b" does not exist
	if _, err := p.Info(); !errors.Is(err, ErrGone) {
		t.Errorf("after the end: %v", err)
	}
	if _, err := Open(pid); !errors.Is(err, ErrGone) {
		t.Errorf("open after the end: %v", err)
	}
}

func TestParse(t *testing.T) {
	i := Info{HostPID: 7}
	if err := i.stat([]byte("7 (a) b) (c) S 3 7 7 0 -1 0 0 0 0 0 250 50 0 0 20 0 1 0 4200 0")); err != nil {
		t.Fatal(err)
	}
	if i.ParentPID != 3 || i.CPU != 3*time.Second || i.Started != 42*time.Second {
		t.Errorf("%+v", i)
	}
	if err := i.stat([]byte("7 (x) S 1")); err == nil {
		t.Error("too few fields are read")
	}
	if err := i.status([]byte("Name:\tx\n")); err == nil {
		t.Error("a status without a pid is read")
	}
	got := parseTraffic([]byte("Inter-|   Receive\n face |bytes\n    lo: 9 9 0 0 0 0 0 0 9 9 0 0 0 0 0 0\n  eth0: 100 2 0 0 0 0 0 0 50 1 0 0 0 0 0 0\n  eth1: 1 1 0 0 0 0 0 0 2 2 0 0 0 0 0 0\n"))
	if diff := cmp.Diff(Traffic{Received: 101, Sent: 52, ReceivedPackets: 3, SentPackets: 3}, got); diff != "" {
		t.Error(diff)
	}
}
