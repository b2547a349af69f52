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
	default:
		return r, fault.New(fault.Conflict, "container %q has exited", r.Spec.Name).
			WithHint("see \"tero logs %s\"", r.Spec.Name)
	}
}

// List gives the records, oldest first.
func (s *Supervisor) List() []state.Container { return s.State.List() }

// Hold keeps an auto-removed container until release is called.
func (s *Supervisor) Hold(id workload.ID) (release func()) {
	s.mu.Lock()
	c, ok := s.live[id]
	s.mu.Unlock()
	if !ok {
		return func() {}
	}
	return s.hold(c, id)
}

// Exited gives a channel that is closed when the container has exited.
func (s *Supervisor) Exited(id workload.ID) <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	if c, ok := s.live[id]; ok {
		return c.exited
	}
	closed := make(chan struct{})
	close(closed)
	return closed
}

// Wait gives the container's exit when there is one.
func (s *Supervisor) Wait(ctx context.Context, id workload.ID) (state.Exit, error) {
	s.mu.Lock()
	c, ok := s.live[id]
	s.mu.Unlock()
	if !ok {
		return state.Exit{}, fault.New(fault.NotFound, "there is no container %s", id.Short())
	}
	select {
	case <-c.exited:
		return c.exit, nil
	case <-ctx.Done():
		return state.Exit{}, ctx.Err()
	}
}

// Kill sends a signal ("SIGKILL" or "KILL" or "9") to the first process.
func (s *Supervisor) Kill(ctx context.Context, key, signal string) error {
	sig, err := ParseSignal(signal)
	if err != nil {
		return err
	}
	r, err := s.Running(key)
	if err != nil {
		return err
	}
	return s.Sandboxes.Signal(ctx, r.ID, sig)
}

// signal sends sig to a container that may be exiting this moment.
func (s *Supervisor) signal(ctx context.Context, id workload.ID, sig unix.Signal) error {
	err := s.Sandboxes.Signal(ctx, id, sig)
	if errors.Is(err, unix.ESRCH) || fault.KindOf(err) == fault.NotFound {
		return nil // its exit is on the way
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

// Stop sends the container's stop signal, and SIGKILL after timeout; a
// negative timeout waits for ever. Stopping an exited container is no error.
func (s *Supervisor) Stop(ctx context.Context, key string, timeout time.Duration) (state.Exit, error) {
	r, err := s.State.Find(key)
	if err != nil {
		return state.Exit{}, err
	}
	if r.Phase == state.Exited {
		return *r.Exit, nil
	}
	if r, err = s.Running(key); err != nil {
		return state.Exit{}, err
	}
	sig, err := ParseSignal(r.Spec.StopSignal)
	if err != nil {
		return state.Exit{}, err
	}
	release := s.Hold(r.ID) // so that its exit can still be told
	defer release()
	if err := s.signal(ctx, r.ID, sig); err != nil {
		return state.Exit{}, err
	}
	if timeout >= 0 {
		patience, cancel := context.WithTimeout(ctx, timeout)
		defer cancel()
		exit, err := s.Wait(patience, r.ID)
		if err == nil || !errors.Is(err, context.DeadlineExceeded) || ctx.Err() != nil {
			return exit, err
		}
		return s.kill(ctx, r)
	}
	return s.Wait(ctx, r.ID)
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
	case r.Phase == state.Running && !force:
		return r, fault.New(fault.Conflict, "container %q is running", r.Spec.Name).
			WithHint("stop it first with \"tero stop %s\", or kill and remove it with \"tero rm -f %s\"", r.Spec.Name, r.Spec.Name)
	case r.Phase == state.Running:
		release := s.Hold(r.ID)
		defer release()
		if _, err := s.kill(ctx, r); err != nil {
			return r, err
		}
	}
	return r, s.removeExited(ctx, r.ID, r.Spec.Name)
}

// removeExited removes what is left of an exited container; it is nil for one
// that is gone. Removal takes steps, and what is half removed is no container
// any more: so a restart in between goes on with it.
func (s *Supervisor) removeExited(ctx context.Context, id workload.ID, name string) error {
	if err := s.State.Removing(id); err != nil {
		return err
	}
	if err := s.Sandboxes.Destroy(ctx, id); err != nil {
		return err
	}
	if err := s.State.Remove(id); err != nil {
		return err
	}
	s.mu.Lock()
	_, known := s.live[id]
	delete(s.live, id)
	s.mu.Unlock()
	if known {
		s.Bus.Publish(eventbus.Event{Type: "container.removed", Container: id, Name: name, Message: name + " removed"})
	}
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
