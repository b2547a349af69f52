// Package sandboxtest is the conformance suite of sandbox drivers: what a
// container must and must not be able to do, looked at from inside by a probe.
package sandboxtest

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"tero.internal/common/fault"
	"tero.internal/common/workload"
	"tero.internal/runtime/internal/crilog"
	"tero.internal/runtime/sandbox"
)

// Suite tests a driver with an image whose only file is the probe, /probe.
type Suite struct {
	sandbox.Driver
	Image workload.Image
}

// Spec gives a complete specification that runs the probe.
func (s *Suite) Spec(tb testing.TB, args ...string) workload.Spec {
	tb.Helper()
	spec, err := workload.Spec{
		Name: "probe", Image: s.Image.Reference, Network: workload.NetworkNone, Args: append([]string{"/probe"}, args...),
	}.Complete(s.Image)
	if err != nil {
		tb.Fatal(err)
	}
	return spec
}

// Launch creates and starts a container that is destroyed with the test.
func (s *Suite) Launch(tb testing.TB, spec workload.Spec) workload.ID {
	tb.Helper()
	id, err := s.TryLaunch(tb, spec)
	if err != nil {
		tb.Fatal(err)
	}
	return id
}

// TryLaunch is Launch for a container that may fail.
func (s *Suite) TryLaunch(tb testing.TB, spec workload.Spec) (workload.ID, error) {
	tb.Helper()
	id := workload.NewID()
	config, err := s.Configure(spec, s.Image)
	if err != nil {
		return id, err
	}
	if _, err := s.Create(tb.Context(), id, config, s.Image); err != nil {
		return id, err
	}
	tb.Cleanup(func() {
		if err := s.Destroy(context.WithoutCancel(tb.Context()), id); err != nil {
			tb.Error(err)
		}
	})
	return id, s.Start(tb.Context(), id, nil)
}

// Run launches a container and gives its exit and its output.
func (s *Suite) Run(tb testing.TB, spec workload.Spec) (sandbox.Exit, string) {
	tb.Helper()
	id := s.Launch(tb, spec)
	exit := s.End(tb, id)
	return exit, s.Output(tb, id)
}

// End waits for a container's exit.
func (s *Suite) End(tb testing.TB, id workload.ID) sandbox.Exit {
	tb.Helper()
	ctx, cancel := context.WithTimeout(tb.Context(), 20*time.Second)
	defer cancel()
	exit, err := s.Wait(ctx, id)
	if err != nil {
		tb.Fatal(err)
	}
	return exit
}

// Output gives what is in the log.
func (s *Suite) Output(tb testing.TB, id workload.ID) string {
	tb.Helper()
	var b strings.Builder
	for r, err := range crilog.Read(tb.Context(), s.LogPath(id), crilog.Options{}) {
		if err != nil {
			tb.Fatal(err)
		}
		b.Write(r.Output)
	}
	return b.String()
}

// Expect waits until the log has want.
func (s *Suite) Expect(tb testing.TB, id workload.ID, want string) {
	tb.Helper()
	ctx, cancel := context.WithTimeout(tb.Context(), 10*time.Second)
	defer cancel()
	var b strings.Builder
	for r, err := range crilog.Read(ctx, s.LogPath(id), crilog.Options{Until: make(chan struct{})}) {
		if err != nil {
			tb.Fatalf("waiting for %q, have %q: %v", want, b.String(), err)
		}
		b.Write(r.Output)
		if strings.Contains(b.String(), want) {
			return
		}
	}
	tb.Fatalf("log ended before %q: %q", want, b.String())
}

// View is what a process sees of its sandbox; the probe's "look" prints it.
type View struct {
	Status, Namespaces    map[string]string
	UIDMap, Hostname, Cwd string
	Env, Mounts, Dev, FDs []string
	Procs, Links          []string
	Limits, Cgroup        string
	TTY, Session          bool
	Umask                 int
}

// ParseView reads the probe's output.
func ParseView(tb testing.TB, output string) View {
	tb.Helper()
	var v View
	if err := json.Unmarshal([]byte(output), &v); err != nil {
		tb.Fatalf("%v in %q", err, output)
	}
	return v
}

// TestAll runs the suite.
func (s *Suite) TestAll(t *testing.T) {
	for name, test := range map[string]func(*testing.T){
		"exit codes": s.exitCodes, "signals": s.signals, "output": s.output, "input": s.input, "terminal": s.terminal,
		"confinement": s.confinement, "refusals": s.refusals, "writable root": s.writable, "user": s.user,
		"capabilities kept": s.capabilities, "files of the network": s.etc, "exec": s.exec, "exec with pipes": s.execPipes, "exec in a terminal": s.execTerminal,
		"memory limit": s.memory, "task limit": s.tasks, "failures": s.failures, "phases": s.phases, "destroy": s.destroy,
		"environment of 1 MB": s.bigEnvironment, "ordinary work": s.ordinary, "leaked folders": s.leaks, "labels": s.labels, "declared": s.declared,
	} {
		t.Run(name, test)
	}
	for name, test := range s.redTeam() {
		t.Run(name, test)
	}
}

// declared: what a class does not declare to do, it refuses, and says so; another
// class it does not pretend to be.
func (s *Suite) declared(t *testing.T) {
	c := s.Capabilities()
	spec := s.Spec(t)
	spec.Isolation = "no-such-class"
	if _, err := s.Configure(spec, s.Image); fault.KindOf(err) != fault.Unsupported || fault.HintOf(err) == "" {
		t.Errorf("another class: %v", err)
	}
	bind := func(kind workload.MountType) func(*workload.Spec) {
		return func(spec *workload.Spec) {
			spec.Mounts = []workload.Mount{{Type: kind, Source: "data", Target: "/data"}}
			if kind == workload.MountBind {
				spec.Mounts[0].Source = t.TempDir()
			}
		}
	}
	for feature, ask := range map[sandbox.Feature]func(*workload.Spec){
		sandbox.Terminals:      func(s *workload.Spec) { s.Terminal = true },
		sandbox.OpenInput:      func(s *workload.Spec) { s.OpenStdin = true },
		sandbox.WritableRoots:  func(s *workload.Spec) { s.WritableRootfs = true },
		sandbox.KeptPrivileges: func(s *workload.Spec) { s.CapAdd = []string{"CAP_NET_RAW"} },
		sandbox.BindMounts:     bind(workload.MountBind),
		sandbox.Volumes:        bind(workload.MountVolume),
		sandbox.Tmpfs:          bind(workload.MountTmpfs),
		sandbox.HostDevices: func(s *workload.Spec) {
			s.Devices = []workload.Device{{Source: "/dev/full", Target: "/dev/full", Access: "r"}}
		},
		sandbox.KernelValues:   func(s *workload.Spec) { s.Sysctls = map[string]string{"net.core.somaxconn": "5"} },
		sandbox.ProcessLimits:  func(s *workload.Spec) { s.Ulimits = []workload.Ulimit{{Name: "nofile", Soft: 9, Hard: 9}} },
		sandbox.SecurityLabels: func(s *workload.Spec) { s.AppArmor = "profile" },
	} {
		spec := s.Spec(t)
		ask(&spec)
		if asked := sandbox.Asked(spec); !slices.Equal(asked, []sandbox.Feature{feature}) {
			t.Errorf("%s: asked for %v", feature, asked)
		}
		without := sandbox.Capabilities{Class: c.Class, Features: slices.DeleteFunc(sandbox.Features(), func(f sandbox.Feature) bool { return f == feature })}
		if err := without.Check(spec); fault.KindOf(err) != fault.Unsupported || !strings.Contains(err.Error(), string(feature)) {
			t.Errorf("%s: a class without it says %v", feature, err)
		}
		if slices.Contains(c.Features, feature) {
			continue // tried by the other tests
		}
		if _, err := s.Configure(spec, s.Image); fault.KindOf(err) != fault.Unsupported {
			t.Errorf("%s is not declared, and not refused: %v", feature, err)
		}
	}
}

func (s *Suite) exitCodes(t *testing.T) {
	for _, want := range []int{0, 1, 42, 255} {
		exit, _ := s.Run(t, s.Spec(t, "exit", itoa(want)))
		if exit.Code != want || exit.Signal != 0 || exit.OOMKilled || time.Since(exit.At).Abs() > time.Minute {
			t.Errorf("exit %d: %+v", want, exit)
		}
	}
}

func (s *Suite) signals(t *testing.T) {
	id := s.Launch(t, s.Spec(t, "wait"))
	s.Expect(t, id, "waiting\n")
	if err := s.Signal(t.Context(), id, unix.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if exit := s.End(t, id); exit.Code != 7 || exit.Signal != 0 {
		t.Errorf("after SIGTERM: %+v", exit)
	}
	if err := s.Signal(t.Context(), id, unix.SIGTERM); fault.KindOf(err) != fault.NotFound {
		t.Errorf("signal after the exit: %v", err)
	}
	id = s.Launch(t, s.Spec(t, "hold"))
	if err := s.Signal(t.Context(), id, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if exit := s.End(t, id); exit.Code != 137 || exit.Signal != unix.SIGKILL || exit.OOMKilled {
		t.Errorf("after SIGKILL: %+v", exit)
	}
}

func (s *Suite) output(t *testing.T) {
	const lines = 100_000
	exit, out := s.Run(t, s.Spec(t, "flood", itoa(lines)))
	if exit.Code != 0 || len(out) != lines*len("line 000000000\n") || !strings.HasSuffix(out, "line 000099999\n") {
		t.Errorf("flood: %+v, %d bytes", exit, len(out))
	}
	id := s.Launch(t, s.Spec(t, "stderr", "to stderr"))
	s.End(t, id)
	for r, err := range crilog.Read(t.Context(), s.LogPath(id), crilog.Options{}) {
		if err != nil || r.Stream != crilog.Stderr || string(r.Output) != "to stderr\n" {
			t.Errorf("%+v, %v", r, err)
		}
	}
}

func (s *Suite) input(t *testing.T) {
	spec := s.Spec(t, "cat")
	if exit, out := s.Run(t, spec); exit.Code != 0 || out != "end\n" {
		t.Errorf("without input: %+v %q", exit, out)
	}
	spec.OpenStdin = true
	id := s.Launch(t, spec)
	in, err := s.Input(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := in.WriteString("hello\n"); err != nil {
		t.Fatal(err)
	}
	s.Expect(t, id, "hello\n")
	if err := in.Close(); err != nil {
		t.Fatal(err)
	}
	if err := s.CloseInput(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	if exit := s.End(t, id); exit.Code != 0 || s.Output(t, id) != "hello\nend\n" {
		t.Errorf("with input: %+v %q", exit, s.Output(t, id))
	}
}

func (s *Suite) terminal(t *testing.T) {
	spec := s.Spec(t, "cat")
	spec.Terminal, spec.OpenStdin = true, true
	id := s.Launch(t, spec)
	if err := s.Resize(t.Context(), id, 33, 77); err != nil {
		t.Fatal(err)
	}
	in, err := s.Input(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = in.Close() }()
	if _, err := in.WriteString("typed\n\x04"); err != nil {
		t.Fatal(err)
	}
	if exit := s.End(t, id); exit.Code != 0 {
		t.Errorf("%+v", exit)
	}
	if out := s.Output(t, id); out != "typed\r\ntyped\r\nend\r\n" {
		t.Errorf("%q", out)
	}
	spec = s.Spec(t, "look")
	spec.Terminal = true
	id = s.Launch(t, spec)
	s.End(t, id)
	v := ParseView(t, s.Output(t, id))
	if !v.TTY || !v.Session {
		t.Errorf("console %v, session leader %v", v.TTY, v.Session)
	}
	for _, fd := range v.FDs {
		if n, to, _ := strings.Cut(fd, " "); len(n) == 1 && n < "3" && !strings.HasPrefix(to, "/dev/pts/") {
			t.Errorf("descriptor %s", fd)
		}
	}
}

func (s *Suite) etc(t *testing.T) {
	spec := s.Spec(t, "print", "/etc/hosts", "/etc/resolv.conf", "/etc/hostname")
	if exit, out := s.Run(t, spec); exit.Code != 0 || out != "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\nprobe\n" {
		t.Errorf("%+v %q", exit, out)
	}
}

func (s *Suite) phases(t *testing.T) {
	phase := func(id workload.ID) sandbox.Status {
		list, err := s.List(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, l := range list {
			if l.ID == id {
				return l
			}
		}
		return sandbox.Status{}
	}
	id := workload.NewID()
	config, err := s.Configure(s.Spec(t, "wait"), s.Image)
	if err != nil {
		t.Fatal(err)
	}
	netns, err := s.Create(t.Context(), id, config, s.Image)
	if err != nil {
		t.Fatal(err)
	}
	if p := phase(id); p.Phase != sandbox.Created || p.PID == 0 {
		t.Errorf("after Create: %+v", p)
	}
	if _, err := s.Create(t.Context(), id, config, s.Image); fault.KindOf(err) != fault.Exists {
		t.Errorf("second Create: %v", err)
	}
	if err := s.Start(t.Context(), id, nil); err != nil {
		t.Fatal(err)
	}
	if p := phase(id); p.Phase != sandbox.Running || p.PID == 0 {
		t.Errorf("after Start: %+v", p)
	}
	if err := s.Start(t.Context(), id, nil); fault.KindOf(err) != fault.Conflict {
		t.Errorf("second Start: %v", err)
	}
	s.Expect(t, id, "waiting\n")
	if err := s.Signal(t.Context(), id, unix.SIGTERM); err != nil {
		t.Fatal(err)
	}
	s.End(t, id)
	if p := phase(id); p.Phase != sandbox.Exited || p.PID != 0 || p.Exit == nil || p.Exit.Code != 7 {
		t.Errorf("after the exit: %+v", p)
	}
	if _, err := os.Stat(netns); err != nil { // it must hold until Destroy
		t.Error(err)
	}
	if err := s.Destroy(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	if p := phase(id); p.ID != "" {
		t.Errorf("after Destroy: %+v", p)
	}
}

func (s *Suite) destroy(t *testing.T) {
	if err := s.Destroy(t.Context(), workload.NewID()); err != nil {
		t.Errorf("unknown container: %v", err)
	}
	id := s.Launch(t, s.Spec(t, "hold"))
	for range 2 {
		if err := s.Destroy(t.Context(), id); err != nil {
			t.Error(err)
		}
	}
	if _, err := s.Wait(t.Context(), id); fault.KindOf(err) != fault.NotFound {
		t.Errorf("wait after Destroy: %v", err)
	}
	if _, err := os.Stat(filepath.Dir(s.LogPath(id))); err == nil {
		t.Error("the folder is left")
	}
}
