package supervise

import (
	"context"
	"fmt"

	"tero.internal/common/eventbus"
	"tero.internal/common/fault"
	"tero.internal/common/workload"
	"tero.internal/runtime/sandbox"
	"tero.internal/runtime/state"
)

// Processes work on what runs in a sandbox (sandbox.Native).
type Processes interface {
	Exec(ctx context.Context, container workload.ID, spec sandbox.ExecSpec) (*sandbox.Process, error)
	Pause(ctx context.Context, container workload.ID) error
	// Unpause is nil for a container that is not paused.
	Unpause(ctx context.Context, container workload.ID) error
	Paused(ctx context.Context, container workload.ID) (bool, error)
	// Update changes the limits, all or none.
	Update(ctx context.Context, container workload.ID, r workload.Resources) error
}

// Paused tells whether a container stands still. One that does not run does not.
func (s *Supervisor) Paused(ctx context.Context, r state.Container) (bool, error) {
	if r.Phase != state.Running {
		return false, nil
	}
	paused, err := s.Processes.Paused(ctx, r.ID)
	if kind := fault.KindOf(err); kind == fault.NotFound || kind == fault.Conflict {
		return false, nil // it is ending
	}
	return paused, err
}

// Pause stops every process of a running container where it is, until Unpause.
func (s *Supervisor) Pause(ctx context.Context, key string) error {
	return s.change(ctx, key, func(r state.Container, c *container) error {
		paused, err := s.Paused(ctx, r)
		if err != nil {
			return err
		}
		if paused {
			return fault.New(fault.Conflict, "container %q is paused", r.Spec.Name).WithHint("\"tero unpause %s\" lets it go on", r.Spec.Name)
		}
		c.entering.Lock()
		defer c.entering.Unlock()
		if err := s.Processes.Pause(ctx, r.ID); err != nil {
			return err
		}
		s.publishChange(r, "container.paused", "paused", nil)
		return nil
	})
}

// Unpause lets a paused container go on.
func (s *Supervisor) Unpause(ctx context.Context, key string) error {
	return s.change(ctx, key, func(r state.Container, _ *container) error {
		paused, err := s.Paused(ctx, r)
		if err != nil {
			return err
		}
		if !paused {
			return fault.New(fault.Conflict, "container %q is not paused", r.Spec.Name)
		}
		if err := s.Processes.Unpause(ctx, r.ID); err != nil {
			return err
		}
		s.publishChange(r, "container.unpaused", "goes on", nil)
		return nil
	})
}

// change does something with a running container that nobody else changes meanwhile.
func (s *Supervisor) change(ctx context.Context, key string, f func(state.Container, *container) error) error {
	r, err := s.Running(key)
	if err != nil {
		return err
	}
	c := s.of(r.ID)
	if c == nil {
		return fault.New(fault.Conflict, "container %q is being removed", r.Spec.Name)
	}
	release, err := c.take(ctx)
	if err != nil {
		return err
	}
	defer release()
	if r, err = s.Running(string(r.ID)); err != nil {
		return err
	}
	return f(r, c)
}

func (s *Supervisor) publishChange(r state.Container, kind, what string, attributes map[string]string) {
	s.Bus.Publish(eventbus.Event{
		Type: kind, Container: r.ID, Name: r.Spec.Name, Message: fmt.Sprintf("%s %s", r.Spec.Name, what), Attributes: attributes,
	})
}

// Exec runs a further process in a running container. A paused one is refused:
// the process would stand still with it.
func (s *Supervisor) Exec(ctx context.Context, key string, spec sandbox.ExecSpec) (*sandbox.Process, error) {
	r, err := s.Running(key)
	if err != nil {
		return nil, err
	}
	c := s.of(r.ID)
	if c == nil {
		return nil, fault.New(fault.Conflict, "container %q is being removed", r.Spec.Name)
	}
	c.entering.RLock()
	defer c.entering.RUnlock()
	paused, err := s.Paused(ctx, r)
	if err != nil {
		return nil, err
	}
	if paused {
		return nil, fault.New(fault.Conflict, "container %q is paused", r.Spec.Name).
			WithHint("let it go on with \"tero unpause %s\" first", r.Spec.Name)
	}
	return s.Processes.Exec(ctx, r.ID, spec)
}
