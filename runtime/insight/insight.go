// Package insight tells what running containers use and which processes run in
// them, by their cgroups and the host's /proc.
package insight

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"tero.internal/common/fault"
	"tero.internal/common/workload"
	"tero.internal/runtime/internal/cgroup"
	"tero.internal/runtime/internal/idmap"
	"tero.internal/runtime/internal/procfs"
	"tero.internal/runtime/sandbox"
)

// Sandboxes are the containers (sandbox.Native).
type Sandboxes interface {
	// PID gives the first process of a running container in the host's numbers.
	PID(ctx context.Context, container workload.ID) (int, error)
	// Place tells where a container is in the kernel.
	Place(container workload.ID) (sandbox.Place, error)
}

// Inspector looks into containers.
type Inspector struct{ sandboxes Sandboxes }

// New gives an inspector.
func New(s Sandboxes) *Inspector { return &Inspector{sandboxes: s} }

// Sample is what a container used up to a moment.
type Sample struct {
	At time.Time
	cgroup.Stats
	procfs.Traffic
}

// Sampler takes samples of one running container.
type Sampler struct {
	id    workload.ID
	meter *cgroup.Meter
	first *procfs.Process
}

// Sampler gives a sampler, to be closed by the caller.
func (n *Inspector) Sampler(ctx context.Context, id workload.ID) (*Sampler, error) {
	first, group, err := n.firstProcess(ctx, id)
	if err != nil {
		return nil, err
	}
	return &Sampler{id: id, meter: group.Meter(), first: first}, nil
}

// firstProcess gives the container's first process, opened so that it can be no
// other's, and its cgroup.
func (n *Inspector) firstProcess(ctx context.Context, id workload.ID) (*procfs.Process, *cgroup.Group, error) {
	place, err := n.sandboxes.Place(id)
	if err != nil {
		return nil, nil, err
	}
	pid, err := n.sandboxes.PID(ctx, id)
	if err != nil {
		return nil, nil, err
	}
	p, err := procfs.Open(pid)
	if err != nil {
		return nil, nil, notRunning(id, err)
	}
	// Still the keeper's, so it was when it was opened.
	if again, err := n.sandboxes.PID(ctx, id); err != nil || again != pid {
		p.Close()
		return nil, nil, errors.Join(notRunning(id, procfs.ErrGone), err)
	}
	return p, place.Cgroup, nil
}

// notRunning makes a fault of what is told about a container that has ended.
func notRunning(id workload.ID, err error) error {
	if errors.Is(err, procfs.ErrGone) || errors.Is(err, fs.ErrNotExist) {
		return fault.New(fault.Conflict, "container %s does not run", id.Short())
	}
	return err
}

// Sample takes a sample; the fault Conflict says that the container has ended.
func (s *Sampler) Sample() (Sample, error) {
	at := time.Now()
	stats, err := s.meter.Read()
	if err != nil {
		return Sample{}, notRunning(s.id, err)
	}
	traffic, err := s.first.Traffic()
	if err != nil {
		return Sample{}, notRunning(s.id, err)
	}
	return Sample{At: at, Stats: stats, Traffic: traffic}, nil
}

// Close ends the sampler.
func (s *Sampler) Close() { s.first.Close() }

// ProcessInfo is a process of a container.
type ProcessInfo struct {
	procfs.Info
	// User is the effective user inside; the kernel's overflow id for one that
	// the container does not know.
	User uint32
}

// Processes gives what there is to see of all processes of a running container.
func (n *Inspector) Processes(ctx context.Context, id workload.ID) ([]ProcessInfo, error) {
	place, err := n.sandboxes.Place(id)
	if err != nil {
		return nil, err
	}
	if _, err := n.sandboxes.PID(ctx, id); err != nil {
		return nil, err
	}
	infos, err := procfs.List(place.Cgroup.PIDs)
	if err != nil {
		return nil, fmt.Errorf("list the processes of container %s: %w", id.Short(), err)
	}
	list := make([]ProcessInfo, 0, len(infos))
	for _, i := range infos {
		p := ProcessInfo{Info: i, User: overflowID}
		if host := place.HostID; i.UID >= host && i.UID-host < idmap.Size {
			p.User = i.UID - host
		}
		list = append(list, p)
	}
	return list, nil
}

// overflowID is what the kernel shows for users without a number in a user namespace.
const overflowID = 65534
