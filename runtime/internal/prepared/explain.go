package prepared

import (
	"errors"
	"os"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"tero.internal/common/fault"
	"tero.internal/runtime/internal/keeperclient"
	"tero.internal/runtime/internal/protocol"
)

// ExplainDisk says when a disk is full.
func ExplainDisk(err error) error {
	if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) {
		return fault.New(fault.Exhausted, "the disk of the state directory is full: %w", err).
			WithHint("make room, or remove containers and images")
	}
	return err
}

// Explain makes a fault of what the keeper said about a process. root may be nil.
func Explain(err error, steps []string, root *os.File, config *specs.Spec) error {
	var r *keeperclient.Refusal
	if !errors.As(err, &r) {
		return err
	}
	reply := r.Reply
	switch reply.Code {
	case protocol.Clone:
		if reply.Errno == unix.ENOSPC || reply.Errno == unix.EAGAIN || reply.Errno == unix.ENOMEM {
			return fault.New(fault.Exhausted, "the kernel makes no more processes or namespaces: %w", reply.Errno).
				WithHint("remove containers, or raise the limits in /proc/sys/user and /proc/sys/kernel/pid_max")
		}
		return fault.New(fault.Unsupported, "the kernel refuses to make namespaces: %w", reply.Errno).
			WithHint("\"tero doctor\" says what this machine lacks")
	case protocol.Died:
		return fault.New(fault.Exhausted, "the container was killed while it was set up").
			WithHint("its memory limit may be too low")
	case protocol.Step:
		step := ""
		if int(reply.At) < len(steps) {
			step = steps[reply.At]
		}
		return explainStep(step, reply.Errno, config.Process, root)
	}
	return err
}
