package setup

import (
	"context"
	"log/slog"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"tero.internal/runtime/internal/program"
	"tero.internal/runtime/internal/protocol"
)

// Rlimits translates resource limits. A process without CAP_SYS_RESOURCE cannot
// raise a hard limit above its own; there the container gets the host's, and
// the log says so. files is the limit of open files that this process began with.
func Rlimits(ctx context.Context, log *slog.Logger, files unix.Rlimit, p *specs.Process) []protocol.Rlimit {
	mayRaise := hasCapability(unix.CAP_SYS_RESOURCE)
	var list []protocol.Rlimit
	for _, l := range p.Rlimits {
		number, ok := limitNumber(l.Type)
		if !ok {
			continue // Check refused it
		}
		var own unix.Rlimit
		if number == unix.RLIMIT_NOFILE {
			own = files // the Go runtime raises this process's soft limit
		} else if err := unix.Getrlimit(number, &own); err != nil {
			continue
		}
		if l.Hard > own.Max && !mayRaise {
			log.InfoContext(ctx, "resource limit lowered to the host's", slog.String("limit", l.Type),
				slog.Uint64("wanted", l.Hard), slog.Uint64("given", own.Max))
			l.Hard = own.Max
		}
		list = append(list, protocol.Rlimit{Resource: uint32(number), Soft: min(l.Soft, l.Hard), Hard: l.Hard}) //nolint:gosec // a small constant
	}
	return list
}

// limitNumber gives the number of a resource limit.
func limitNumber(name string) (int, bool) {
	number, ok := map[string]int{
		"RLIMIT_CPU": unix.RLIMIT_CPU, "RLIMIT_FSIZE": unix.RLIMIT_FSIZE, "RLIMIT_DATA": unix.RLIMIT_DATA,
		"RLIMIT_STACK": unix.RLIMIT_STACK, "RLIMIT_CORE": unix.RLIMIT_CORE, "RLIMIT_RSS": unix.RLIMIT_RSS,
		"RLIMIT_NPROC": unix.RLIMIT_NPROC, "RLIMIT_NOFILE": unix.RLIMIT_NOFILE, "RLIMIT_MEMLOCK": unix.RLIMIT_MEMLOCK,
		"RLIMIT_AS": unix.RLIMIT_AS, "RLIMIT_LOCKS": unix.RLIMIT_LOCKS, "RLIMIT_SIGPENDING": unix.RLIMIT_SIGPENDING,
		"RLIMIT_MSGQUEUE": unix.RLIMIT_MSGQUEUE, "RLIMIT_NICE": unix.RLIMIT_NICE, "RLIMIT_RTPRIO": unix.RLIMIT_RTPRIO,
		"RLIMIT_RTTIME": unix.RLIMIT_RTTIME,
	}[name]
	return number, ok
}

// rlimits sets the limits: late, since setting up may need more than they give.
// What is above the process's own hard limits was raised from outside.
func (c *Setup) rlimits() {
	c.Step("set resource limits")
	for _, l := range c.limits {
		c.Call(unix.SYS_PRLIMIT64, program.I(0), program.I(l.Resource), c.Words(l.Soft, l.Hard), program.I(0))
	}
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
