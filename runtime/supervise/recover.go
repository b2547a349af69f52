package supervise

import (
	"context"
	"errors"
	"fmt"
	"log/slog"

	"tero.internal/common/workload"
	"tero.internal/runtime/sandbox"
	"tero.internal/runtime/state"
)

// recover brings records, sandboxes and the network back into agreement:
//
//	record     sandbox           what happens
//	creating   any               undone: nobody was told that it runs
//	running    running, exited   taken up; the exit is heard at once or later
//	running    created, none     recorded as exited, its code lost
//	exited     any               left for its removal, which goes on when it had begun
//	none       any               destroyed
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
	switch r.Phase {
	case state.Creating:
		s.Log.WarnContext(ctx, "unfinished launch undone", slog.String("container", string(r.ID)), slog.String("name", r.Spec.Name))
		return s.discard(ctx, r.ID)
	case state.Running:
		b, ok := found[r.ID]
		if ok && b.Phase != sandbox.Created {
			if b.Phase == sandbox.Running {
				if err := s.Identities.Restore(ctx, r.ID, r.Identity, r.Evidence); err != nil {
					return err
				}
			}
			c := &container{exited: make(chan struct{}), remove: r.Spec.AutoRemove}
			s.adopt(r.ID, c)
			s.track(r.ID, c)
			s.Log.InfoContext(ctx, "container taken up", slog.String("container", string(r.ID)), slog.String("name", r.Spec.Name))
			return nil
		}
		c := &container{exited: make(chan struct{}), remove: r.Spec.AutoRemove}
		s.adopt(r.ID, c)
		s.spawn(func(ctx context.Context) {
			s.finish(ctx, r.ID, c, lostExit(errors.New("the machine or its processes were restarted")))
		})
		return nil
	case state.Exited:
		c := &container{exited: make(chan struct{}), exit: *r.Exit, gone: true, remove: r.Spec.AutoRemove}
		close(c.exited)
		s.adopt(r.ID, c)
		if r.Removing {
			s.autoRemove(ctx, r.ID, r.Spec.Name)
		} else if c.remove {
			s.spawn(func(ctx context.Context) { s.autoRemove(ctx, r.ID, r.Spec.Name) })
		}
		return nil
	}
	return fmt.Errorf("unknown phase %q", r.Phase)
}
