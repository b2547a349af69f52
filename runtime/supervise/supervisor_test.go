package supervise_test

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"tero.internal/common/eventbus"
	"tero.internal/common/fault"
	"tero.internal/common/workload"
	"tero.internal/runtime/launch"
	"tero.internal/runtime/sandbox"
	"tero.internal/runtime/state"
	"tero.internal/runtime/supervise"
)

// machine fakes everything below the supervisor: sandboxes that run until they
// are signalled, a network and identities that remember what they gave.
type machine struct {
	mu         sync.Mutex // guards what follows
	boxes      map[workload.ID]*box
	attached   map[workload.ID]bool
	enrolled   map[workload.ID]bool
	alive      []workload.ID
	launchErr  error
	detachErr  error
	ignores    unix.Signal // containers ignore it
	unkillable bool        // and SIGKILL, too
	launches   int
	ended      []workload.ID // by End
	again      error         // fails the launches after the first
	asked      []workload.Spec
	paused     map[workload.ID]bool
	limits     map[workload.ID]workload.Resources
	updateErr  error
	health     func() (int, error)
	ignore     bool // all signals are lost
	// Called before a signal or an End, and after an Update; may be nil.
	onSignal, onEnd, onUpdate func()
	onRun                     func(workload.ID) // called at the end of a launch; may be nil
	onRelease                 func()            // called when a launch's image is released; may be nil
}

type box struct {
	phase sandbox.Phase
	exit  sandbox.Exit
	ended chan struct{}
}

func newMachine() *machine {
	return &machine{boxes: map[workload.ID]*box{}, attached: map[workload.ID]bool{}, enrolled: map[workload.ID]bool{}, paused: map[workload.ID]bool{}, limits: map[workload.ID]workload.Resources{}}
}

func (m *machine) add(id workload.ID, p sandbox.Phase) {
	m.mu.Lock()
	defer m.mu.Unlock()
	b := &box{phase: p, ended: make(chan struct{})}
	m.boxes[id], m.attached[id], m.enrolled[id] = b, true, true
}

func (m *machine) Run(_ context.Context, _ workload.Principal, id workload.ID, spec workload.Spec) (*launch.Launched, error) {
	if m.launchErr != nil {
		return nil, m.launchErr
	}
	m.add(id, sandbox.Running)
	m.mu.Lock()
	m.launches++
	m.asked = append(m.asked, spec)
	m.mu.Unlock()
	spec.StopSignal = "SIGTERM"
	l := &launch.Launched{Container: id, Spec: spec, Image: workload.Image{Digest: "sha256:aa"}, Release: func() {}}
	if m.onRelease != nil {
		l.Release = m.onRelease
	}
	m.hook(func() func() {
		if f := m.onRun; f != nil {
			return func() { f(id) }
		}
		return nil
	})
	return l, nil
}

func (m *machine) Again(ctx context.Context, p workload.Principal, id workload.ID, spec workload.Spec, image digest.Digest) (*launch.Launched, error) {
	if err := m.End(ctx, id); err != nil {
		return nil, err
	}
	m.mu.Lock()
	err := m.again
	m.mu.Unlock()
	if err != nil {
		return nil, err
	}
	l, err := m.Run(ctx, p, id, spec)
	if err == nil && image != l.Image.Digest {
		return nil, errors.New("another image")
	}
	return l, err
}

func (m *machine) Readmit(_ context.Context, _ workload.Principal, spec workload.Spec, _ workload.Image) (workload.Spec, workload.Grant, error) {
	if spec.Resources.MemoryBytes > 1<<30 {
		return spec, workload.Grant{}, fault.New(fault.Denied, "too much")
	}
	return spec, workload.Grant{DecisionID: "d1"}, nil
}

// set changes the fake while a supervisor may use it.
func (m *machine) set(f func()) {
	m.mu.Lock()
	defer m.mu.Unlock()
	f()
}

// hook calls one of the fake's hooks.
func (m *machine) hook(which func() func()) {
	m.mu.Lock()
	f := which()
	m.mu.Unlock()
	if f != nil {
		f()
	}
}

func (m *machine) End(_ context.Context, id workload.ID) error {
	m.hook(func() func() { return m.onEnd })
	m.mu.Lock()
	defer m.mu.Unlock()
	if b := m.boxes[id]; b != nil && b.phase == sandbox.Running {
		b.end(sandbox.Exit{Code: 137, Signal: unix.SIGKILL})
	}
	delete(m.boxes, id)
	m.ended = append(m.ended, id)
	return nil
}

func (m *machine) Exec(context.Context, workload.ID, sandbox.ExecSpec) (*sandbox.Process, error) {
	return &sandbox.Process{}, nil
}

func (m *machine) Pause(_ context.Context, id workload.ID) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.paused[id] = true
	return nil
}

func (m *machine) Unpause(_ context.Context, id workload.ID) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.paused, id)
	return nil
}

func (m *machine) Paused(_ context.Context, id workload.ID) (bool, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.paused[id], nil
}

func (m *machine) Update(_ context.Context, id workload.ID, r workload.Resources) error {
	m.mu.Lock()
	err := m.updateErr
	if err == nil {
		m.limits[id] = r
	}
	m.mu.Unlock()
	if err == nil {
		m.hook(func() func() { return m.onUpdate })
	}
	return err
}

func (m *machine) check(context.Context, workload.ID, []string) (int, []byte, error) {
	m.mu.Lock()
	f := m.health
	m.mu.Unlock()
	code, err := f()
	return code, []byte("output"), err
}

// exit ends a container by itself.
func (m *machine) exit(id workload.ID, code int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.boxes[id].end(sandbox.Exit{Code: code})
}

func (m *machine) Signal(_ context.Context, id workload.ID, sig unix.Signal) error {
	m.hook(func() func() { return m.onSignal })
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.ignore {
		return nil
	}
	b, ok := m.boxes[id]
	if !ok || b.phase != sandbox.Running {
		return unix.ESRCH
	}
	if sig != m.ignores && !m.unkillable {
		b.end(sandbox.Exit{Code: 128 + int(sig), Signal: sig})
	}
	return nil
}

func (b *box) end(e sandbox.Exit) {
	e.At = time.Now()
	b.phase, b.exit = sandbox.Exited, e
	close(b.ended)
}

func (m *machine) Wait(ctx context.Context, id workload.ID) (sandbox.Exit, error) {
	m.mu.Lock()
	b := m.boxes[id]
	m.mu.Unlock()
	if b == nil {
		return sandbox.Exit{}, fault.New(fault.NotFound, "no sandbox")
	}
	select {
	case <-b.ended:
		return b.exit, nil
	case <-ctx.Done():
		return sandbox.Exit{}, ctx.Err()
	}
}

func (m *machine) List(context.Context) ([]sandbox.Status, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	var out []sandbox.Status
	for id, b := range m.boxes {
		out = append(out, sandbox.Status{ID: id, Phase: b.phase})
	}
	return out, nil
}

func (m *machine) Destroy(_ context.Context, id workload.ID) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.boxes, id)
	return nil
}

func (m *machine) HoldLog(workload.ID) {}

func (m *machine) Detach(_ context.Context, id workload.ID) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.detachErr != nil {
		return m.detachErr
	}
	delete(m.attached, id)
	return nil
}

func (m *machine) Reconcile(_ context.Context, alive []workload.ID) error {
	m.alive = alive
	return nil
}

func (m *machine) Revoke(_ context.Context, id workload.ID) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.enrolled, id)
	return nil
}

func (m *machine) Restore(_ context.Context, id workload.ID, _ workload.Identity, _ workload.Evidence) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.enrolled[id] = true
	return nil
}

// left tells what the machine still holds.
func (m *machine) left() [3]int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return [3]int{len(m.boxes), len(m.attached), len(m.enrolled)}
}

func open(t *testing.T, m *machine, st *state.Store) *supervise.Supervisor {
	t.Helper()
	return openAt(t, m, st, "boot-1")
}

func openAt(t *testing.T, m *machine, st *state.Store, boot string) *supervise.Supervisor {
	t.Helper()
	s, err := supervise.Open(t.Context(), supervise.Config{
		Launcher: m, Sandboxes: m, Processes: m, Logs: m, Network: m, Identities: m, State: st, Boot: boot, Check: m.check,
		Bus: &eventbus.Bus{}, Log: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func openState(t *testing.T) *state.Store {
	t.Helper()
	st, err := state.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = st.Close() })
	return st
}

func spec(name string) workload.Spec {
	return workload.Spec{Name: name, Image: "web", Network: "default"}
}

func run(t *testing.T, s *supervise.Supervisor, sp workload.Spec, hold bool) (state.Container, func()) {
	t.Helper()
	c, release, err := s.Run(t.Context(), workload.Principal{}, sp, hold)
	if err != nil {
		t.Fatal(err)
	}
	return c, release
}

func TestExitGivesBackAndIsRecorded(t *testing.T) {
	m, st := newMachine(), openState(t)
	s := open(t, m, st)
	defer s.Close()
	c, _ := run(t, s, spec("web"), false)
	if _, err := s.Remove(t.Context(), "web", false); fault.KindOf(err) != fault.Conflict {
		t.Errorf("rm of a running container: %v, want conflict", err)
	}
	if err := s.Kill(t.Context(), "web", "USR1"); err != nil {
		t.Fatal(err)
	}
	exit, err := s.Wait(t.Context(), c.ID)
	if err != nil || exit.Code != 128+int(unix.SIGUSR1) {
		t.Fatalf("Wait = %+v, %v", exit, err)
	}
	if got := m.left(); got != [3]int{1, 0, 0} {
		t.Errorf("after exit (boxes, interfaces, identities) = %v, want only the box", got)
	}
	r, err := s.Find("web")
	if err != nil || r.Phase != state.Exited || r.Exit.Code != exit.Code {
		t.Errorf("record = %+v, %v", r, err)
	}
	if _, err := s.Remove(t.Context(), "web", false); err != nil {
		t.Fatal(err)
	}
	if got := m.left(); got != [3]int{} || len(s.List()) != 0 {
		t.Errorf("after rm: machine %v, records %v", got, s.List())
	}
}

func TestImageIsHeldUntilTheRecordNamesIt(t *testing.T) {
	m, st := newMachine(), openState(t)
	var users []string
	released := 0
	m.onRelease = func() { released++; users = st.UsersOf("sha256:aa") }
	s := open(t, m, st)
	defer s.Close()
	run(t, s, spec("web"), false)
	if diff := cmp.Diff([]string{"web"}, users); diff != "" || released != 1 {
		t.Errorf("released %d times, users then (-want +got):\n%s", released, diff)
	}
	// One that cannot be recorded holds it until it is gone.
	before := m.left()
	m.onRun = func(id workload.ID) {
		if err := st.Remove(id); err != nil {
			t.Error(err)
		}
	}
	m.onRelease = func() {
		released++
		if got := m.left(); got != before {
			t.Errorf("released while the machine holds %v, want %v", got, before)
		}
	}
	if _, _, err := s.Run(t.Context(), workload.Principal{}, spec("db"), false); err == nil || released != 2 {
		t.Errorf("Run = %v, released %d times, want an error and 2", err, released)
	}
}

func TestFailedLaunchLeavesNoRecord(t *testing.T) {
	m, st := newMachine(), openState(t)
	m.launchErr = fault.New(fault.Denied, "no")
	s := open(t, m, st)
	defer s.Close()
	sub := s.Bus.Subscribe()
	defer sub.Close()
	_, _, err := s.Run(t.Context(), workload.Principal{}, spec("web"), false)
	if fault.KindOf(err) != fault.Denied || len(s.List()) != 0 {
		t.Errorf("Run = %v, records %v", err, s.List())
	}
	if e, _, err := sub.Next(t.Context()); err != nil || e.Type != "launch.refused" {
		t.Errorf("event %+v, %v; want launch.refused", e, err)
	}
}

func TestFailedLaunchIsCleanedUpWhenItCanBe(t *testing.T) {
	st := openState(t)
	synctest.Test(t, func(t *testing.T) {
		m := newMachine()
		m.launchErr, m.detachErr = errors.New("start failed, and so did its undo"), errors.New("netlink is busy")
		s := open(t, m, st)
		defer s.Close()
		if _, _, err := s.Run(t.Context(), workload.Principal{}, spec("web"), false); err == nil {
			t.Fatal("Run succeeded")
		}
		if got := s.List(); len(got) != 1 || got[0].Phase != state.Creating {
			t.Errorf("records %+v; a restart would not know what is left", got)
		}
		m.mu.Lock()
		m.detachErr = nil
		m.mu.Unlock()
		time.Sleep(2 * time.Second) // of the bubble's clock
		synctest.Wait()
		if got := s.List(); len(got) != 0 {
			t.Errorf("records %+v after the second try", got)
		}
	})
}

func TestAutoRemoveWaitsForTheReader(t *testing.T) {
	m, st := newMachine(), openState(t)
	s := open(t, m, st)
	defer s.Close()
	sub := s.Bus.Subscribe()
	defer sub.Close()
	sp := spec("web")
	sp.AutoRemove = true
	c, release := run(t, s, sp, true)
	if err := s.Kill(t.Context(), "web", "KILL"); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Wait(t.Context(), c.ID); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Find("web"); err != nil {
		t.Fatalf("removed while its output was being read: %v", err)
	}
	release()
	for {
		e, _, err := sub.Next(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if e.Type == "container.removed" {
			break
		}
	}
	if got := m.left(); got != [3]int{} {
		t.Errorf("left %v", got)
	}
}

func seconds(n int) *time.Duration {
	d := time.Duration(n) * time.Second
	return &d
}

func TestStopKillsWhenTheSignalIsIgnored(t *testing.T) {
	st := openState(t)
	synctest.Test(t, func(t *testing.T) {
		m := newMachine()
		m.ignores = unix.SIGTERM
		s := open(t, m, st)
		defer s.Close()
		run(t, s, spec("web"), false)
		began := time.Now()
		exit, err := s.Stop(t.Context(), "web", seconds(10))
		if err != nil || exit.Signal != int(unix.SIGKILL) {
			t.Errorf("Stop = %+v, %v; want SIGKILL", exit, err)
		}
		if d := time.Since(began); d != 10*time.Second {
			t.Errorf("killed after %v, want 10 s", d)
		}
		if again, err := s.Stop(t.Context(), "web", nil); err != nil || again != exit {
			t.Errorf("second Stop = %+v, %v", again, err)
		}
	})
}

func TestKillOfAStuckContainerIsToldAndHeard(t *testing.T) {
	st := openState(t)
	synctest.Test(t, func(t *testing.T) {
		m := newMachine()
		m.ignores = unix.SIGKILL
		s := open(t, m, st)
		defer s.Close()
		sub := s.Bus.Subscribe()
		defer sub.Close()
		c, _ := run(t, s, spec("web"), false)
		if _, err := s.Remove(t.Context(), "web", true); fault.KindOf(err) != fault.Unavailable || fault.HintOf(err) == "" {
			t.Errorf("rm -f = %v, want unavailable with a hint", err)
		}
		for e := (eventbus.Event{}); e.Type != "container.stuck"; {
			var err error
			if e, _, err = sub.Next(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		if r, err := s.Find("web"); err != nil || r.Phase != state.Running {
			t.Errorf("record %+v, %v; it still runs", r, err)
		}
		m.mu.Lock()
		m.boxes[c.ID].end(sandbox.Exit{Code: 137, Signal: unix.SIGKILL}) // the disk came back
		m.mu.Unlock()
		if exit, err := s.Wait(t.Context(), c.ID); err != nil || exit.Code != 137 {
			t.Errorf("%+v, %v", exit, err)
		}
	})
}

func TestExitIsRecordedWhenGivingBackFailsAtFirst(t *testing.T) {
	st := openState(t)
	synctest.Test(t, func(t *testing.T) {
		m := newMachine()
		m.detachErr = errors.New("netlink is busy")
		s := open(t, m, st)
		defer s.Close()
		c, _ := run(t, s, spec("web"), false)
		if err := s.Kill(t.Context(), "web", ""); fault.KindOf(err) != fault.Invalid {
			t.Errorf("Kill without a signal: %v, want invalid", err)
		}
		if err := s.Kill(t.Context(), "web", "9"); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if r, _ := s.Find("web"); r.Phase != state.Running {
			t.Errorf("phase %s before the network gave back, want running", r.Phase)
		}
		m.mu.Lock()
		m.detachErr = nil
		m.mu.Unlock()
		if _, err := s.Wait(t.Context(), c.ID); err != nil {
			t.Fatal(err)
		}
	})
}

func TestRecover(t *testing.T) {
	m, st := newMachine(), openState(t)
	s := open(t, m, st)
	running, _ := run(t, s, spec("running"), false)
	exited, _ := run(t, s, spec("exited"), false)
	lost, _ := run(t, s, spec("lost"), false)
	s.Close() // the daemon is gone

	half := state.Container{ID: workload.NewID(), Phase: state.Creating, Spec: spec("half")}
	if err := st.Add(half); err != nil {
		t.Fatal(err)
	}
	m.add(half.ID, sandbox.Created)
	leaving := state.Container{ID: workload.NewID(), Phase: state.Exited, Exit: &state.Exit{}, Spec: spec("leaving")}
	if err := errors.Join(st.Add(leaving), st.Removing(leaving.ID)); err != nil {
		t.Fatal(err)
	}
	m.add(leaving.ID, sandbox.Exited)
	stranger := workload.NewID()
	m.add(stranger, sandbox.Running)
	m.boxes[exited.ID].end(sandbox.Exit{Code: 3})
	delete(m.boxes, lost.ID)

	clear(m.enrolled) // they are in the daemon's memory
	s = open(t, m, st)
	defer s.Close()
	if diff := cmp.Diff([]workload.ID{running.ID}, m.alive); diff != "" {
		t.Errorf("alive for the network (-want +got):\n%s", diff)
	}
	if e, err := s.Wait(t.Context(), exited.ID); err != nil || e.Code != 3 {
		t.Errorf("exit while the daemon was gone = %+v, %v; want code 3", e, err)
	}
	if e, err := s.Wait(t.Context(), lost.ID); err != nil || e.Code != 255 || e.Message == "" {
		t.Errorf("lost container = %+v, %v; want code 255 with a message", e, err)
	}
	if r, err := s.Running("running"); err != nil || r.ID != running.ID {
		t.Errorf("running container = %+v, %v", r, err)
	}
	for _, name := range []string{"half", "leaving"} {
		if _, err := s.Find(name); fault.KindOf(err) != fault.NotFound {
			t.Errorf("%s: %v, want not found", name, err)
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.boxes[half.ID] != nil || m.boxes[stranger] != nil || m.boxes[leaving.ID] != nil {
		t.Error("a half-launched, half-removed or unknown sandbox was left")
	}
	if diff := cmp.Diff(map[workload.ID]bool{running.ID: true}, m.enrolled); diff != "" {
		t.Errorf("identities (-want +got):\n%s", diff)
	}
}

func TestParseSignal(t *testing.T) {
	for in, want := range map[string]unix.Signal{"SIGTERM": unix.SIGTERM, "term": unix.SIGTERM, "15": unix.SIGTERM, "": 0, "NOPE": 0, "65": 0} {
		got, err := supervise.ParseSignal(in)
		if got != want || (err == nil) != (want != 0) {
			t.Errorf("ParseSignal(%q) = %v, %v", in, got, err)
		}
	}
}

// count gives how often a container was launched.
func (m *machine) count() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.launches
}
