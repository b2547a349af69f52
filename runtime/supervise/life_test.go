package supervise_test

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"tero.internal/common/fault"
	"tero.internal/common/workload"
	"tero.internal/runtime/health"
	"tero.internal/runtime/sandbox"
	"tero.internal/runtime/state"
	"tero.internal/runtime/supervise"
)

func TestPause(t *testing.T) {
	m, st := newMachine(), openState(t)
	s := open(t, m, st)
	defer s.Close()
	r, _ := run(t, s, spec("web"), false)
	if err := s.Unpause(t.Context(), "web"); fault.KindOf(err) != fault.Conflict {
		t.Errorf("unpause of one that goes on: %v", err)
	}
	if err := s.Pause(t.Context(), "web"); err != nil {
		t.Fatal(err)
	}
	if err := s.Pause(t.Context(), "web"); fault.KindOf(err) != fault.Conflict {
		t.Errorf("second pause: %v", err)
	}
	if _, err := s.Exec(t.Context(), "web", sandbox.ExecSpec{}); fault.KindOf(err) != fault.Conflict {
		t.Errorf("exec into a paused one: %v", err)
	}
	if err := s.Unpause(t.Context(), "web"); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Exec(t.Context(), "web", sandbox.ExecSpec{}); err != nil {
		t.Error(err)
	}
	if err := s.Pause(t.Context(), "web"); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Stop(t.Context(), "web", nil); err != nil || m.paused[r.ID] {
		t.Errorf("stop of a paused one: %v, paused %v", err, m.paused[r.ID])
	}
	for name, err := range map[string]error{"pause": s.Pause(t.Context(), "web"), "unpause": s.Unpause(t.Context(), "web")} {
		if fault.KindOf(err) != fault.Conflict {
			t.Errorf("%s of an exited one: %v", name, err)
		}
	}
}

func TestUpdate(t *testing.T) {
	m, st := newMachine(), openState(t)
	s := open(t, m, st)
	defer s.Close()
	sp := spec("web")
	sp.Resources = workload.Resources{MemoryBytes: 64 << 20, Pids: 9}
	r, _ := run(t, s, sp, false)
	caller := workload.Principal{Local: true}
	always := workload.Restart{Policy: workload.RestartAlways}
	for name, c := range map[string]struct {
		change supervise.Change
		err    error
		kind   fault.Kind
	}{
		"policy says no":     {change: supervise.Change{Resources: workload.Resources{MemoryBytes: 2 << 30}, Restart: &always}, kind: fault.Denied},
		"the kernel says no": {change: supervise.Change{Resources: workload.Resources{Pids: 10}, Restart: &always}, err: fault.New(fault.Conflict, "in use"), kind: fault.Conflict},
		"it makes no sense":  {change: supervise.Change{Resources: workload.Resources{Pids: -1}, Restart: &always}, kind: fault.Invalid},
		"no such policy":     {change: supervise.Change{Restart: &workload.Restart{Policy: "now and then"}}, kind: fault.Invalid},
	} {
		m.set(func() { m.updateErr = c.err })
		if _, err := s.Update(t.Context(), caller, "web", c.change); fault.KindOf(err) != c.kind {
			t.Errorf("%s: %v", name, err)
		}
		if got, _ := s.Find("web"); got.Limits != nil || got.Policy() != (workload.Restart{}) || !cmp.Equal(got.Asked.Resources, sp.Resources) {
			t.Errorf("%s: changed all the same: %+v", name, got)
		}
		m.set(func() { m.updateErr = nil })
	}
	sub := s.Bus.Subscribe()
	defer sub.Close()
	change := supervise.Change{Resources: workload.Resources{MilliCPU: 500, Pids: 10}, Restart: &always}
	if _, err := s.Update(t.Context(), caller, "web", change); err != nil {
		t.Fatal(err)
	}
	want := workload.Resources{MilliCPU: 500, MemoryBytes: 64 << 20, Pids: 10}
	got, _ := s.Find("web")
	if got.Limits == nil || !cmp.Equal(*got.Limits, want) || !cmp.Equal(got.Spec.Resources, sp.Resources) || !cmp.Equal(m.limits[r.ID], want) || got.Policy() != always {
		t.Errorf("present %+v, launched %+v, in the kernel %+v, policy %s", got.Limits, got.Spec.Resources, m.limits[r.ID], got.Policy())
	}
	if e, _, err := sub.Next(t.Context()); err != nil || e.Type != "container.updated" || e.Attributes["decision"] != "d1" {
		t.Errorf("%+v, %v", e, err)
	}
	// The next launch begins with them.
	if got, err := s.Restart(t.Context(), caller, "web", nil); err != nil || !cmp.Equal(got.Spec.Resources, want) || got.Limits != nil {
		t.Errorf("after a restart: launched %+v, present %+v, %v", got.Spec.Resources, got.Limits, err)
	}
	// An exited one has no limits to change but those of its next launch.
	if _, err := s.Stop(t.Context(), "web", nil); err != nil {
		t.Fatal(err)
	}
	m.set(func() { m.updateErr = errors.New("there is no cgroup") })
	if got, err := s.Update(t.Context(), caller, "web", supervise.Change{Resources: workload.Resources{Pids: 11}}); err != nil || got.Asked.Resources.Pids != 11 {
		t.Errorf("%+v, %v", got, err)
	}
}

// TestUpdateThatCannotBeRecorded gives the old limits back.
func TestUpdateThatCannotBeRecorded(t *testing.T) {
	m, st := newMachine(), openState(t)
	s := open(t, m, st)
	defer s.Close()
	sp := spec("web")
	sp.Resources.Pids = 9
	r, _ := run(t, s, sp, false)
	m.set(func() { m.onUpdate = func() { m.onUpdate = nil; _ = st.Close() } })
	if _, err := s.Update(t.Context(), workload.Principal{}, "web", supervise.Change{Resources: workload.Resources{Pids: 10}}); err == nil {
		t.Fatal("no error")
	}
	if m.limits[r.ID].Pids != 9 {
		t.Errorf("limits %+v", m.limits[r.ID])
	}
}

func TestNothingChangesWhatIsBeingRemoved(t *testing.T) {
	m, st := newMachine(), openState(t)
	s := open(t, m, st)
	defer s.Close()
	r, _ := run(t, s, spec("web"), false)
	if err := st.Removing(r.ID); err != nil { // as a removal that failed half-way leaves it
		t.Fatal(err)
	}
	if _, err := s.Update(t.Context(), workload.Principal{}, "web", supervise.Change{Resources: workload.Resources{Pids: 10}}); fault.KindOf(err) != fault.Conflict {
		t.Errorf("update: %v", err)
	}
	if _, err := s.Start(t.Context(), workload.Principal{}, "web"); fault.KindOf(err) != fault.Conflict {
		t.Errorf("start: %v", err)
	}
	if l, ok := m.limits[r.ID]; ok {
		t.Errorf("limits %+v", l)
	}
}

func TestHealth(t *testing.T) {
	for action, c := range map[workload.HealthAction]struct {
		want     state.Phase
		launches int
		policy   string
	}{
		workload.HealthNone:    {state.Running, 1, "always"},
		workload.HealthKill:    {state.Running, 2, "always"},
		workload.HealthStop:    {state.Exited, 1, "always"},
		workload.HealthRestart: {state.Running, 2, "no"},
	} {
		t.Run(string(action), func(t *testing.T) {
			bubble(t, func(t *testing.T, m *machine, s *supervise.Supervisor) {
				sp := restarting(c.policy)
				sp.Health = workload.Health{
					Command: []string{"/check"}, Interval: time.Second, Timeout: time.Second, StartInterval: time.Second, Retries: 2, OnFailure: action,
				}
				sub := s.Bus.Subscribe()
				defer sub.Close()
				m.set(func() { m.health = func() (int, error) { return 0, nil } })
				r, _ := run(t, s, sp, false)
				synctest.Wait()
				if got := s.Health(r).Status; got != health.Starting {
					t.Errorf("at first %q", got)
				}
				time.Sleep(1500 * time.Millisecond)
				if got := s.Health(r).Status; got != health.Healthy {
					t.Errorf("after a good check %q", got)
				}
				fails := 2
				m.set(func() { m.health = func() (int, error) { fails--; return min(max(fails+1, 0), 1), nil } })
				time.Sleep(2100 * time.Millisecond)
				synctest.Wait()
				got, _ := s.Find("web")
				if got.Phase != c.want || m.count() != c.launches {
					t.Errorf("%s after %d launches, want %s after %d", got.Phase, m.count(), c.want, c.launches)
				}
				if diff := cmp.Diff([]string{"container.started", "container.health", "container.health"}, types(t, sub, 3)); diff != "" {
					t.Errorf("events (-want +got):\n%s", diff)
				}
			})
		})
	}
}

// TestHealthOutlivesTheDaemon keeps the status that was told.
func TestHealthOutlivesTheDaemon(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCrash(t)
		defer c.end()
		sp := spec("web")
		sp.Health = workload.Health{Command: []string{"/check"}, Interval: time.Second, Timeout: time.Second, StartInterval: time.Second, Retries: 1}
		c.m.set(func() { c.m.health = func() (int, error) { return 1, nil } })
		run(t, c.s, sp, false)
		time.Sleep(1500 * time.Millisecond)
		c.next("boot-1")
		r := c.expect(state.Running, 1)
		if got := c.s.Health(r).Status; got != health.Unhealthy {
			t.Errorf("after the crash %q", got)
		}
		// A paused one is not checked.
		c.m.set(func() { c.m.health = func() (int, error) { t.Error("checked while paused"); return 0, nil } })
		c.m.set(func() { c.m.paused[r.ID] = true })
		time.Sleep(5 * time.Second)
		synctest.Wait()
	})
}
