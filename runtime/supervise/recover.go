package supervise

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"time"

	"tero.internal/common/workload"
	"tero.internal/runtime/sandbox"
	"tero.internal/runtime/state"
)

// recover brings records, sandboxes and the network back into agreement:
//
//	record      sandbox           what happens
//	creating    any               undone: nobody was told that it runs
//	running     running, exited   taken up; the exit is heard at once or later
//	running     other, none       recorded as exited, its code lost
//	restarting  any               ended, and launched when that is due
//	exited      created, running  ended: a start that nobody was told of
//	exited      other, none       left for its removal, which goes on when it had begun,
//	                              or started at boot
//	none        any               destroyed
func (s *Supervisor) recover(ctx context.Context) error {
	list, err := s.Sandboxes.List(ctx)
	if err != nil {
		return fmt.Errorf("take up containers: %w", err)
	}
	found := map[workload.ID]sandbox.Status{}
	for _, b := range list {
		found[b.ID] = b
	}
	var alive []workload.ID
	records := s.State.List()
	for _, r := range records {
		if r.Phase == state.Running && found[r.ID].Phase == sandbox.Running {
			alive = append(alive, r.ID)
		}
	}
	if err := s.Network.Reconcile(ctx, alive); err != nil {
		return fmt.Errorf("take up networks: %w", err)
	}
	for _, r := range records {
		if err := s.recoverOne(ctx, r, found); err != nil {
			return fmt.Errorf("take up container %s: %w", r.Spec.Name, err)
		}
		delete(found, r.ID)
	}
	for id := range found {
		s.Log.WarnContext(ctx, "sandbox without a record destroyed", slog.String("container", string(id)))
		if err := s.Sandboxes.Destroy(ctx, id); err != nil {
			return fmt.Errorf("destroy unknown sandbox %s: %w", id.Short(), err)
		}
	}
	return nil
}

func (s *Supervisor) recoverOne(ctx context.Context, r state.Container, found map[workload.ID]sandbox.Status) error {
	box := found[r.ID] // its phase is "" when there is none
	c := newContainer(r.Spec.AutoRemove)
	switch r.Phase {
	case state.Creating:
		s.Log.WarnContext(ctx, "unfinished launch undone", slog.String("container", string(r.ID)), slog.String("name", r.Spec.Name))
		return s.discard(ctx, r.ID)
	case state.Running:
		s.adopt(r.ID, c)
		if box.Phase == sandbox.Running || box.Phase == sandbox.Exited {
			if box.Phase == sandbox.Running {
				if err := s.Identities.Restore(ctx, r.ID, r.Identity, r.Evidence); err != nil {
					return err
				}
			}
			s.track(r.ID, c)
			s.Log.InfoContext(ctx, "container taken up", slog.String("container", string(r.ID)), slog.String("name", r.Spec.Name))
			return nil
		}
		s.spawn(func(ctx context.Context) {
			lost := lostExit(errors.New("the machine or its processes were restarted"))
			if s.finish(ctx, r.ID, c, lost) && s.relaunch(ctx, r.ID, c) {
				s.track(r.ID, c)
			}
		})
		return nil
	case state.Restarting:
		return s.resume(ctx, r, c)
	case state.Exited:
		return s.recoverExited(ctx, r, c, box.Phase)
	}
	return fmt.Errorf("unknown phase %q", r.Phase)
}

// resume waits again for the launch of a restarting container, after ending the
// one that was under way, if there was.
func (s *Supervisor) resume(ctx context.Context, r state.Container, c *container) error {
	if err := s.Sandboxes.End(ctx, r.ID); err != nil {
		return err
	}
	s.adopt(r.ID, c)
	s.spawn(func(ctx context.Context) {
		if s.relaunch(ctx, r.ID, c) {
			s.track(r.ID, c)
		}
	})
	return nil
}

func (s *Supervisor) recoverExited(ctx context.Context, r state.Container, c *container, phase sandbox.Phase) error {
	if phase == sandbox.Created || phase == sandbox.Running {
		s.Log.WarnContext(ctx, "unfinished start undone", slog.String("container", string(r.ID)), slog.String("name", r.Spec.Name))
		if err := s.Sandboxes.End(ctx, r.ID); err != nil {
			return err
		}
	}
	if !r.Removing && startsAtBoot(&r, s.Boot) {
		r, err := s.State.Update(r.ID, func(r *state.Container) {
			r.Phase, r.Stopped = state.Restarting, false
			r.Restarts = state.Restarts{Next: time.Now().UTC()}
		})
		if err != nil {
			return err
		}
		return s.resume(ctx, r, c)
	}
	c.life.exit = *r.Exit
	close(c.life.over)
	s.adopt(r.ID, c)
	if r.Removing {
		s.autoRemove(ctx, r.ID)
	} else if c.remove {
		s.spawn(func(ctx context.Context) { s.autoRemove(ctx, r.ID) })
	}
	return nil
}

// BootID gives the name of this run of the machine.
func BootID() (string, error) {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return "", fmt.Errorf("tell this run of the machine from others: %w", err)
	}
	return strings.TrimSpace(string(b)), nil
}

// startsAtBoot tells whether an exited container is started in that run of the
// machine, in which nothing has been done with it yet.
func startsAtBoot(r *state.Container, boot string) bool {
	p := r.Policy()
	return r.Boot != boot && (p.Policy == workload.RestartAlways || p.Policy == workload.RestartUnlessStopped && !r.Stopped)
}
