package cli_test

import (
	"context"
	"time"

	runtimev1 "tero.internal/api/runtime/v1"
	"tero.internal/common/fault"
)

func volume() *runtimev1.Volume {
	return &runtimev1.Volume{
		Name: "data", Driver: "local", Labels: map[string]string{"tier": "db"}, Created: before(2 * time.Hour),
		Path: "/var/lib/tero/volumes/data/data", Containers: []string{web().GetId()},
	}
}

func (*fake) CreateVolume(_ context.Context, r *runtimev1.CreateVolumeRequest) (*runtimev1.CreateVolumeResponse, error) {
	return &runtimev1.CreateVolumeResponse{Volume: &runtimev1.Volume{Name: r.GetName(), Driver: "local", Labels: r.GetLabels()}}, nil
}

func (*fake) ListVolumes(context.Context, *runtimev1.ListVolumesRequest) (*runtimev1.ListVolumesResponse, error) {
	return &runtimev1.ListVolumesResponse{Volumes: []*runtimev1.Volume{volume()}}, nil
}

func (*fake) InspectVolume(_ context.Context, r *runtimev1.InspectVolumeRequest) (*runtimev1.InspectVolumeResponse, error) {
	if r.GetName() != "data" {
		return nil, fault.New(fault.NotFound, "there is no volume %q", r.GetName()).WithHint("\"tero volume ls\" lists them")
	}
	return &runtimev1.InspectVolumeResponse{Volume: volume()}, nil
}

func (*fake) RemoveVolume(_ context.Context, r *runtimev1.RemoveVolumeRequest) (*runtimev1.RemoveVolumeResponse, error) {
	if r.GetName() == "data" {
		return nil, fault.New(fault.Conflict, "volume \"data\" is mounted in 1 containers, such as 3f2a9c001122")
	}
	return &runtimev1.RemoveVolumeResponse{}, nil
}

func (*fake) PruneVolumes(_ context.Context, r *runtimev1.PruneVolumesRequest) (*runtimev1.PruneVolumesResponse, error) {
	if len(r.GetLabels()) > 0 {
		return &runtimev1.PruneVolumesResponse{}, nil
	}
	return &runtimev1.PruneVolumesResponse{Names: []string{"old", "older"}}, nil
}
