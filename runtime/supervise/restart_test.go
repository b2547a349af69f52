package supervise_test

import (
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"tero.internal/common/eventbus"
	"tero.internal/common/fault"
	"tero.internal/common/workload"
	"tero.internal/runtime/state"
	"tero.internal/runtime/supervise"
)

// bubble runs f with a supervisor on a fake clock.
func bubble(t *testing.T, f func(t *testing.T, m *machine, s *supervise.Supervisor)) {
	t.Helper()
	st := openState(t)
	synctest.Test(t, func(t *testing.T) {
		m := newMachine()
		s := open(t, m, st)
		defer s.Close()
		f(t, m, s)
	})
}

func restarting(policy string) workload.Spec {
	sp := spec("web")
	var err error
	if sp.Restart, err = workload.ParseRestart(policy); err != nil {
		panic(err)
	}
	return sp
}

func TestRestartPolicies(t *testing.T) {
	for name, c := range map[string]struct {
		policy string
		code   int
		want   bool
	}{
		"no":                         {"no", 1, false},
		"on-failure, success":        {"on-failure", 0, false},
		"on-failure, failure":        {"on-failure", 1, true},
		"on-failure:1, failure":      {"on-failure:1", 1, true},
		"always, success":            {"always", 0, true},
		"always, failure":            {"always", 3, true},
		"unless-stopped, success":    {"unless-stopped", 0, true},
		"unless-stopped, by failure": {"unless-stopped", 9, true},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, m *machine, s *supervise.Supervisor) {
				r, _ := run(t, s, restarting(c.policy), false)
				m.exit(r.ID, c.code)
				synctest.Wait()
				got, err := s.Find("web")
				if err != nil {
					t.Fatal(err)
				}
				want := state.Exited
				if c.want {
					want = state.Restarting
				}
				if got.Phase != want || got.Exit == nil || got.Exit.Code != c.code {
					t.Fatalf("%s with exit %+v, want %s", got.Phase, got.Exit, want)
				}
				time.Sleep(supervise.FirstDelay)
				synctest.Wait()
				if got, _ := s.Find("web"); (got.Phase == state.Running) != c.want || got.ID != r.ID {
					t.Errorf("after the back-off it is %s", got.Phase)
				}
				if got := m.count(); (got == 2) != c.want {
					t.Errorf("%d launches", got)
				}
			})
		})
	}
}

// TestBackOff is the sequence of delays.
func TestBackOff(t *testing.T) {
	bubble(t, func(t *testing.T, m *machine, s *supervise.Supervisor) {
		r, _ := run(t, s, restarting("always"), false)
		var delays []time.Duration
		for range 12 {
			ended := time.Now()
			m.exit(r.ID, 1)
			launched := make(chan struct{})
			m.set(func() { m.onRun = func(workload.ID) { close(launched) } })
			<-launched
			delays = append(delays, time.Since(ended))
			synctest.Wait()
		}
		want := []time.Duration{
			100 * time.Millisecond, 200 * time.Millisecond, 400 * time.Millisecond, 800 * time.Millisecond,
			1600 * time.Millisecond, 3200 * time.Millisecond, 6400 * time.Millisecond, 12800 * time.Millisecond,
			25600 * time.Millisecond, 51200 * time.Millisecond, time.Minute, time.Minute,
		}
		if diff := cmp.Diff(want, delays); diff != "" {
			t.Errorf("delays (-want +got):\n%s", diff)
		}
		m.set(func() { m.onRun = nil })
		time.Sleep(supervise.SteadyAfter)
		m.exit(r.ID, 0)
		synctest.Wait()
		if got, _ := s.Find("web"); got.Restarts.Delay != supervise.FirstDelay || got.Restarts.Count != 13 {
			t.Errorf("after a steady run: %+v", got.Restarts)
		}
	})
}

func TestRetriesAreBounded(t *testing.T) {
	bubble(t, func(t *testing.T, m *machine, s *supervise.Supervisor) {
		sub := s.Bus.Subscribe()
		defer sub.Close()
		r, _ := run(t, s, restarting("on-failure:2"), false)
		for range 3 {
			m.exit(r.ID, 7)
			time.Sleep(time.Second)
			synctest.Wait()
		}
		exit, err := s.Wait(t.Context(), r.ID)
		if err != nil || exit.Code != 7 {
			t.Errorf("Wait = %+v, %v", exit, err)
		}
		got, _ := s.Find("web")
		if got.Phase != state.Exited || m.count() != 3 || !strings.Contains(got.Restarts.Ended, "after 2 restarts") {
			t.Errorf("%s after %d launches: %+v", got.Phase, m.count(), got.Restarts)
		}
		if diff := cmp.Diff([]string{
			"container.started", "container.exited", "container.restarting", "container.started", "container.exited",
			"container.restarting", "container.started", "container.exited", "container.restart-ended",
		}, types(t, sub, 9)); diff != "" {
			t.Errorf("events (-want +got):\n%s", diff)
		}
	})
}

// types gives the types of the next n events.
func types(t *testing.T, sub *eventbus.Subscription, n int) (list []string) {
	t.Helper()
	for range n {
		e, _, err := sub.Next(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, e.Type)
	}
	return list
}

// TestRefusedRestart ends the restarting; one that failed for a reason that may
// pass is tried again.
func TestRefusedRestart(t *testing.T) {
	for name, c := range map[string]struct {
		err   error
		final bool
	}{
		"policy":  {fault.New(fault.Denied, "policy says no"), true},
		"image":   {fault.New(fault.NotFound, "no such image"), true},
		"memory":  {fault.New(fault.Exhausted, "no memory"), false},
		"a crash": {errors.New("netlink is busy"), false},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, m *machine, s *supervise.Supervisor) {
				r, _ := run(t, s, restarting("always"), false)
				m.set(func() { m.again = c.err })
				m.exit(r.ID, 1)
				time.Sleep(250 * time.Millisecond) // two are due by then
				synctest.Wait()
				got, _ := s.Find("web")
				if c.final {
					if got.Phase != state.Exited || !strings.Contains(got.Restarts.Ended, c.err.Error()) || got.Restarts.Count != 1 {
						t.Errorf("%s, %+v", got.Phase, got.Restarts)
					}
					if exit, err := s.Wait(t.Context(), r.ID); err != nil || exit.Code != 1 {
						t.Errorf("Wait = %+v, %v", exit, err)
					}
					return
				}
				if got.Phase != state.Restarting || got.Restarts.Count != 2 {
					t.Errorf("%s, %+v", got.Phase, got.Restarts)
				}
				m.set(func() { m.again = nil })
				time.Sleep(time.Second)
				synctest.Wait()
				if got, _ := s.Find("web"); got.Phase != state.Running {
					t.Errorf("%s when the reason had passed", got.Phase)
				}
			})
		})
	}
}

// TestStopEndsTheRestarting stops a container in each phase.
func TestStopEndsTheRestarting(t *testing.T) {
	for name, before := range map[string]func(m *machine, id workload.ID){
		"running":    func(*machine, workload.ID) {},
		"restarting": func(m *machine, id workload.ID) { m.exit(id, 3) },
	} {
		for verb, stop := range map[string]func(t *testing.T, s *supervise.Supervisor) error{
			"stop": func(t *testing.T, s *supervise.Supervisor) error {
				_, err := s.Stop(t.Context(), "web", nil)
				return err
			},
			"remove": func(t *testing.T, s *supervise.Supervisor) error {
				_, err := s.Remove(t.Context(), "web", true)
				return err
			},
		} {
			t.Run(verb+" "+name, func(t *testing.T) {
				bubble(t, func(t *testing.T, m *machine, s *supervise.Supervisor) {
					r, _ := run(t, s, restarting("always"), false)
					before(m, r.ID)
					synctest.Wait()
					if err := stop(t, s); err != nil {
						t.Fatal(err)
					}
					time.Sleep(time.Minute)
					synctest.Wait()
					if m.count() != 1 {
						t.Errorf("launched %d times", m.count())
					}
					if got, err := s.Find("web"); verb == "stop" && (got.Phase != state.Exited || !got.Stopped) || verb == "remove" && fault.KindOf(err) != fault.NotFound {
						t.Errorf("%s, stopped %v, %v", got.Phase, got.Stopped, err)
					}
				})
			})
		}
	}
}

// TestStopDuringALaunch waits for the launch, then ends what it made.
func TestStopDuringALaunch(t *testing.T) {
	bubble(t, func(t *testing.T, m *machine, s *supervise.Supervisor) {
		r, _ := run(t, s, restarting("always"), false)
		hold, launching := make(chan struct{}), make(chan struct{})
		m.set(func() { m.onRun = func(workload.ID) { close(launching); <-hold } })
		m.exit(r.ID, 1)
		<-launching
		stopped := make(chan error, 1)
		go func() {
			_, err := s.Stop(t.Context(), "web", nil)
			stopped <- err
		}()
		synctest.Wait()
		close(hold)
		if err := <-stopped; err != nil {
			t.Fatal(err)
		}
		if got, _ := s.Find("web"); got.Phase != state.Exited || m.count() != 2 {
			t.Errorf("%s after %d launches", got.Phase, m.count())
		}
	})
}

func TestKillEndsTheRestartingWhenItEndsTheContainer(t *testing.T) {
	for signal, ends := range map[string]bool{"KILL": true, "TERM": true, "HUP": false} {
		t.Run(signal, func(t *testing.T) {
			bubble(t, func(t *testing.T, m *machine, s *supervise.Supervisor) {
				r, _ := run(t, s, restarting("always"), false)
				m.set(func() { m.paused[r.ID] = true })
				if err := s.Kill(t.Context(), "web", signal); err != nil {
					t.Fatal(err)
				}
				time.Sleep(time.Second)
				synctest.Wait()
				if got, _ := s.Find("web"); (got.Phase == state.Exited) != ends {
					t.Errorf("%s", got.Phase)
				}
				if m.paused[r.ID] == ends {
					t.Errorf("paused %v", m.paused[r.ID])
				}
			})
		})
	}
}

func TestStartAndRestart(t *testing.T) {
	bubble(t, func(t *testing.T, m *machine, s *supervise.Supervisor) {
		r, _ := run(t, s, restarting("on-failure:3"), false)
		caller := workload.Principal{Local: true, UID: 7}
		if got, err := s.Start(t.Context(), caller, "web"); err != nil || got.Phase != state.Running || m.count() != 1 {
			t.Errorf("start of a running one: %s, %v", got.Phase, err)
		}
		m.exit(r.ID, 1)
		synctest.Wait()
		if _, err := s.Start(t.Context(), caller, "web"); err != nil { // the wait is over
			t.Fatal(err)
		}
		synctest.Wait()
		if got, _ := s.Find("web"); got.Phase != state.Running || got.Restarts.Count != 1 {
			t.Errorf("%s, %+v", got.Phase, got.Restarts)
		}
		got, err := s.Restart(t.Context(), caller, "web", nil)
		if err != nil || got.Phase != state.Running || got.Restarts.Count != 0 || got.Stopped || got.Caller != caller || m.count() != 3 {
			t.Errorf("%+v, %v after %d launches", got, err, m.count())
		}
		if _, err := s.Stop(t.Context(), "web", nil); err != nil {
			t.Fatal(err)
		}
		m.set(func() { m.again = fault.New(fault.Denied, "no") })
		if _, err := s.Start(t.Context(), caller, "web"); fault.KindOf(err) != fault.Denied {
			t.Errorf("%v", err)
		}
		if got, _ := s.Find("web"); got.Phase != state.Exited || !got.Stopped {
			t.Errorf("after a refused start %s, stopped %v", got.Phase, got.Stopped)
		}
		m.set(func() { m.again = nil })
		if _, err := s.Start(t.Context(), caller, "web"); err != nil {
			t.Fatal(err)
		}
		waited := make(chan state.Exit, 1)
		go func() {
			exit, _ := s.Wait(t.Context(), r.ID)
			waited <- exit
		}()
		synctest.Wait()
		m.exit(r.ID, 0)
		if exit := <-waited; exit.Code != 0 {
			t.Errorf("%+v", exit)
		}
	})
}

// TestStopIsBounded is about a process that waits in the kernel.
func TestStopIsBounded(t *testing.T) {
	for _, timeout := range []*time.Duration{nil, seconds(0), seconds(3)} {
		bubble(t, func(t *testing.T, m *machine, s *supervise.Supervisor) {
			m.set(func() { m.unkillable = true })
			sp := spec("web")
			five := int32(5)
			sp.StopTimeout = &five
			run(t, s, sp, false)
			began := time.Now()
			_, err := s.Stop(t.Context(), "web", timeout)
			want := 15 * time.Second
			if timeout != nil {
				want = 10*time.Second + *timeout
			}
			if fault.KindOf(err) != fault.Unavailable || !strings.Contains(err.Error(), "was killed") || time.Since(began) != want {
				t.Errorf("%v after %v, want a fault after %v", err, time.Since(began), want)
			}
			m.set(func() { m.unkillable = false })
			if exit, err := s.Stop(t.Context(), "web", seconds(0)); err != nil || exit.Signal != int(unix.SIGKILL) {
				t.Errorf("when it can be killed: %+v, %v", exit, err)
			}
		})
	}
}
