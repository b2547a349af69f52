package supervise_test

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"tero.internal/common/fault"
	"tero.internal/common/workload"
	"tero.internal/runtime/sandbox"
	"tero.internal/runtime/state"
	"tero.internal/runtime/supervise"
)

// crash is a daemon that is killed, and the one after it.
type crash struct {
	t   *testing.T
	m   *machine
	dir string
	st  *state.Store
	s   *supervise.Supervisor
	// written is the journal as the killed daemon left it; nil when none was killed.
	written []byte
}

func newCrash(t *testing.T) *crash {
	t.Helper()
	c := &crash{t: t, m: newMachine(), dir: t.TempDir()}
	var err error
	if c.st, err = state.Open(c.dir); err != nil {
		t.Fatal(err)
	}
	c.s = open(t, c.m, c.st)
	return c
}

func (c *crash) journal() string { return filepath.Join(c.dir, "containers.jsonl") }

// kill takes down what the daemon has written so far: whatever it does from now
// on, it has not done.
func (c *crash) kill() {
	c.t.Helper()
	b, err := os.ReadFile(c.journal())
	if err != nil {
		c.t.Error(err)
	}
	c.written = b
}

// next gives the daemon after a kill, in that run of the machine.
func (c *crash) next(boot string) {
	c.t.Helper()
	if c.written == nil {
		c.kill()
	}
	c.s.Close()
	if err := c.st.Close(); err != nil {
		c.t.Fatal(err)
	}
	if err := os.WriteFile(c.journal(), c.written, 0o600); err != nil {
		c.t.Fatal(err)
	}
	c.written = nil
	var err error
	if c.st, err = state.Open(c.dir); err != nil {
		c.t.Fatal(err)
	}
	c.m.mu.Lock()
	clear(c.m.enrolled) // they are in the daemon's memory
	c.m.mu.Unlock()
	c.s = openAt(c.t, c.m, c.st, boot)
	synctest.Wait()
}

func (c *crash) end() {
	c.s.Close()
	_ = c.st.Close()
}

// reboot ends everything that ran, as a machine that goes down does.
func (c *crash) reboot() {
	c.kill()
	c.m.mu.Lock()
	for id, b := range c.m.boxes {
		if b.phase == sandbox.Running {
			b.end(sandbox.Exit{Code: 137})
		}
		delete(c.m.boxes, id)
	}
	c.m.mu.Unlock()
	c.next("boot-2")
}

// expect checks the container's phase, how often it was launched, and whether
// machine and record agree.
func (c *crash) expect(want state.Phase, launches int) state.Container {
	c.t.Helper()
	r, err := c.s.Find("web")
	if err != nil {
		c.t.Fatal(err)
	}
	c.m.mu.Lock()
	defer c.m.mu.Unlock()
	box := c.m.boxes[r.ID]
	if r.Phase != want || c.m.launches != launches {
		c.t.Errorf("%s after %d launches, want %s after %d", r.Phase, c.m.launches, want, launches)
	}
	if runs := box != nil && box.phase == sandbox.Running; runs != (want == state.Running) || runs != c.m.enrolled[r.ID] {
		c.t.Errorf("%s; its sandbox runs: %v, its identity is enrolled: %v", r.Phase, runs, c.m.enrolled[r.ID])
	}
	return r
}

// TestKilledAtAnyPoint has the rows of the table in the package's comment.
func TestKilledAtAnyPoint(t *testing.T) {
	caller := workload.Principal{Local: true}
	for name, f := range map[string]func(t *testing.T, c *crash){
		"in a launch": func(t *testing.T, c *crash) {
			c.m.set(func() { c.m.onRun = func(workload.ID) { c.kill() } })
			run(t, c.s, restarting("always"), false)
			c.next("boot-1")
			if _, err := c.s.Find("web"); fault.KindOf(err) != fault.NotFound || c.m.left() != [3]int{} {
				t.Errorf("%v, left %v", err, c.m.left())
			}
		},
		"while it runs": func(t *testing.T, c *crash) {
			run(t, c.s, restarting("always"), false)
			c.next("boot-1")
			c.expect(state.Running, 1)
		},
		"after an exit, before its record": func(t *testing.T, c *crash) {
			r, _ := run(t, c.s, restarting("always"), false)
			c.kill()
			c.m.exit(r.ID, 3)
			c.next("boot-1")
			if r := c.expect(state.Restarting, 1); r.Exit.Code != 3 {
				t.Errorf("%+v", r.Exit)
			}
			time.Sleep(time.Second)
			synctest.Wait()
			c.expect(state.Running, 2)
		},
		"in the wait for a restart": func(t *testing.T, c *crash) {
			r, _ := run(t, c.s, restarting("always"), false)
			for range 5 {
				c.m.exit(r.ID, 3)
				time.Sleep(2 * time.Second)
				synctest.Wait()
			}
			c.m.exit(r.ID, 3) // it is due in 3.2 s
			synctest.Wait()
			c.kill()
			time.Sleep(time.Second)
			c.next("boot-1")
			c.expect(state.Restarting, 6)
			time.Sleep(2100 * time.Millisecond)
			synctest.Wait()
			c.expect(state.Restarting, 6)
			time.Sleep(200 * time.Millisecond)
			synctest.Wait()
			c.expect(state.Running, 7)
		},
		"in the launch of a restart": func(t *testing.T, c *crash) {
			r, _ := run(t, c.s, restarting("always"), false)
			c.m.set(func() { c.m.onRun = func(workload.ID) { c.kill(); c.m.set(func() { c.m.onRun = nil }) } })
			c.m.exit(r.ID, 3)
			time.Sleep(time.Second)
			synctest.Wait()
			c.next("boot-1")
			c.expect(state.Running, 3)
		},
		"in a start of an exited one": func(t *testing.T, c *crash) {
			r, _ := run(t, c.s, restarting("on-failure"), false)
			c.m.exit(r.ID, 0)
			synctest.Wait()
			c.m.set(func() { c.m.onRun = func(workload.ID) { c.kill() } })
			if _, err := c.s.Start(t.Context(), caller, "web"); err != nil {
				t.Fatal(err)
			}
			c.next("boot-1")
			c.expect(state.Exited, 2)
		},
		"after stopped was recorded, before the signal": func(t *testing.T, c *crash) {
			r, _ := run(t, c.s, restarting("always"), false)
			c.m.set(func() { c.m.onSignal = func() { c.kill(); c.m.set(func() { c.m.onSignal = nil }) } })
			c.m.set(func() { c.m.ignore = true })
			ctx, cancel := context.WithCancel(t.Context())
			go func() { _, _ = c.s.Stop(ctx, "web", nil) }()
			synctest.Wait()
			cancel()
			c.m.set(func() { c.m.ignore = false })
			c.next("boot-1")
			c.expect(state.Running, 1)
			c.m.exit(r.ID, 5)
			time.Sleep(time.Minute)
			synctest.Wait()
			c.expect(state.Exited, 1)
		},
		"after the signal, before the exit": func(t *testing.T, c *crash) {
			run(t, c.s, restarting("always"), false)
			c.m.set(func() { c.m.onSignal = func() { c.kill(); c.m.set(func() { c.m.onSignal = nil }) } })
			if _, err := c.s.Stop(t.Context(), "web", nil); err != nil {
				t.Fatal(err)
			}
			c.next("boot-1")
			time.Sleep(time.Minute)
			synctest.Wait()
			c.expect(state.Exited, 1)
		},
		"in a restart, between stop and start": func(t *testing.T, c *crash) {
			run(t, c.s, restarting("always"), false)
			c.m.set(func() { c.m.onEnd = func() { c.kill(); c.m.set(func() { c.m.onEnd = nil }) } })
			if _, err := c.s.Restart(t.Context(), caller, "web", nil); err != nil {
				t.Fatal(err)
			}
			c.next("boot-1")
			time.Sleep(time.Minute)
			synctest.Wait()
			c.expect(state.Exited, 2)
		},
		"while one is paused": func(t *testing.T, c *crash) {
			r, _ := run(t, c.s, restarting("always"), false)
			if err := c.s.Pause(t.Context(), "web"); err != nil {
				t.Fatal(err)
			}
			c.next("boot-1")
			c.expect(state.Running, 1)
			if paused, err := c.s.Paused(t.Context(), r); err != nil || !paused {
				t.Errorf("paused %v, %v", paused, err)
			}
		},
		"in an update": func(t *testing.T, c *crash) {
			r, _ := run(t, c.s, restarting("always"), false)
			c.m.set(func() { c.m.onUpdate = func() { c.kill(); c.m.set(func() { c.m.onUpdate = nil }) } })
			more := supervise.Change{Resources: workload.Resources{Pids: 77}}
			if _, err := c.s.Update(t.Context(), caller, "web", more); err != nil {
				t.Fatal(err)
			}
			c.next("boot-1")
			if r := c.expect(state.Running, 1); r.Limits != nil || c.m.limits[r.ID].Pids != 77 {
				t.Errorf("recorded %+v, in the kernel %+v", r.Limits, c.m.limits[r.ID])
			}
			if _, err := c.s.Update(t.Context(), caller, string(r.ID), more); err != nil {
				t.Fatal(err)
			}
			if r := c.expect(state.Running, 1); r.Limits == nil || r.Limits.Pids != 77 || r.Spec.Resources.Pids == 77 {
				t.Errorf("present limits %+v, launched %+v", r.Limits, r.Spec.Resources)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := newCrash(t)
				defer c.end()
				f(t, c)
			})
		})
	}
}

// TestMachineStartedAnew has the second half of the table.
func TestMachineStartedAnew(t *testing.T) {
	const no, onFailure, always, unlessStopped = "no", "on-failure", "always", "unless-stopped"
	ends := func(code int) func(*testing.T, *crash, workload.ID) {
		return func(_ *testing.T, c *crash, id workload.ID) {
			c.m.exit(id, code)
			synctest.Wait()
		}
	}
	stops := func(t *testing.T, c *crash, _ workload.ID) {
		if _, err := c.s.Stop(t.Context(), "web", nil); err != nil {
			t.Error(err)
		}
	}
	refused := func(_ *testing.T, c *crash, id workload.ID) {
		c.m.set(func() { c.m.again = fault.New(fault.Denied, "no") })
		c.m.exit(id, 1)
		time.Sleep(time.Second)
		synctest.Wait()
		c.m.set(func() { c.m.again = nil })
	}
	for name, row := range map[string]struct {
		policy string
		before func(*testing.T, *crash, workload.ID)
		want   state.Phase
	}{
		"running, no":                         {no, nil, state.Exited},
		"running, on-failure":                 {onFailure, nil, state.Running},
		"running, always":                     {always, nil, state.Running},
		"running, unless-stopped":             {unlessStopped, nil, state.Running},
		"restarting":                          {onFailure, ends(1), state.Running},
		"exited, no":                          {no, ends(1), state.Exited},
		"exited, on-failure":                  {onFailure, ends(0), state.Exited},
		"stopped, always":                     {always, stops, state.Running},
		"stopped, unless-stopped":             {unlessStopped, stops, state.Exited},
		"refused when restarted, unless-stop": {unlessStopped, refused, state.Running},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := newCrash(t)
				defer c.end()
				r, _ := run(t, c.s, restarting(row.policy), false)
				if row.before != nil {
					row.before(t, c, r.ID)
				}
				// Without a new run of the machine, what is at rest stays so.
				launches := c.m.count()
				if got, _ := c.s.Find("web"); got.Phase == state.Exited {
					c.next("boot-1")
					time.Sleep(time.Minute)
					synctest.Wait()
					c.expect(state.Exited, launches)
				}
				c.reboot()
				time.Sleep(time.Minute)
				synctest.Wait()
				if row.want == state.Running {
					launches++
				}
				c.expect(row.want, launches)
				c.next("boot-2")
				c.expect(row.want, launches)
			})
		})
	}
}
