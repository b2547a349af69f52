package rpc_test

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"

	"tero.internal/common/fault"
	"tero.internal/common/rpc"
	"tero.internal/common/workload"
)

func TestFaultsSurviveTheWire(t *testing.T) {
	for kind := fault.Internal; kind <= fault.Corrupt; kind++ {
		t.Run(kind.String(), func(t *testing.T) {
			in := fault.New(kind, "web is no good").WithHint("try another")
			out := rpc.FromStatus(rpc.ToStatus(in))
			if got := fault.KindOf(out); got != kind {
				t.Errorf("kind = %v, want %v", got, kind)
			}
			if out.Error() != "web is no good" || fault.HintOf(out) != "try another" {
				t.Errorf("got %q, hint %q", out.Error(), fault.HintOf(out))
			}
		})
	}
	if rpc.ToStatus(nil) != nil || rpc.FromStatus(nil) != nil {
		t.Error("nil did not stay nil")
	}
}

// serve starts a health service behind guard and gives a client of it.
func serve(t *testing.T, guard rpc.Guard) healthpb.HealthClient {
	t.Helper()
	path := filepath.Join(t.TempDir(), "s.sock")
	l, err := rpc.ListenUnix(t.Context(), path, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	s := rpc.NewServer(rpc.PeerCredentials(), guard, slog.New(slog.DiscardHandler))
	healthpb.RegisterHealthServer(s, health.NewServer())
	done := make(chan error, 1)
	go func() { done <- s.Serve(l) }()
	c, err := grpc.NewClient("unix:"+path, grpc.WithTransportCredentials(rpc.PeerCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = c.Close()
		s.Stop()
		if err := <-done; err != nil && !errors.Is(err, grpc.ErrServerStopped) {
			t.Error(err)
		}
	})
	return healthpb.NewHealthClient(c)
}

func TestGuardSeesTheKernelsWordAndTheRequest(t *testing.T) {
	var seen workload.Principal
	var method string
	c := serve(t, func(_ context.Context, p workload.Principal, m string, req any) error {
		seen, method = p, m
		if req.(*healthpb.HealthCheckRequest).GetService() == "forbidden" {
			return fault.New(fault.Denied, "not you")
		}
		return nil
	})
	if _, err := c.Check(t.Context(), &healthpb.HealthCheckRequest{}); err != nil {
		t.Fatal(err)
	}
	want := workload.Principal{Local: true, UID: uint32(os.Getuid()), PID: int32(os.Getpid())}
	if seen != want || method != "/grpc.health.v1.Health/Check" {
		t.Errorf("guard saw %+v calling %s, want %+v", seen, method, want)
	}
	_, err := c.Check(t.Context(), &healthpb.HealthCheckRequest{Service: "forbidden"})
	if got := fault.KindOf(rpc.FromStatus(err)); got != fault.Denied {
		t.Errorf("unary: kind %v of %v, want denied", got, err)
	}
	w, err := c.Watch(t.Context(), &healthpb.HealthCheckRequest{Service: "forbidden"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err = w.Recv(); fault.KindOf(rpc.FromStatus(err)) != fault.Denied {
		t.Errorf("stream: got %v, want a denial", err)
	}
	if w, err = c.Watch(t.Context(), &healthpb.HealthCheckRequest{}); err != nil {
		t.Fatal(err)
	}
	if _, err = w.Recv(); err != nil {
		t.Errorf("permitted stream: %v", err)
	}
}

func TestPanicIsAnInternalError(t *testing.T) {
	c := serve(t, func(context.Context, workload.Principal, string, any) error { panic("guard bug") })
	_, err := c.Check(t.Context(), &healthpb.HealthCheckRequest{})
	if got := fault.KindOf(rpc.FromStatus(err)); got != fault.Internal {
		t.Errorf("kind %v of %v, want internal", got, err)
	}
}

func TestListenUnix(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s.sock")
	l, err := rpc.ListenUnix(t.Context(), path, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := rpc.ListenUnix(t.Context(), path, 0o600); fault.KindOf(err) != fault.Exists {
		t.Errorf("second listener: %v, want a fault of kind exists", err)
	}
	if fi, err := os.Stat(path); err != nil || fi.Mode().Perm() != 0o600 {
		t.Errorf("socket mode: %v %v", fi, err)
	}
	l.(*net.UnixListener).SetUnlinkOnClose(false) // what a crash leaves behind
	l.Close()
	l, err = rpc.ListenUnix(t.Context(), path, 0o600)
	if err != nil {
		t.Fatalf("stale socket: %v", err)
	}
	l.Close()
	file := filepath.Join(t.TempDir(), "precious")
	if err := os.WriteFile(file, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := rpc.ListenUnix(t.Context(), file, 0o600); fault.KindOf(err) != fault.Invalid || fault.HintOf(err) == "" {
		t.Errorf("in place of a file: %v, want invalid with a hint", err)
	}
	if b, err := os.ReadFile(file); err != nil || string(b) != "x" {
		t.Errorf("the file in the socket's place: %q, %v, want it untouched", b, err)
	}
	long := filepath.Join(t.TempDir(), string(make([]byte, 120)))
	if _, err := rpc.ListenUnix(t.Context(), long, 0o600); fault.KindOf(err) != fault.Invalid {
		t.Errorf("long path: %v, want invalid", err)
	}
}

func TestTooLargeIsExplained(t *testing.T) {
	err := rpc.FromStatus(status.Error(codes.ResourceExhausted, "grpc: received message larger than max (9300384 vs. 4194304)"))
	if fault.KindOf(err) != fault.Invalid || !strings.Contains(err.Error(), "9300384") || fault.HintOf(err) == "" {
		t.Errorf("%v (%v, hint %q)", err, fault.KindOf(err), fault.HintOf(err))
	}
}
