package keeperclient

import (
	"context"
	"errors"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"tero.internal/common/fault"
)

// TestDialSilent dials a socket that nobody accepts connections of.
func TestDialSilent(t *testing.T) {
	for name, queue := range map[string]int{"no answer": 0, "full queue": 32} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			listener, err := listen(dir)
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = listener.Close() }()
			for range queue {
				fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
				if err != nil {
					t.Fatal(err)
				}
				defer func() { _ = unix.Close(fd) }()
				if err := unix.Connect(fd, &unix.SockaddrUnix{Name: filepath.Join(dir, SocketFile)}); err != nil {
					if !errors.Is(err, unix.EAGAIN) {
						t.Fatal(err)
					}
					break
				}
			}
			c, err := dialWithin(t.Context(), dir, 50*time.Millisecond)
			if c != nil || !errors.Is(err, ErrSilent) || fault.KindOf(err) != fault.Unavailable || fault.HintOf(err) == "" {
				t.Errorf("%v (%v, hint %q)", err, fault.KindOf(err), fault.HintOf(err))
			}
			ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
			defer cancel()
			if _, err := Dial(ctx, dir); !errors.Is(err, context.DeadlineExceeded) || errors.Is(err, ErrSilent) {
				t.Errorf("the caller's own time is over: %v", err)
			}
		})
	}
}

func TestDialNobody(t *testing.T) {
	dir := t.TempDir()
	if _, err := Dial(t.Context(), dir); !errors.Is(err, unix.ENOENT) {
		t.Errorf("no socket: %v", err)
	}
	listener, err := listen(dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := listener.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := Dial(t.Context(), dir); !errors.Is(err, unix.ECONNREFUSED) {
		t.Errorf("a socket that nobody serves: %v", err)
	}
}
