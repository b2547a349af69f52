package server

import (
	"context"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	runtimev1 "tero.internal/api/runtime/v1"
	"tero.internal/common/fault"
	"tero.internal/common/rpc"
	"tero.internal/common/workload"
	"tero.internal/runtime/health"
	"tero.internal/runtime/state"
	"tero.internal/runtime/supervise"
)

// StartContainer launches an exited container again.
func (r *Runtime) StartContainer(ctx context.Context, req *runtimev1.StartContainerRequest) (*runtimev1.StartContainerResponse, error) {
	caller, err := rpc.Principal(ctx)
	if err != nil {
		return nil, err
	}
	c, err := r.supervisor.Start(ctx, caller, req.GetContainer())
	if err != nil {
		return nil, err
	}
	return &runtimev1.StartContainerResponse{Container: r.describe(ctx, c, r.pids(ctx))}, nil
}

// RestartContainer stops a container and starts it.
func (r *Runtime) RestartContainer(ctx context.Context, req *runtimev1.RestartContainerRequest) (*runtimev1.RestartContainerResponse, error) {
	caller, err := rpc.Principal(ctx)
	if err != nil {
		return nil, err
	}
	c, err := r.supervisor.Restart(ctx, caller, req.GetContainer(), seconds(req.TimeoutSeconds)) // unset is not 0
	if err != nil {
		return nil, err
	}
	return &runtimev1.RestartContainerResponse{Container: r.describe(ctx, c, r.pids(ctx))}, nil
}

// seconds gives a timeout that may be unset.
func seconds(n *int32) *time.Duration {
	if n == nil {
		return nil
	}
	d := time.Duration(*n) * time.Second
	return &d
}

// PauseContainer stops every process of a container where it is.
func (r *Runtime) PauseContainer(ctx context.Context, req *runtimev1.PauseContainerRequest) (*runtimev1.PauseContainerResponse, error) {
	return &runtimev1.PauseContainerResponse{}, r.supervisor.Pause(ctx, req.GetContainer())
}

// UnpauseContainer lets a paused container go on.
func (r *Runtime) UnpauseContainer(ctx context.Context, req *runtimev1.UnpauseContainerRequest) (*runtimev1.UnpauseContainerResponse, error) {
	return &runtimev1.UnpauseContainerResponse{}, r.supervisor.Unpause(ctx, req.GetContainer())
}

// UpdateContainer changes limits and restart policy.
func (r *Runtime) UpdateContainer(ctx context.Context, req *runtimev1.UpdateContainerRequest) (*runtimev1.UpdateContainerResponse, error) {
	caller, err := rpc.Principal(ctx)
	if err != nil {
		return nil, err
	}
	l := req.GetLimits()
	change := supervise.Change{Resources: workload.Resources{MilliCPU: l.GetMilliCpu(), MemoryBytes: l.GetMemoryBytes(), Pids: l.GetPids()}}
	if p := req.GetRestart(); p != "" {
		policy, err := workload.ParseRestart(p)
		if err != nil {
			return nil, fault.New(fault.Invalid, "%w", err)
		}
		change.Restart = &policy
	}
	c, err := r.supervisor.Update(ctx, caller, req.GetContainer(), change)
	if err != nil {
		return nil, err
	}
	return &runtimev1.UpdateContainerResponse{Container: r.describe(ctx, c, r.pids(ctx))}, nil
}

// lifeFromProto reads what a request says of a container's life.
func lifeFromProto(p *runtimev1.ContainerSpec, s *workload.Spec) error {
	var err error
	if s.Restart, err = workload.ParseRestart(p.GetRestart()); err != nil {
		return err
	}
	s.StopTimeout = p.StopTimeoutSeconds // unset is not 0
	h := p.GetHealth()
	s.Health = workload.Health{
		Command: h.GetCommand(), Disabled: h.GetDisabled(), Interval: h.GetInterval().AsDuration(), Timeout: h.GetTimeout().AsDuration(),
		StartPeriod: h.GetStartPeriod().AsDuration(), StartInterval: h.GetStartInterval().AsDuration(),
		Retries: int(h.GetRetries()), OnFailure: workload.HealthAction(h.GetOnFailure()),
	}
	return nil
}

// lifeToProto is its opposite.
func lifeToProto(s workload.Spec, p *runtimev1.ContainerSpec) {
	p.Restart, p.StopTimeoutSeconds, p.Health = s.Restart.String(), s.StopTimeout, checkToProto(&s.Health)
}

func checkToProto(h *workload.Health) *runtimev1.HealthCheck {
	if h == nil || len(h.Command) == 0 && !h.Disabled {
		return nil
	}
	return &runtimev1.HealthCheck{
		Command: h.Command, Disabled: h.Disabled, Interval: duration(h.Interval), Timeout: duration(h.Timeout),
		StartPeriod: duration(h.StartPeriod), StartInterval: duration(h.StartInterval),
		Retries: int32(min(h.Retries, 1<<30)), OnFailure: string(h.OnFailure), //nolint:gosec // bounded
	}
}

func duration(d time.Duration) *durationpb.Duration {
	if d == 0 {
		return nil
	}
	return durationpb.New(d)
}

// describeLife adds to a description how the container's life goes on.
func (r *Runtime) describeLife(ctx context.Context, c state.Container, out *runtimev1.Container) {
	out.Restart, out.RestartEnded = c.Policy().String(), c.Restarts.Ended
	out.RestartCount = int32(min(c.Restarts.Count, 1<<30)) //nolint:gosec // bounded
	if c.Phase == state.Restarting {
		out.NextRestart = timestamp(c.Restarts.Next)
	}
	if c.Phase != state.Running {
		return
	}
	limits := c.Spec.Resources
	if c.Limits != nil {
		limits = *c.Limits
	}
	out.Limits = &runtimev1.Limits{MilliCpu: limits.MilliCPU, MemoryBytes: limits.MemoryBytes, Pids: limits.Pids}
	if paused, err := r.supervisor.Paused(ctx, c); err == nil && paused {
		out.State = runtimev1.State_STATE_PAUSED
	}
	if len(c.Spec.Health.Command) > 0 {
		out.Health = healthToProto(r.supervisor.Health(c))
	}
}

func healthToProto(h health.State) *runtimev1.Health {
	out := &runtimev1.Health{Status: string(h.Status), Failing: int32(min(h.Failing, 1<<30))} //nolint:gosec // bounded
	for _, l := range h.Log {
		out.Log = append(out.Log, &runtimev1.HealthResult{
			Start: timestamp(l.Start), End: timestamp(l.End), Code: int32(l.Code), Output: l.Output, //nolint:gosec // exit codes are 0 to 255
		})
	}
	return out
}
