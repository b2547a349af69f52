package ociconfig

import (
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"tero.internal/common/workload"
)

// Limits gives the part of a configuration's resources that can change while
// the container runs: all but the devices.
func Limits(r workload.Resources) (*specs.LinuxResources, error) {
	out, err := limits(r)
	if err != nil {
		return nil, err
	}
	out.Devices = nil
	return out, nil
}
