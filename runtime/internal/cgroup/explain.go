package cgroup

import (
	"errors"

	"golang.org/x/sys/unix"

	"tero.internal/common/fault"
)

// Explain makes a fault of a failure to make a cgroup.
func Explain(err error) error {
	missing, ok := errors.AsType[*UnavailableError](err)
	switch {
	case ok:
		return fault.New(fault.Unsupported, "%w", missing).WithHint("leave the limit away, or mount the controller; \"tero doctor\" lists those that are there")
	case errors.Is(err, unix.ENODEV), errors.Is(err, unix.ENXIO):
		return fault.New(fault.Invalid, "the kernel refuses a limit of a block device: %w", err).WithHint("name the whole disk, not a partition of it")
	case errors.Is(err, unix.EINVAL), errors.Is(err, unix.ERANGE):
		return fault.New(fault.Invalid, "the kernel refuses a resource limit: %w", err).WithHint("is it within what this machine has?")
	case errors.Is(err, unix.ENOSPC), errors.Is(err, unix.EAGAIN):
		return fault.New(fault.Exhausted, "no cgroup can be made: %w", err).WithHint("remove containers")
	}
	return fault.New(fault.Unsupported, "no cgroup can be made: %w", err).WithHint("\"tero doctor\" says what this machine lacks")
}
