package sandbox

import (
	"tero.internal/common/fault"
	"tero.internal/common/workload"
	"tero.internal/runtime/internal/cgroup"
)

// Place is where a container is in the kernel.
type Place struct {
	Cgroup *cgroup.Group
	// HostID is what user and group 0 of the container are outside; idmap.Size ids follow.
	HostID uint32
}

// Place gives a container's place; NotFound for one that is not there.
func (n *Native) Place(id workload.ID) (Place, error) {
	r, err := n.loadRecord(id)
	if err != nil {
		return Place{}, err
	}
	if r == nil {
		return Place{}, fault.New(fault.NotFound, "there is no container %s", id.Short())
	}
	return Place{Cgroup: &r.Cgroup, HostID: r.Slot.HostID()}, nil
}
