package supervise

import (
	"context"
	"time"

	"golang.org/x/sys/unix"

	"tero.internal/common/eventbus"
	"tero.internal/common/fault"
	"tero.internal/runtime/state"
)

// killPatience is how long a container may take to end after SIGKILL, to free
// its memory for example, before its caller is told that it is stuck.
const killPatience = 10 * time.Second

// kill ends one run of a container and waits for its end. A process that the
// kernel does not let go, in a system call that waits for a dead disk or in a
// frozen cgroup, ends when it is let go: nobody waits for that, but everybody is told.
func (s *Supervisor) kill(ctx context.Context, r state.Container, run *run) error {
	if err := s.tell(ctx, r.ID, run, unix.SIGKILL); err != nil {
		return err
	}
	if over, err := run.wait(ctx, killPatience); over || err != nil {
		return err
	}
	stuck := fault.New(fault.Unavailable, "container %q was killed and has not ended within %v: the kernel does not let its process go", r.Spec.Name, killPatience).
		WithHint("its state in \"ps\" (D, or a frozen cgroup) says what it waits for; its exit is recorded when it comes")
	s.Bus.Publish(eventbus.Event{Type: "container.stuck", Container: r.ID, Name: r.Spec.Name, Message: stuck.Error()})
	return stuck
}
