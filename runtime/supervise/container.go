package supervise

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"tero.internal/common/fault"
	"tero.internal/common/workload"
	"tero.internal/runtime/health"
	"tero.internal/runtime/state"
)

// container is what the Supervisor knows beyond the record. Its fields are
// guarded by Supervisor.mu, but for those that guard something themselves.
type container struct {
	life   *life
	run    *run
	holds  int  // attachments that still read its output
	remove bool // remove when exited and not held
	health *health.Monitor

	// busy holds an element while somebody launches, starts, changes or removes it.
	busy chan struct{}
	// woken tells the wait for a restart that the record changed.
	woken chan struct{}
	// entering is held shared while a process is put in, and alone while it is
	// paused: a process that is frozen half-way in would never arrive.
	entering sync.RWMutex
}

// life is from a launch that somebody asked for until the container has exited
// and is not restarted.
type life struct {
	over chan struct{} // closed when the last exit is recorded
	exit state.Exit    // valid once over is closed
}

func (l *life) isOver() bool {
	select {
	case <-l.over:
		return true
	default:
		return false
	}
}

// run is from one launch to the exit.
type run struct {
	ended chan struct{} // closed when the exit is recorded
}

func newRun() *run { return &run{ended: make(chan struct{})} }

// wait waits for the end of the run; for ever when patience is negative.
func (r *run) wait(ctx context.Context, patience time.Duration) (over bool, err error) {
	var late <-chan time.Time // never
	if patience >= 0 {
		late = time.After(patience)
	}
	select {
	case <-r.ended:
		return true, nil
	case <-late:
		return false, nil
	case <-ctx.Done():
		return false, ctx.Err()
	}
}

func (s *Supervisor) runOf(c *container) *run {
	s.mu.Lock()
	defer s.mu.Unlock()
	return c.run
}

func newContainer(remove bool) *container {
	return &container{
		life: &life{over: make(chan struct{})}, run: newRun(), remove: remove,
		busy: make(chan struct{}, 1), woken: make(chan struct{}, 1),
	}
}

// take makes the caller the only one who changes the container, until release.
func (c *container) take(ctx context.Context) (release func(), err error) {
	select {
	case c.busy <- struct{}{}:
		return func() { <-c.busy }, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// wake ends the wait for a restart, or the next one, at once.
func (c *container) wake() {
	select {
	case c.woken <- struct{}{}:
	default:
	}
}

func (s *Supervisor) adopt(id workload.ID, c *container) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.live[id] = c
}

// of gives the container, or nil when it is unknown.
func (s *Supervisor) of(id workload.ID) *container {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.live[id]
}

// claim gives a container that was launched and is not being removed, running
// or not; nobody else changes it until release.
func (s *Supervisor) claim(ctx context.Context, key string) (r state.Container, c *container, release func(), err error) {
	if r, err = s.State.Find(key); err != nil {
		return r, nil, nil, err
	}
	c = s.of(r.ID)
	if c == nil || r.Phase == state.Creating {
		return r, nil, nil, fault.New(fault.Conflict, "container %q is still being launched, or removed", r.Spec.Name)
	}
	if release, err = c.take(ctx); err != nil {
		return r, nil, nil, err
	}
	r, err = s.State.Find(string(r.ID))
	if err == nil && r.Removing {
		err = fault.New(fault.Conflict, "container %q is being removed", r.Spec.Name)
	}
	if err != nil {
		release()
		return r, nil, nil, err
	}
	return r, c, release, nil
}

// hold keeps a container's output readable until the returned function is called.
func (s *Supervisor) hold(c *container, id workload.ID) (release func()) {
	s.mu.Lock()
	c.holds++
	s.mu.Unlock()
	return sync.OnceFunc(func() {
		s.mu.Lock()
		c.holds--
		remove := c.remove && c.life.isOver() && c.holds == 0
		s.mu.Unlock()
		if remove {
			s.spawn(func(ctx context.Context) { s.autoRemove(ctx, id) })
		}
	})
}

func (s *Supervisor) autoRemove(ctx context.Context, id workload.ID) {
	if err := s.removeExited(ctx, id); err != nil {
		s.Log.ErrorContext(ctx, "container not removed", slog.String("container", string(id)), slog.String("error", err.Error()))
	}
}
