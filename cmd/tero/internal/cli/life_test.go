package cli_test

import (
	"context"

	runtimev1 "tero.internal/api/runtime/v1"
	"tero.internal/common/fault"
)

func (*fake) StartContainer(_ context.Context, r *runtimev1.StartContainerRequest) (*runtimev1.StartContainerResponse, error) {
	return &runtimev1.StartContainerResponse{Container: web()}, known(r.GetContainer())
}

func (*fake) RestartContainer(_ context.Context, r *runtimev1.RestartContainerRequest) (*runtimev1.RestartContainerResponse, error) {
	if r.GetTimeoutSeconds() != 3 {
		return nil, fault.New(fault.Invalid, "a timeout of %d", r.GetTimeoutSeconds())
	}
	return &runtimev1.RestartContainerResponse{Container: web()}, known(r.GetContainer())
}

func (*fake) PauseContainer(_ context.Context, r *runtimev1.PauseContainerRequest) (*runtimev1.PauseContainerResponse, error) {
	return &runtimev1.PauseContainerResponse{}, known(r.GetContainer())
}

func (*fake) UnpauseContainer(_ context.Context, r *runtimev1.UnpauseContainerRequest) (*runtimev1.UnpauseContainerResponse, error) {
	return &runtimev1.UnpauseContainerResponse{}, known(r.GetContainer())
}

func (*fake) UpdateContainer(_ context.Context, r *runtimev1.UpdateContainerRequest) (*runtimev1.UpdateContainerResponse, error) {
	return &runtimev1.UpdateContainerResponse{Container: &runtimev1.Container{
		Name: r.GetContainer(), Limits: r.GetLimits(), Restart: r.GetRestart(),
	}}, known(r.GetContainer())
}
