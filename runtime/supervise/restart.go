package supervise

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"tero.internal/common/eventbus"
	"tero.internal/common/fault"
	"tero.internal/common/workload"
	"tero.internal/runtime/launch"
	"tero.internal/runtime/state"
)

// The back-off between an exit and the restart: it doubles from the first to
// the longest, and begins anew for a container that ran for a while.
const (
	FirstDelay   = 100 * time.Millisecond
	LongestDelay = time.Minute
	SteadyAfter  = 10 * time.Second
)

// track follows a running container until its life is over: through its exits
// and restarts.
func (s *Supervisor) track(id workload.ID, c *container) {
	s.spawn(func(ctx context.Context) {
		for {
			stop := s.checkHealth(ctx, id, c)
			exit, err := s.Sandboxes.Wait(ctx, id)
			stop()
			if ctx.Err() != nil {
				return // the next daemon hears the exit
			}
			e := state.Exit{Code: exit.Code, Signal: int(exit.Signal), OOMKilled: exit.OOMKilled, At: exit.At}
			switch {
			case err != nil:
				e = lostExit(err)
			case exit.Lost:
				e.Message = "it ended with the process that kept it; its own exit code is lost"
			}
			if !s.finish(ctx, id, c, e) || !s.relaunch(ctx, id, c) {
				return
			}
		}
	})
}

// lostCode is the exit code of a container whose own word was lost.
const lostCode = 255

func lostExit(err error) state.Exit {
	return state.Exit{Code: lostCode, At: time.Now().UTC(), Message: "its exit code is lost: " + err.Error()}
}

// finish gives back what an exited container held and records the exit with what
// follows from it, trying again until both are done or the daemon ends. It tells
// whether the container is to be launched again; if not, its life is over.
func (s *Supervisor) finish(ctx context.Context, id workload.ID, c *container, exit state.Exit) (again bool) {
	var r state.Container
	for {
		err := s.giveBack(ctx, id)
		if err == nil {
			r, err = s.State.Update(id, func(r *state.Container) {
				r.Phase, r.Exit, r.Endpoint, r.Limits, r.Health = state.Exited, &exit, nil, nil, ""
				if again = restarts(r, exit.Code != 0); again {
					schedule(r, exit.At.Sub(r.Started))
				}
			})
		}
		if err == nil || fault.KindOf(err) == fault.NotFound {
			break
		}
		s.Log.ErrorContext(ctx, "container exit not recorded yet", slog.String("container", string(id)), slog.String("error", err.Error()))
		if !pause(ctx, retryEvery) {
			return false
		}
	}
	if !again {
		s.rest(c, exit)
	}
	close(s.runOf(c).ended)
	s.Bus.Publish(eventbus.Event{
		Type: "container.exited", Container: id, Name: r.Spec.Name,
		Message:    fmt.Sprintf("%s exited with code %d", r.Spec.Name, exit.Code),
		Attributes: map[string]string{"code": fmt.Sprint(exit.Code), "oom_killed": fmt.Sprint(exit.OOMKilled)},
	})
	switch {
	case again:
		s.publishRestart(r)
		return true
	case r.Restarts.Ended != "":
		s.publishEnded(r)
	}
	s.mu.Lock()
	remove := c.remove && c.holds == 0
	s.mu.Unlock()
	if remove {
		s.autoRemove(ctx, id)
	}
	return false
}

// rest ends the container's life.
func (s *Supervisor) rest(c *container, exit state.Exit) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c.life.exit = exit
	close(c.life.over)
}

// restarts decides whether a container that ended is launched again. When only
// the bound of retries is against it, the record says so.
func restarts(r *state.Container, failed bool) bool {
	p := r.Policy()
	switch {
	case !wanted(r):
		return false
	case p.AtBoot() || r.Restarts.Now:
		return true
	case !failed:
		return false
	case p.MaxRetries > 0 && r.Restarts.Count >= p.MaxRetries:
		r.Restarts.Ended = fmt.Sprintf("it failed after %d restarts, the most that its policy allows", r.Restarts.Count)
		return false
	}
	return true
}

// wanted tells whether a container that ended may be launched again at all.
func wanted(r *state.Container) bool {
	return !r.Stopped && (r.Restarts.Now || !r.Policy().Never())
}

// schedule records when the next launch is due, after a run of that length.
func schedule(r *state.Container, ran time.Duration) {
	delay := min(max(2*r.Restarts.Delay, FirstDelay), LongestDelay)
	if ran >= SteadyAfter {
		delay = FirstDelay
	}
	r.Phase = state.Restarting
	r.Restarts.Count++
	r.Restarts.Delay, r.Restarts.Next = delay, time.Now().Add(delay).UTC()
}

func (s *Supervisor) publishRestart(r state.Container) {
	s.Bus.Publish(eventbus.Event{
		Type: "container.restarting", Container: r.ID, Name: r.Spec.Name,
		Message: fmt.Sprintf("%s restarts in %v, restart %d", r.Spec.Name, r.Restarts.Delay, r.Restarts.Count),
		Attributes: map[string]string{
			"restarts": fmt.Sprint(r.Restarts.Count), "delay": r.Restarts.Delay.String(),
			"next": r.Restarts.Next.Format(time.RFC3339Nano), "policy": r.Policy().String(),
		},
	})
}

func (s *Supervisor) publishEnded(r state.Container) {
	s.Bus.Publish(eventbus.Event{
		Type: "container.restart-ended", Container: r.ID, Name: r.Spec.Name,
		Message:    fmt.Sprintf("%s is not restarted any more: %s", r.Spec.Name, r.Restarts.Ended),
		Attributes: map[string]string{"restarts": fmt.Sprint(r.Restarts.Count), "policy": r.Policy().String()},
	})
}

// relaunch waits until a restarting container's launch is due, and launches it,
// again and again while that fails for reasons that may pass. It tells whether
// the container runs; if not, its life is over, or the daemon ends.
func (s *Supervisor) relaunch(ctx context.Context, id workload.ID, c *container) (runs bool) {
	for {
		r, err := s.State.Find(string(id))
		if err != nil {
			return false
		}
		if wanted(&r) {
			select {
			case <-ctx.Done():
				return false
			case <-c.woken:
				continue
			case <-time.After(min(time.Until(r.Restarts.Next), LongestDelay)): // clocks may have been set
			}
		}
		release, err := c.take(ctx)
		if err != nil {
			return false
		}
		phase := s.attempt(ctx, id, c)
		release()
		switch {
		case phase == state.Running:
			return true
		case phase == state.Exited || ctx.Err() != nil:
			return false
		}
	}
}

// attempt launches a restarting container, unless somebody has stopped it by
// now. It gives the phase that the container is in then.
func (s *Supervisor) attempt(ctx context.Context, id workload.ID, c *container) state.Phase {
	r, err := s.State.Find(string(id))
	if err == nil && wanted(&r) {
		if r, err = s.again(ctx, r, r.Caller, func(*state.Container) {}); err == nil {
			s.publishStart(r)
			return state.Running
		}
		if ctx.Err() != nil {
			return state.Restarting
		}
		s.publishFailure(id, r.Spec.Name, err)
	}
	failed := err
	for {
		r, err = s.State.Update(id, func(r *state.Container) {
			r.Phase = state.Exited
			switch {
			case failed == nil: // no longer wanted
			case final(failed):
				r.Restarts.Ended = "its launch was refused or cannot work: " + failed.Error()
			case restarts(r, true):
				schedule(r, 0)
			}
			r.Boot = s.Boot
		})
		if err == nil || fault.KindOf(err) == fault.NotFound {
			break
		}
		s.Log.ErrorContext(ctx, "failed restart not recorded yet", slog.String("container", string(id)), slog.String("error", err.Error()))
		if !pause(ctx, retryEvery) {
			return state.Restarting
		}
	}
	if r.Phase == state.Restarting {
		s.publishRestart(r)
		return state.Restarting
	}
	exit := state.Exit{Code: lostCode, At: time.Now().UTC(), Message: "it was removed"}
	if r.Exit != nil {
		exit = *r.Exit
	}
	s.rest(c, exit)
	if r.Restarts.Ended != "" {
		s.publishEnded(r)
	}
	return state.Exited
}

// final tells whether a launch that failed so would fail again: it was refused,
// or asks for what there is not. All else may pass.
func final(err error) bool {
	return slices.Contains([]fault.Kind{fault.Denied, fault.Invalid, fault.NotFound, fault.Unsupported, fault.Exists, fault.Corrupt}, fault.KindOf(err))
}

// again launches a container that ran before, as caller, and records that it
// runs. On an error it does not, and its record is as it was. The caller has
// taken the container.
func (s *Supervisor) again(ctx context.Context, r state.Container, caller workload.Principal, change func(*state.Container)) (state.Container, error) {
	asked := r.Asked
	if asked.Name == "" { // recorded by a version that could not launch again
		asked = r.Spec
	}
	if err := s.giveBack(ctx, r.ID); err != nil { // an undo that failed before
		return r, err
	}
	var l *launch.Launched
	l, err := s.Launcher.Again(ctx, caller, r.ID, asked, r.Image.Digest)
	if err != nil {
		return r, launchFault(r.Spec.Name, err)
	}
	defer l.Release()
	s.mu.Lock()
	if c := s.live[r.ID]; c != nil {
		c.run = newRun()
	}
	s.mu.Unlock()
	record, err := s.State.Update(r.ID, func(r *state.Container) {
		change(r)
		r.Caller, r.Asked = caller, asked
		s.launched(r, l)
	})
	if err != nil { // nobody will know it: it must not run
		end, cancel := context.WithTimeout(context.WithoutCancel(ctx), removeTimeout)
		defer cancel()
		return r, errors.Join(err, s.Sandboxes.End(end, r.ID), s.giveBack(end, r.ID))
	}
	return record, nil
}

// Start launches an exited container again, as caller. One that runs is left as
// it is, and of one that waits for its restart, the wait is over.
func (s *Supervisor) Start(ctx context.Context, caller workload.Principal, key string) (state.Container, error) {
	r, c, release, err := s.claim(ctx, key)
	if err != nil {
		return r, err
	}
	defer release()
	switch {
	case r.Phase == state.Running:
		return r, nil
	case r.Phase == state.Restarting && r.Stopped:
		return r, fault.New(fault.Conflict, "container %q is being stopped", r.Spec.Name).WithHint("start it when it has exited")
	case r.Phase == state.Restarting:
		r, err = s.State.Update(r.ID, func(r *state.Container) { r.Restarts.Next = time.Now().UTC() })
		c.wake()
		return r, err
	case r.Asked.AutoRemove:
		return r, fault.New(fault.Conflict, "container %q is about to be removed, as it was asked for", r.Spec.Name).WithHint("run it anew")
	}
	r, err = s.again(ctx, r, caller, func(r *state.Container) { r.Stopped, r.Restarts = false, state.Restarts{} })
	if err != nil {
		s.publishFailure(r.ID, r.Spec.Name, err)
		return r, err
	}
	s.mu.Lock()
	c.life = &life{over: make(chan struct{})}
	s.mu.Unlock()
	s.track(r.ID, c)
	s.publishStart(r)
	return r, nil
}

// Restart stops a container that runs, as Stop does, and starts it.
func (s *Supervisor) Restart(ctx context.Context, caller workload.Principal, key string, timeout *time.Duration) (state.Container, error) {
	r, err := s.State.Find(key)
	if err != nil {
		return r, err
	}
	if r.Asked.AutoRemove {
		return r, fault.New(fault.Conflict, "container %q is removed when it ends, and cannot start again", r.Spec.Name).WithHint("run it anew")
	}
	if _, err := s.Stop(ctx, string(r.ID), timeout); err != nil {
		return r, err
	}
	return s.Start(ctx, caller, string(r.ID))
}
