// Package server has the handlers of api/runtime and api/node: it reads
// requests, asks the Runtime, and writes replies; it decides nothing.
package server

import (
	"context"
	"time"

	runtimev1 "tero.internal/api/runtime/v1"
	"tero.internal/common/rpc"
	"tero.internal/common/workload"
	"tero.internal/runtime/files"
	"tero.internal/runtime/insight"
	"tero.internal/runtime/state"
	"tero.internal/runtime/supervise"
)

// Runtime serves runtime.v1.RuntimeService.
type Runtime struct {
	runtimev1.UnsafeRuntimeServiceServer // so that a method that is missing does not compile
	supervisor                           *supervise.Supervisor
	sandboxes                            Sandboxes
	inspector                            *insight.Inspector
	copier                               *files.Copier
}

// NewRuntime gives the service; initPath is the tero-init binary.
func NewRuntime(s *supervise.Supervisor, sandboxes Sandboxes, initPath string) *Runtime {
	return &Runtime{supervisor: s, sandboxes: sandboxes, inspector: insight.New(sandboxes), copier: files.New(sandboxes, initPath)}
}

// Run launches a container.
func (r *Runtime) Run(ctx context.Context, req *runtimev1.RunRequest) (*runtimev1.RunResponse, error) {
	_, resp, release, err := r.launch(ctx, req, false)
	release()
	return resp, err
}

// launch launches a container; with hold it stays readable until release.
func (r *Runtime) launch(ctx context.Context, req *runtimev1.RunRequest, hold bool) (state.Container, *runtimev1.RunResponse, func(), error) {
	began := time.Now()
	none := func() {}
	caller, err := rpc.Principal(ctx)
	if err != nil {
		return state.Container{}, nil, none, err
	}
	spec, err := specFromProto(req.GetSpec())
	if err != nil {
		return state.Container{}, nil, none, err
	}
	if size := req.GetTerminalSize(); size != nil {
		spec.TerminalSize = workload.TerminalSize{Rows: side(size.GetRows()), Columns: side(size.GetColumns())}
	}
	record, release, err := r.supervisor.Run(ctx, caller, spec, hold)
	if err != nil {
		return state.Container{}, nil, release, err
	}
	return record, &runtimev1.RunResponse{
		Container: containerToProto(record), DurationUs: time.Since(began).Microseconds(),
	}, release, nil
}

// ListContainers lists containers, oldest first.
func (r *Runtime) ListContainers(ctx context.Context, req *runtimev1.ListContainersRequest) (*runtimev1.ListContainersResponse, error) {
	resp := &runtimev1.ListContainersResponse{}
	pids := r.pids(ctx)
	for _, c := range r.supervisor.List() {
		if req.GetAll() || c.Phase != state.Exited {
			resp.Containers = append(resp.Containers, r.describe(ctx, c, pids))
		}
	}
	return resp, nil
}

// InspectContainer tells all about one container.
func (r *Runtime) InspectContainer(ctx context.Context, req *runtimev1.InspectContainerRequest) (*runtimev1.InspectContainerResponse, error) {
	c, err := r.supervisor.Find(req.GetContainer())
	if err != nil {
		return nil, err
	}
	return &runtimev1.InspectContainerResponse{Container: r.describe(ctx, c, r.pids(ctx))}, nil
}

// pids gives the first process of each container: of all in one question, and
// of none without an answer.
func (r *Runtime) pids(ctx context.Context) map[workload.ID]int {
	pids := map[workload.ID]int{}
	list, err := r.sandboxes.List(ctx)
	if err != nil {
		return nil
	}
	for _, s := range list {
		pids[s.ID] = s.PID
	}
	return pids
}

// describe adds to the record what only the sandbox knows.
func (r *Runtime) describe(ctx context.Context, c state.Container, pids map[workload.ID]int) *runtimev1.Container {
	out := containerToProto(c)
	if c.Phase == state.Running {
		out.Pid = int32(pids[c.ID]) //nolint:gosec // the kernel's pids are below 2^22
	}
	r.describeLife(ctx, c, out)
	return out
}

// StopContainer stops a container.
func (r *Runtime) StopContainer(ctx context.Context, req *runtimev1.StopContainerRequest) (*runtimev1.StopContainerResponse, error) {
	exit, err := r.supervisor.Stop(ctx, req.GetContainer(), seconds(req.TimeoutSeconds)) // unset is not 0
	if err != nil {
		return nil, err
	}
	return &runtimev1.StopContainerResponse{Exit: exitToProto(exit)}, nil
}

// KillContainer sends a signal.
func (r *Runtime) KillContainer(ctx context.Context, req *runtimev1.KillContainerRequest) (*runtimev1.KillContainerResponse, error) {
	signal := req.GetSignal()
	if signal == "" {
		signal = "SIGKILL"
	}
	return &runtimev1.KillContainerResponse{}, r.supervisor.Kill(ctx, req.GetContainer(), signal)
}

// RemoveContainer removes a container.
func (r *Runtime) RemoveContainer(ctx context.Context, req *runtimev1.RemoveContainerRequest) (*runtimev1.RemoveContainerResponse, error) {
	c, err := r.supervisor.Remove(ctx, req.GetContainer(), req.GetForce())
	if err != nil {
		return nil, err
	}
	return &runtimev1.RemoveContainerResponse{Id: string(c.ID), Name: c.Spec.Name}, nil
}

// WaitContainer waits for the exit after which the container is not restarted.
func (r *Runtime) WaitContainer(ctx context.Context, req *runtimev1.WaitContainerRequest) (*runtimev1.WaitContainerResponse, error) {
	c, err := r.supervisor.Find(req.GetContainer())
	if err != nil {
		return nil, err
	}
	release := r.supervisor.Hold(c.ID)
	defer release()
	exit, err := r.supervisor.Wait(ctx, c.ID)
	if err != nil {
		return nil, err
	}
	return &runtimev1.WaitContainerResponse{Exit: exitToProto(exit)}, nil
}
