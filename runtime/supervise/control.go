package supervise

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"tero.internal/common/eventbus"
	"tero.internal/common/fault"
	"tero.internal/common/workload"
	"tero.internal/runtime/state"
)

// Find gives the record of the container with that name, id or unique prefix.
func (s *Supervisor) Find(key string) (state.Container, error) { return s.State.Find(key) }

// Running gives the record of a container that runs; Conflict otherwise.
func (s *Supervisor) Running(key string) (state.Container, error) {
	r, err := s.State.Find(key)
	if err != nil {
		return r, err
	}
	switch r.Phase {
	case state.Running:
		return r, nil
	case state.Creating:
		return r, fault.New(fault.Conflict, "container %q is still being launched", r.Spec.Name)
	case state.Restarting:
		return r, fault.New(fault.Conflict, "container %q has exited and waits for its restart", r.Spec.Name).
			WithHint("\"tero start %s\" ends the wait, \"tero stop %s\" the restarting", r.Spec.Name, r.Spec.Name)
	default:
		return r, fault.New(fault.Conflict, "container %q has exited", r.Spec.Name).
			WithHint("see \"tero logs %s\"", r.Spec.Name)
	}
}

// List gives the records, oldest first.
func (s *Supervisor) List() []state.Container { return s.State.List() }

// Hold keeps an auto-removed container until release is called.
func (s *Supervisor) Hold(id workload.ID) (release func()) {
	c := s.of(id)
	if c == nil {
		return func() {}
	}
	return s.hold(c, id)
}

// lifeOf gives the container's present or last life, or nil when it is unknown.
func (s *Supervisor) lifeOf(id workload.ID) *life {
	s.mu.Lock()
	defer s.mu.Unlock()
	if c := s.live[id]; c != nil {
		return c.life
	}
	return nil
}

// Exited gives a channel that is closed when the container has exited and is
// not restarted.
func (s *Supervisor) Exited(id workload.ID) <-chan struct{} {
	if l := s.lifeOf(id); l != nil {
		return l.over
	}
	closed := make(chan struct{})
	close(closed)
	return closed
}

// Wait gives the exit after which the container is not restarted, when there is one.
func (s *Supervisor) Wait(ctx context.Context, id workload.ID) (state.Exit, error) {
	l := s.lifeOf(id)
	if l == nil {
		return state.Exit{}, fault.New(fault.NotFound, "there is no container %s", id.Short())
	}
	select {
	case <-l.over:
		return l.exit, nil
	case <-ctx.Done():
		return state.Exit{}, ctx.Err()
	}
}

// Kill sends a signal ("SIGKILL" or "KILL" or "9") to the first process. Who
// sends SIGKILL or the stop signal wants the container to end: it is let go on
// when it is paused, and not restarted. Other signals reach a paused container
// when it goes on.
func (s *Supervisor) Kill(ctx context.Context, key, signal string) error {
	sig, err := ParseSignal(signal)
	if err != nil {
		return err
	}
	r, err := s.Running(key)
	if err != nil {
		return err
	}
	stop, err := ParseSignal(r.Spec.StopSignal)
	ends := sig == unix.SIGKILL || err == nil && sig == stop
	if ends {
		if err := s.wantStopped(r); err != nil {
			return err
		}
	}
	if err := s.Sandboxes.Signal(ctx, r.ID, sig); err != nil || !ends {
		return err
	}
	return s.thaw(ctx, r.ID)
}

// wantStopped records that the container shall end and stay so. Without a
// restart policy that says nothing new.
func (s *Supervisor) wantStopped(r state.Container) error {
	if r.Stopped || r.Policy().Never() && !r.Restarts.Now && r.Phase != state.Restarting {
		return nil
	}
	_, err := s.State.Update(r.ID, func(r *state.Container) { r.Stopped = true })
	if c := s.of(r.ID); c != nil {
		c.wake()
	}
	return err
}

// signal sends sig to a container that may be exiting this moment, and lets it
// go on when it is paused.
func (s *Supervisor) signal(ctx context.Context, id workload.ID, sig unix.Signal) error {
	err := s.Sandboxes.Signal(ctx, id, sig)
	if errors.Is(err, unix.ESRCH) || fault.KindOf(err) == fault.NotFound {
		return nil // its exit is on the way
	}
	return errors.Join(err, s.thaw(ctx, id))
}

// thaw lets a container go on that may be paused, or gone.
func (s *Supervisor) thaw(ctx context.Context, id workload.ID) error {
	err := s.Processes.Unpause(ctx, id)
	if kind := fault.KindOf(err); kind == fault.NotFound || kind == fault.Conflict {
		return nil
	}
	return err
}

// ParseSignal reads "SIGTERM", "TERM" or "15".
func ParseSignal(name string) (unix.Signal, error) {
	upper := strings.ToUpper(name)
	if sig := unix.SignalNum(upper); sig != 0 {
		return sig, nil
	}
	if sig := unix.SignalNum("SIG" + upper); sig != 0 {
		return sig, nil
	}
	var n int
	if _, err := fmt.Sscanf(name, "%d", &n); err == nil && n > 0 && n <= 64 {
		return unix.Signal(n), nil
	}
	return 0, fault.New(fault.Invalid, "there is no signal %q", name).WithHint("use a name such as SIGTERM or a number from 1 to 64")
}

// removeTimeout is how long what is left of a container may take to be removed.
// A process that waits in the kernel, for a dead disk or network file system, can
// take for ever, which is then told and not waited for; see kill.
const removeTimeout = 30 * time.Second

// Stop sends the container's stop signal, and SIGKILL after timeout; nil is the
// container's own, 0 sends SIGKILL alone, and a negative one waits for ever. It
// ends the restarting, too. Stopping an exited container is no error.
func (s *Supervisor) Stop(ctx context.Context, key string, timeout *time.Duration) (state.Exit, error) {
	r, err := s.State.Find(key)
	if err != nil {
		return state.Exit{}, err
	}
	c := s.of(r.ID)
	if r.Phase == state.Creating || c == nil {
		return state.Exit{}, fault.New(fault.Conflict, "container %q is still being launched, or removed", r.Spec.Name)
	}
	release := s.hold(c, r.ID) // so that its exit can still be told
	defer release()
	if err := s.wantStopped(r); err != nil {
		return state.Exit{}, err
	}
	settled, err := c.take(ctx) // a launch that is under way comes to its end first
	if err != nil {
		return state.Exit{}, err
	}
	r, err = s.State.Find(string(r.ID))
	settled()
	switch {
	case err != nil:
		return state.Exit{}, err
	case r.Phase == state.Exited:
		return *r.Exit, nil
	case r.Phase == state.Restarting: // whoever waits there has been told
		return s.Wait(ctx, r.ID)
	}
	patience := r.Spec.StopPatience()
	if timeout != nil {
		patience = *timeout
	}
	if err := s.end(ctx, r, s.runOf(c), patience); err != nil {
		return state.Exit{}, err
	}
	return s.Wait(ctx, r.ID)
}

// end ends one run of a container: by its stop signal, and by SIGKILL when it has
// not obeyed for that long (0: at once, negative: never).
func (s *Supervisor) end(ctx context.Context, r state.Container, run *run, patience time.Duration) error {
	if patience != 0 {
		sig, err := ParseSignal(r.Spec.StopSignal)
		if err != nil {
			return err
		}
		if err := s.tell(ctx, r.ID, run, sig); err != nil {
			return err
		}
		if over, err := run.wait(ctx, patience); over || err != nil {
			return err
		}
	}
	return s.kill(ctx, r, run)
}

// tell sends a signal to one run of a container, and none to a later one.
func (s *Supervisor) tell(ctx context.Context, id workload.ID, run *run, sig unix.Signal) error {
	c := s.of(id)
	if c == nil {
		return nil
	}
	release, err := c.take(ctx)
	if err != nil {
		return err
	}
	defer release()
	if s.runOf(c) != run {
		return nil
	}
	return s.signal(ctx, id, sig)
}

// Remove removes an exited container, or with force a running one after
// killing it. It gives the record as it was.
func (s *Supervisor) Remove(ctx context.Context, key string, force bool) (state.Container, error) {
	r, err := s.State.Find(key)
	if err != nil {
		return r, err
	}
	switch {
	case r.Phase == state.Creating:
		return r, fault.New(fault.Conflict, "container %q is still being launched", r.Spec.Name)
	case r.Phase != state.Exited && !force:
		return r, fault.New(fault.Conflict, "container %q is %s", r.Spec.Name, r.Phase).
			WithHint("stop it first with \"tero stop %s\", or kill and remove it with \"tero rm -f %s\"", r.Spec.Name, r.Spec.Name)
	case r.Phase != state.Exited:
		release := s.Hold(r.ID)
		defer release()
		now := time.Duration(0)
		if _, err := s.Stop(ctx, string(r.ID), &now); err != nil {
			return r, err
		}
	}
	return r, s.removeExited(ctx, r.ID)
}

// removeExited removes what is left of an exited container; it is nil for one
// that is gone. Removal takes steps, and what is half removed is no container
// any more: so a restart in between goes on with it.
func (s *Supervisor) removeExited(ctx context.Context, id workload.ID) error {
	c := s.of(id)
	if c == nil {
		return nil
	}
	release, err := c.take(ctx)
	if err != nil {
		return err
	}
	defer release()
	r, err := s.State.Find(string(id))
	if fault.KindOf(err) == fault.NotFound {
		return nil
	}
	if err != nil {
		return err
	}
	if r.Phase != state.Exited {
		return fault.New(fault.Conflict, "container %q was started meanwhile", r.Spec.Name)
	}
	if err := s.State.Removing(id); err != nil {
		return err
	}
	bounded, cancel := context.WithTimeout(ctx, removeTimeout)
	defer cancel()
	if err := s.Sandboxes.Destroy(bounded, id); err != nil {
		if errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil {
			err = fault.New(fault.Unavailable, "container %q cannot be removed: a process of it does not end: %w", r.Spec.Name, err).
				WithHint("it waits in the kernel, for a disk or a network file system, say; remove the container when that answers")
		}
		return err
	}
	if err := s.State.Remove(id); err != nil {
		return err
	}
	s.mu.Lock()
	delete(s.live, id)
	s.mu.Unlock()
	s.Bus.Publish(eventbus.Event{Type: "container.removed", Container: id, Name: r.Spec.Name, Message: r.Spec.Name + " removed"})
	return nil
}

// RemoveAll kills and removes every container and gives their names.
func (s *Supervisor) RemoveAll(ctx context.Context) ([]string, error) {
	var names []string
	var errs []error
	for _, r := range s.State.List() {
		if _, err := s.Remove(ctx, string(r.ID), true); err != nil && fault.KindOf(err) != fault.NotFound {
			errs = append(errs, err)
			continue
		}
		names = append(names, r.Spec.Name)
	}
	return names, errors.Join(errs...)
}
