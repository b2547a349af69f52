package front

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"

	runtimev1 "tero.internal/api/runtime/v1"
	"tero.internal/cmd/tero/internal/cli"
	"tero.internal/cmd/tero/internal/session"
	"tero.internal/common/fault"
	"tero.internal/common/rpc"
	"tero.internal/common/workload"
)

// asFront makes the test's own binary the front.
const asFront = "TERO_TEST_AS_FRONT"

func TestMain(m *testing.M) {
	if os.Getenv(asFront) != "" {
		os.Exit(Main(os.Args[1:]))
	}
	os.Exit(m.Run())
}

type stream = grpc.BidiStreamingServer[runtimev1.AttachRequest, runtimev1.AttachResponse]

// node answers launches: each image stands for a way to go on.
type node struct {
	runtimev1.UnimplementedRuntimeServiceServer
	launches chan *runtimev1.AttachRequest
	kill     func()
}

func (n *node) Attach(s stream) error {
	first, err := s.Recv()
	if err != nil {
		return err
	}
	n.launches <- first
	if act := ways[first.GetRun().GetSpec().GetImage()]; act != nil {
		return act(n, s)
	}
	return exits(s, &runtimev1.Exit{})
}

func exits(s stream, e *runtimev1.Exit) error {
	return s.Send(&runtimev1.AttachResponse{Response: &runtimev1.AttachResponse_Exit{Exit: e}})
}

func launched(s stream) error {
	return s.Send(&runtimev1.AttachResponse{Response: &runtimev1.AttachResponse_Launched{Launched: &runtimev1.RunResponse{
		Container: &runtimev1.Container{Id: "1", Name: "web"}, DurationUs: 3,
	}}})
}

func output(s stream, to runtimev1.Output_Stream, data string) error {
	return s.Send(&runtimev1.AttachResponse{Response: &runtimev1.AttachResponse_Output{Output: &runtimev1.Output{Stream: to, Data: []byte(data)}}})
}

func refuses(f *fault.Error) func(*node, stream) error {
	return func(*node, stream) error { return f }
}

var large = strings.Repeat("0123456789abcde\n", 20_000)

var ways = map[string]func(*node, stream) error{
	"code":     func(_ *node, s stream) error { return errors.Join(launched(s), exits(s, &runtimev1.Exit{Code: 3})) },
	"negative": func(_ *node, s stream) error { return exits(s, &runtimev1.Exit{Code: -1}) },
	"lost": func(_ *node, s stream) error {
		return errors.Join(launched(s), exits(s, &runtimev1.Exit{Code: 255, Message: "its exit code\x1b[2J is lost"}))
	},
	"outputs": func(_ *node, s stream) error {
		return errors.Join(launched(s), output(s, runtimev1.Output_STREAM_STDOUT, "one\n"), output(s, runtimev1.Output_STREAM_STDERR, "two\n"),
			output(s, runtimev1.Output_STREAM_STDOUT, large), output(s, runtimev1.Output_STREAM_STDERR, "three"), exits(s, &runtimev1.Exit{Code: 1}))
	},
	"dropped": func(_ *node, s stream) error {
		dropped := s.Send(&runtimev1.AttachResponse{Response: &runtimev1.AttachResponse_Dropped{Dropped: true}})
		return errors.Join(launched(s), dropped, output(s, runtimev1.Output_STREAM_STDOUT, "rest\n"), exits(s, &runtimev1.Exit{}))
	},
	"echo": func(_ *node, s stream) error {
		if err := launched(s); err != nil {
			return err
		}
		for {
			m, err := s.Recv()
			if err != nil {
				return err
			}
			if m.GetCloseStdin() {
				return errors.Join(output(s, runtimev1.Output_STREAM_STDERR, "end of input\n"), exits(s, &runtimev1.Exit{}))
			}
			if err := output(s, runtimev1.Output_STREAM_STDOUT, string(m.GetStdin())); err != nil {
				return err
			}
		}
	},
	"killed": func(n *node, s stream) error {
		go n.kill()
		<-s.Context().Done()
		return s.Context().Err()
	},
	"nothing":         func(_ *node, s stream) error { return launched(s) },
	"panic":           func(*node, stream) error { panic("on purpose") },
	"denied":          refuses(fault.New(fault.Denied, "refused by policy\n\tline").WithHint("see \"tero policy why\"")),
	"unauthenticated": refuses(fault.New(fault.Unauthenticated, "who is that?")),
	"missing":         refuses(fault.New(fault.NotFound, "no image \x1b[31m").WithHint("tero image ls")),
	"invalid":         refuses(fault.New(fault.Invalid, "no")),
	"busy":            refuses(fault.New(fault.Unavailable, "busy").WithHint("later")),
	"down":            refuses(fault.New(fault.Unavailable, "the node is going down")),
}

// serve runs a node until the test ends.
func serve(t testing.TB) (n *node, socket string) {
	t.Helper()
	socket = filepath.Join(t.TempDir(), "s")
	l, err := rpc.ListenUnix(t.Context(), socket, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	s := rpc.NewServer(rpc.PeerCredentials(), func(context.Context, workload.Principal, string, any) error { return nil }, slog.New(slog.DiscardHandler))
	n = &node{launches: make(chan *runtimev1.AttachRequest, 1), kill: s.Stop}
	runtimev1.RegisterRuntimeServiceServer(s, n)
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = s.Serve(l) // ends by Stop
	}()
	t.Cleanup(func() {
		s.Stop()
		<-done
	})
	return n, socket
}

// result is how a command ended.
type result struct {
	Stdout, Stderr string
	Code           int
}

// byFront runs the front as a process.
func byFront(t *testing.T, socket, stdin string, args ...string) result {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	var out, errs bytes.Buffer
	cmd := exec.CommandContext(t.Context(), exe, args...)
	cmd.Env = append(os.Environ(), asFront+"=1", "TERO_SOCKET="+socket, "TERO_NODE=", "TERO_OUTPUT=")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(stdin), &out, &errs
	if err := cmd.Run(); cmd.ProcessState == nil {
		t.Fatal(err)
	}
	return result{out.String(), errs.String(), cmd.ProcessState.ExitCode() & 0xff}
}

// byCLI runs the CLI in this process.
func byCLI(ctx context.Context, stdin string, getenv func(string) string, args ...string) result {
	var out, errs bytes.Buffer
	s := session.New()
	s.Stdin, s.Stdout, s.Stderr, s.Getenv = strings.NewReader(stdin), &out, &errs, getenv
	code := cli.Main(ctx, s, args)
	return result{out.String(), errs.String(), code & 0xff}
}

// TestSameAsCLI compares what people see of both ways.
func TestSameAsCLI(t *testing.T) {
	for way := range ways {
		t.Run(way, func(t *testing.T) {
			args := []string{"run", "--rm", way}
			if way == "echo" {
				args = []string{"run", "-i", way}
			}
			n, socket := serve(t)
			front := byFront(t, socket, large, args...)
			if len(n.launches) != 1 {
				t.Fatalf("the front did not launch: %+v", front)
			}
			<-n.launches
			if way == "killed" {
				if front.Code != fault.ExitFailure || !strings.Contains(front.Stderr, "the node at "+socket+" closed the connection\ntero: hint: ") {
					t.Errorf("%+v", front)
				}
				return
			}
			want := byCLI(t.Context(), large, func(name string) string { return map[string]string{"TERO_SOCKET": socket}[name] }, args...)
			if diff := cmp.Diff(want, front); diff != "" {
				t.Errorf("CLI (-), front (+): %s", diff)
			}
		})
	}
}

// TestNodeWithoutFrames hands over to the CLI when a node knows gRPC alone, or
// none is there.
func TestNodeWithoutFrames(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "s")
	wants := "cannot execute " // there is no CLI beside the test
	if r := byFront(t, socket, "", "run", "web"); r.Code != fault.ExitFailure || !strings.Contains(r.Stderr, wants) {
		t.Errorf("no node: %+v", r)
	}
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	s := grpc.NewServer()
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = s.Serve(l) // ends by Stop
	}()
	defer func() { s.Stop(); <-done }()
	if r := byFront(t, socket, "", "run", "web"); r.Code != fault.ExitFailure || !strings.Contains(r.Stderr, wants) {
		t.Errorf("old node: %+v", r)
	}
}

// sample is a value for each kind of flag.
var sample = map[kind]string{
	text: "some text", number: "0x10", entrypoint: "/bin/sh", variable: "A=b=c", pair: "app=web", size: "64MiB", cores: "0.25",
	capability: "net_raw", signalName: "term",
}

// lines are command lines after "run"; true for those that the front takes.
var lines = map[bool][][]string{
	true: {
		{"web"},
		{"web", "-x", "--rm", "arg", ""},
		{"--rm", "--", "web", "--"},
		{"--", "web"},
		{"-", "x"},
		{""},
		{"--rm=false", "--rm=T", "-i", "web"},
		{"-i", "--interactive=false", "web"},
		{"-ie", "KEY", "web"},
		{"-eKEY", "-e", "GIVEN", "--env=EMPTY=", "--env", "-x", "web"},
		{"--name", "a", "--name", "b", "web"},
		{"--name", "a", "--name=", "web"},
		{"--entrypoint", "a", "--entrypoint", "", "web"},
		{"--entrypoint=a", "--entrypoint=/b", "web", "c"},
		{"-l", "a=1", "--label=a=2", "-lb=", "web"},
		{"-m", "1g", "-m64k", "web"},
		{"--memory=", "--cpus=", "--stop-signal=", "web"},
		{"--cpus", "2", "--memory", "512", "web"},
		{"--cpus", "1.5", "--cpus=.125", "web"},
		{"--cpus", "999999", "--pids-limit", "-1", "web"},
		{"--stop-signal", "SIGHUP", "web"},
		{"--stop-signal", "9", "web"},
		{"--stop-signal", "ü", "web"},
		{"--cap-add", "CAP_CHOWN", "--cap-add=net_admin", "web"},
		{"-u", "0:0", "-w", "/tmp", "--hostname=h", "--network", "none", "--min-level", "L0", "--writable", "web"},
	},
	false: {
		{},
		{"--rm"},
		{"-h"},
		{"--help"},
		{"-t", "web"},
		{"-it", "web"},
		{"-d", "web"},
		{"--detach", "web"},
		{"-o", "json", "web"},
		{"--format", "x", "web"},
		{"-q", "web"},
		{"--no-color", "web"},
		{"--address", "h:1", "web"},
		{"--nonsense", "web"},
		{"-x", "web"},
		{"-ix", "web"},
		{"--"},
		{"--=x", "web"},
		{"--rm=maybe", "web"},
		{"-i=false", "web"},
		{"-e=KEY", "web"},
		{"-e", "=x", "web"},
		{"-e"},
		{"--name"},
		{"-l", "a", "web"},
		{"-l", "=b", "web"},
		{"-m", "much", "web"},
		{"-m", "1.5g", "web"},
		{"-m", "9999999999G", "web"},
		{"--cpus", "0", "web"},
		{"--cpus", "0.0001", "web"},
		{"--cpus", "1e3", "web"},
		{"--cpus", "NaN", "web"},
		{"--cpus", "1000001", "web"},
		{"--pids-limit", "x", "web"},
		{"--name", "\xff", "web"},
		{"\xff"},
		{"web", "\xff"},
		{"--security-opt", "landlock=off", "web"},
	},
}

func getenv(socket string) func(string) string {
	return func(name string) string {
		return map[string]string{"TERO_SOCKET": socket, "GIVEN": "given = this"}[name]
	}
}

// compare builds the request of a command line in both ways; false when the
// front leaves it to the CLI.
func compare(t *testing.T, n *node, socket string, line []string) bool {
	t.Helper()
	l, ok := parse(line, getenv(socket))
	if !ok {
		return false
	}
	var got runtimev1.AttachRequest
	if err := proto.Unmarshal(l.request, &got); err != nil {
		t.Fatalf("%q: %v", line, err)
	}
	r := byCLI(t.Context(), "", getenv(socket), append([]string{"run"}, line...)...)
	if len(n.launches) != 1 {
		t.Fatalf("%q: the CLI does not launch: %+v", line, r)
	}
	if diff := cmp.Diff(<-n.launches, &got, protocmp.Transform()); diff != "" {
		t.Errorf("%q: CLI (-), front (+): %s", line, diff)
	}
	if l.socket != socket || l.stdin != got.GetRun().GetSpec().GetOpenStdin() {
		t.Errorf("%q: socket %q, standard input %v", line, l.socket, l.stdin)
	}
	return true
}

// TestRequests holds the front's reading of command lines against the CLI's.
func TestRequests(t *testing.T) {
	n, socket := serve(t)
	for taken, list := range lines {
		for _, line := range list {
			if compare(t, n, socket, line) != taken {
				t.Errorf("%q: taken is not %v", line, taken)
			}
		}
	}
	for _, f := range flags { // each of them, in each form
		forms := [][]string{{"--" + f.long, sample[f.kind]}, {"--" + f.long + "=" + sample[f.kind]}, {"-" + string(f.short), sample[f.kind]}, {"-" + string(f.short) + sample[f.kind]}}
		switch f.kind {
		case yes:
			forms = [][]string{{"--" + f.long}, nil, {"-" + string(f.short)}}
		case nodeSocket:
			forms = [][]string{{"--" + f.long, socket}, {"--" + f.long + "=" + socket}}
		}
		for i, form := range forms {
			if len(form) == 0 || i > 1 && f.short == 0 {
				continue
			}
			if !compare(t, n, socket, append(form, "web")) {
				t.Errorf("%q is left to the CLI", form)
			}
		}
	}
	for _, name := range []string{"TERO_NODE", "TERO_OUTPUT"} {
		if _, ok := parse([]string{"web"}, func(n string) string { return map[string]string{name: "x"}[n] }); ok {
			t.Errorf("%s makes no difference", name)
		}
	}
}

// FuzzRequests does so with command lines of pieces of those above.
func FuzzRequests(f *testing.F) {
	var words []string
	for _, list := range lines {
		for _, line := range list {
			words = append(words, line...)
		}
	}
	for _, fl := range flags {
		words = append(words, "--"+fl.long)
	}
	slices.Sort(words) // the order of a map is another each time
	f.Add(uint64(1), "web")
	f.Add(uint64(2), "-e\x00A")
	n, socket := serve(f)
	f.Fuzz(func(t *testing.T, seed uint64, own string) {
		r := rand.New(rand.NewPCG(seed, 0))
		line := strings.Split(own, "\x00")
		for range r.IntN(6) {
			line = slices.Insert(line, r.IntN(len(line)+1), words[r.IntN(len(words))])
		}
		compare(t, n, socket, line)
	})
}
