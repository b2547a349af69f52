package sandbox

import (
	"context"
	"errors"
	"io/fs"
	"time"

	"golang.org/x/sys/unix"

	"tero.internal/common/fault"
	"tero.internal/common/workload"
	"tero.internal/runtime/internal/cgroup"
	"tero.internal/runtime/ociconfig"
)

// freezeTimeout bounds how long the processes may take to stand still.
const freezeTimeout = 5 * time.Second

// Pause stops every process of a running container where it is.
func (n *Native) Pause(ctx context.Context, id workload.ID) error {
	ctx, cancel := context.WithTimeout(ctx, freezeTimeout)
	defer cancel()
	err := n.inCgroup(id, func(g *cgroup.Group) error { return g.Freeze(ctx) })
	switch {
	case errors.Is(err, cgroup.ErrNoFreezer):
		return fault.New(fault.Unsupported, "this machine cannot pause containers: %w", err).
			WithHint("mount one: mount -t cgroup2 none /sys/fs/cgroup/unified")
	case errors.Is(err, context.DeadlineExceeded):
		return fault.New(fault.Unavailable, "container %s does not stand still: %w", id.Short(), err).
			WithHint("a process of it waits in the kernel, for a disk or a network file system; nothing was paused")
	}
	return err
}

// Unpause lets a paused container go on; it is nil for one that is not paused.
func (n *Native) Unpause(_ context.Context, id workload.ID) error {
	return n.inCgroup(id, (*cgroup.Group).Thaw)
}

// Paused tells whether the container is paused. The kernel's word is the only
// record of it, so that there is nothing to be wrong after a crash.
func (n *Native) Paused(_ context.Context, id workload.ID) (paused bool, err error) {
	err = n.inCgroup(id, func(g *cgroup.Group) error {
		paused, err = g.Frozen()
		return err
	})
	return paused, err
}

// Update changes the limits of a running container. On an error they are as
// they were.
func (n *Native) Update(ctx context.Context, id workload.ID, r workload.Resources) error {
	limits, err := ociconfig.Limits(r)
	if err != nil {
		return err
	}
	err = n.inCgroup(id, func(g *cgroup.Group) error { return n.tree.Update(ctx, g, limits) })
	missing, unavailable := errors.AsType[*cgroup.UnavailableError](err)
	switch {
	case unavailable:
		return fault.New(fault.Unsupported, "container %s: %w", id.Short(), missing).WithHint("the limits are as they were")
	case errors.Is(err, cgroup.ErrInUse):
		return fault.New(fault.Conflict, "container %s: %w", id.Short(), err).WithHint("give it more, or stop it first; its limits are as they were")
	case errors.Is(err, unix.EINVAL), errors.Is(err, unix.ERANGE):
		return fault.New(fault.Invalid, "the kernel refuses a resource limit: %w", err).WithHint("the limits are as they were")
	}
	return err
}

// inCgroup does something with the cgroup of a container that runs.
func (n *Native) inCgroup(id workload.ID, f func(*cgroup.Group) error) error {
	r, err := n.loadRecord(id)
	switch {
	case err != nil:
		return err
	case r == nil:
		return fault.New(fault.NotFound, "there is no container %s", id.Short())
	}
	err = f(&r.Cgroup)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENODEV) {
		return fault.New(fault.Conflict, "container %s does not run: %w", id.Short(), err)
	}
	return err
}
