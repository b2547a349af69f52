package server

import (
	"context"

	runtimev1 "tero.internal/api/runtime/v1"
	"tero.internal/runtime/volume"
)

// Volumes serves runtime.v1.VolumeService.
type Volumes struct {
	runtimev1.UnsafeVolumeServiceServer // so that a method that is missing does not compile
	store                               *volume.Store
}

// NewVolumes gives the service.
func NewVolumes(s *volume.Store) *Volumes { return &Volumes{store: s} }

// CreateVolume makes an empty volume.
func (v *Volumes) CreateVolume(_ context.Context, req *runtimev1.CreateVolumeRequest) (*runtimev1.CreateVolumeResponse, error) {
	made, err := v.store.Create(req.GetName(), req.GetDriver(), req.GetLabels())
	if err != nil {
		return nil, err
	}
	return &runtimev1.CreateVolumeResponse{Volume: volumeToProto(made)}, nil
}

// ListVolumes lists volumes by name.
func (v *Volumes) ListVolumes(context.Context, *runtimev1.ListVolumesRequest) (*runtimev1.ListVolumesResponse, error) {
	resp := &runtimev1.ListVolumesResponse{}
	for _, s := range v.store.List() {
		resp.Volumes = append(resp.Volumes, volumeToProto(s))
	}
	return resp, nil
}

// InspectVolume tells all that is known about one volume.
func (v *Volumes) InspectVolume(_ context.Context, req *runtimev1.InspectVolumeRequest) (*runtimev1.InspectVolumeResponse, error) {
	s, err := v.store.Find(req.GetName())
	if err != nil {
		return nil, err
	}
	return &runtimev1.InspectVolumeResponse{Volume: volumeToProto(s)}, nil
}

// RemoveVolume removes a volume that no container has mounted.
func (v *Volumes) RemoveVolume(_ context.Context, req *runtimev1.RemoveVolumeRequest) (*runtimev1.RemoveVolumeResponse, error) {
	return &runtimev1.RemoveVolumeResponse{}, v.store.Remove(req.GetName())
}

// PruneVolumes removes every volume that no container has mounted.
func (v *Volumes) PruneVolumes(_ context.Context, req *runtimev1.PruneVolumesRequest) (*runtimev1.PruneVolumesResponse, error) {
	names, err := v.store.Prune(req.GetLabels())
	if err != nil {
		return nil, err
	}
	return &runtimev1.PruneVolumesResponse{Names: names}, nil
}

func volumeToProto(s volume.Status) *runtimev1.Volume {
	out := &runtimev1.Volume{Name: s.Name, Driver: s.Driver, Labels: s.Labels, Created: timestamp(s.Created), Path: s.Path}
	for _, id := range s.Containers {
		out.Containers = append(out.Containers, string(id))
	}
	return out
}
