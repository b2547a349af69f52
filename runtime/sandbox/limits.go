package sandbox

import (
	"context"
	"errors"
	"log/slog"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"tero.internal/common/fault"
	"tero.internal/runtime/internal/protocol"
)

// rlimits translates resource limits. A process without CAP_SYS_RESOURCE cannot
// raise a hard limit above its own; there the container gets the host's, and
// the log says so.
func (n *Native) rlimits(ctx context.Context, p *specs.Process) []protocol.Rlimit {
	numbers := map[string]int{
		"RLIMIT_CPU": unix.RLIMIT_CPU, "RLIMIT_FSIZE": unix.RLIMIT_FSIZE, "RLIMIT_DATA": unix.RLIMIT_DATA,
		"RLIMIT_STACK": unix.RLIMIT_STACK, "RLIMIT_CORE": unix.RLIMIT_CORE, "RLIMIT_RSS": unix.RLIMIT_RSS,
		"RLIMIT_NPROC": unix.RLIMIT_NPROC, "RLIMIT_NOFILE": unix.RLIMIT_NOFILE, "RLIMIT_MEMLOCK": unix.RLIMIT_MEMLOCK,
		"RLIMIT_AS": unix.RLIMIT_AS, "RLIMIT_LOCKS": unix.RLIMIT_LOCKS, "RLIMIT_SIGPENDING": unix.RLIMIT_SIGPENDING,
		"RLIMIT_MSGQUEUE": unix.RLIMIT_MSGQUEUE, "RLIMIT_NICE": unix.RLIMIT_NICE, "RLIMIT_RTPRIO": unix.RLIMIT_RTPRIO,
		"RLIMIT_RTTIME": unix.RLIMIT_RTTIME,
	}
	mayRaise := hasCapability(unix.CAP_SYS_RESOURCE)
	var list []protocol.Rlimit
	for _, l := range p.Rlimits {
		number, ok := numbers[l.Type]
		if !ok {
			n.Log.WarnContext(ctx, "unknown resource limit ignored", slog.String("limit", l.Type))
			continue
		}
		var own unix.Rlimit
		if number == unix.RLIMIT_NOFILE {
			own = n.maxFiles // the Go runtime raises this process's soft limit
		} else if err := unix.Getrlimit(number, &own); err != nil {
			continue
		}
		if l.Hard > own.Max && !mayRaise {
			n.Log.InfoContext(ctx, "resource limit lowered to the host's", slog.String("limit", l.Type),
				slog.Uint64("wanted", l.Hard), slog.Uint64("given", own.Max))
			l.Hard = own.Max
		}
		list = append(list, protocol.Rlimit{Resource: uint32(number), Soft: min(l.Soft, l.Hard), Hard: l.Hard}) //nolint:gosec // a small constant
	}
	return list
}

// hasCapability tells whether this process has a capability.
func hasCapability(number int) bool {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&header, &data[0]); err != nil {
		return false
	}
	return data[number/32].Effective>>(number%32)&1 != 0
}

// explainCgroup says what a failure to make a cgroup means.
func explainCgroup(err error) error {
	switch {
	case errors.Is(err, unix.EINVAL), errors.Is(err, unix.ERANGE):
		return fault.New(fault.Invalid, "the kernel refuses a resource limit: %w", err)
	case errors.Is(err, unix.ENOSPC), errors.Is(err, unix.EAGAIN):
		return fault.New(fault.Exhausted, "no cgroup can be made: %w", err).WithHint("remove containers")
	}
	return fault.New(fault.Unsupported, "no cgroup can be made: %w", err).WithHint("\"tero doctor\" says what this machine lacks")
}

// explainDisk says when a disk is full.
func explainDisk(err error) error {
	if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) {
		return fault.New(fault.Exhausted, "the disk of the state directory is full: %w", err).
			WithHint("make room, or remove containers and images")
	}
	return err
}
