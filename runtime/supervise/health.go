package supervise

import (
	"context"
	"fmt"
	"log/slog"
	"sync"

	"tero.internal/common/eventbus"
	"tero.internal/common/fault"
	"tero.internal/common/workload"
	"tero.internal/runtime/health"
	"tero.internal/runtime/state"
)

// checkHealth checks a running container until the returned function is called,
// which waits for the end of a check that is under way.
func (s *Supervisor) checkHealth(ctx context.Context, id workload.ID, c *container) (stop func()) {
	r, err := s.State.Find(string(id))
	if err != nil || len(r.Spec.Health.Command) == 0 {
		return func() {}
	}
	run := s.runOf(c)
	m := &health.Monitor{
		Config: r.Spec.Health, Started: r.Started, Before: health.Status(r.Health),
		Probe: func(ctx context.Context, command []string) (int, []byte, error) { return s.probe(ctx, r, command) },
		Changed: func(ctx context.Context, status health.Status, check health.Check) {
			s.healthChanged(ctx, r, run, status, check)
		},
	}
	ctx, cancel := context.WithCancel(ctx)
	var checking sync.WaitGroup
	checking.Go(func() { m.Run(ctx) })
	s.mu.Lock()
	c.health = m
	s.mu.Unlock()
	return func() {
		cancel()
		checking.Wait()
		s.mu.Lock()
		c.health = nil
		s.mu.Unlock()
	}
}

func (s *Supervisor) probe(ctx context.Context, r state.Container, command []string) (int, []byte, error) {
	if paused, err := s.Paused(ctx, r); err != nil || paused {
		return 0, nil, health.ErrSkip
	}
	return s.Check(ctx, r.ID, command)
}

// healthChanged records and tells a new status, and does what is asked for an
// unhealthy container.
func (s *Supervisor) healthChanged(ctx context.Context, r state.Container, run *run, status health.Status, check health.Check) {
	action := r.Spec.Health.OnFailure
	if status != health.Unhealthy || action == "" {
		action = workload.HealthNone
	}
	if _, err := s.State.Update(r.ID, func(r *state.Container) { r.Health = string(status) }); err != nil && fault.KindOf(err) != fault.NotFound {
		s.Log.ErrorContext(ctx, "health of container not recorded", slog.String("container", string(r.ID)), slog.String("error", err.Error()))
	}
	s.Bus.Publish(eventbus.Event{
		Type: "container.health", Container: r.ID, Name: r.Spec.Name, Message: fmt.Sprintf("%s is %s", r.Spec.Name, status),
		Attributes: map[string]string{"status": string(status), "code": fmt.Sprint(check.Code), "action": string(action)},
	})
	if action == workload.HealthNone {
		return
	}
	s.spawn(func(ctx context.Context) { // this is the check's own time, which ends with the container
		if err := s.act(ctx, r, run, action); err != nil && ctx.Err() == nil {
			s.Log.ErrorContext(ctx, "nothing done about an unhealthy container", slog.String("container", string(r.ID)),
				slog.String("action", string(action)), slog.String("error", err.Error()))
		}
	})
}

func (s *Supervisor) act(ctx context.Context, r state.Container, run *run, action workload.HealthAction) error {
	switch action {
	case workload.HealthStop:
		if err := s.wantStopped(r); err != nil {
			return err
		}
		return s.end(ctx, r, run, r.Spec.StopPatience())
	case workload.HealthRestart:
		if _, err := s.State.Update(r.ID, func(r *state.Container) { r.Restarts.Now = true }); err != nil {
			return err
		}
		return s.end(ctx, r, run, r.Spec.StopPatience())
	case workload.HealthKill:
		return s.end(ctx, r, run, 0)
	case workload.HealthNone:
	}
	return nil
}

// Health gives how the checks of a container stand. Its status is empty for one
// without a health check; one that does not run has no more than its last status.
func (s *Supervisor) Health(r state.Container) health.State {
	s.mu.Lock()
	defer s.mu.Unlock()
	if c := s.live[r.ID]; c != nil && c.health != nil {
		return c.health.State()
	}
	return health.State{Status: health.Status(r.Health)}
}
