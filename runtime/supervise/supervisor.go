// Package supervise looks after containers from launch to removal: it records
// them, hears their exits, gives back what they held, and takes them up again
// after the daemon was restarted or killed.
package supervise

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"tero.internal/common/eventbus"
	"tero.internal/common/fault"
	"tero.internal/common/workload"
	"tero.internal/runtime/launch"
	"tero.internal/runtime/sandbox"
	"tero.internal/runtime/state"
)

// Launcher launches containers (launch.Pipeline).
type Launcher interface {
	Run(ctx context.Context, caller workload.Principal, container workload.ID, spec workload.Spec) (*launch.Launched, error)
}

// Sandboxes are the process trees (sandbox.Native).
type Sandboxes interface {
	Signal(ctx context.Context, container workload.ID, sig unix.Signal) error
	// Wait gives the exit, also when it was long ago.
	Wait(ctx context.Context, container workload.ID) (sandbox.Exit, error)
	List(ctx context.Context) ([]sandbox.Status, error)
	// HoldLog makes a container whose launch is to come wait rather than lose
	// output that nobody has read.
	HoldLog(container workload.ID)
	Destroy(ctx context.Context, container workload.ID) error
}

// Network takes interfaces back.
type Network interface {
	Detach(ctx context.Context, container workload.ID) error
	// Reconcile removes what belongs to no container in alive.
	Reconcile(ctx context.Context, alive []workload.ID) error
}

// Identities takes identities back, and up again.
type Identities interface {
	Revoke(ctx context.Context, container workload.ID) error
	// Restore binds the identity of a container that ran before a restart.
	Restore(ctx context.Context, container workload.ID, identity workload.Identity, evidence workload.Evidence) error
}

// Config holds what a Supervisor works with; all fields must be set.
type Config struct {
	Launcher   Launcher
	Sandboxes  Sandboxes
	Network    Network
	Identities Identities
	State      *state.Store
	Bus        *eventbus.Bus
	Log        *slog.Logger
}

// retryEvery is how long a failed clean-up or record waits for its next try.
const retryEvery = time.Second

// Supervisor looks after the containers of one node.
type Supervisor struct {
	Config

	watch    context.CancelFunc // ends the watchers
	watchers sync.WaitGroup
	spawn    func(func(context.Context))

	mu   sync.Mutex // guards live and its values
	live map[workload.ID]*container
}

// container is what the Supervisor knows beyond the record.
type container struct {
	exited chan struct{} // closed when the exit is recorded
	exit   state.Exit    // valid once exited is closed
	gone   bool          // exited is closed
	holds  int           // attachments that still read its output
	remove bool          // remove when exited and not held
}

// Open takes up the containers that state and sandboxes know, undoes launches
// that were never acknowledged, and removes what belongs to nobody.
func Open(ctx context.Context, c Config) (*Supervisor, error) {
	watchCtx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	s := &Supervisor{Config: c, watch: cancel, live: map[workload.ID]*container{}}
	s.spawn = func(f func(context.Context)) { s.watchers.Go(func() { f(watchCtx) }) }
	if err := s.recover(ctx); err != nil {
		s.Close()
		return nil, err
	}
	return s, nil
}

// Close stops looking after containers; they run on.
func (s *Supervisor) Close() {
	s.watch()
	s.watchers.Wait()
}

// Run launches spec under a new id. When hold is true, the container is not
// removed, whatever its spec says, before release is called, and its log is held;
// release is never nil.
func (s *Supervisor) Run(ctx context.Context, caller workload.Principal, spec workload.Spec, hold bool) (_ state.Container, release func(), err error) {
	release = func() {}
	id := workload.NewID()
	record := state.Container{ID: id, Phase: state.Creating, Caller: caller, Spec: spec, Created: time.Now().UTC()}
	if err := s.State.Add(record); err != nil {
		return state.Container{}, release, err
	}
	c := &container{exited: make(chan struct{}), remove: spec.AutoRemove}
	s.adopt(id, c) // before anybody can find it running
	if hold {
		s.Sandboxes.HoldLog(id)
	}
	l, err := s.Launcher.Run(ctx, caller, id, spec)
	if err != nil {
		s.publishFailure(id, spec.Name, err)
		s.giveUp(ctx, id)
		return state.Container{}, release, launchFault(spec.Name, err)
	}
	defer l.Release() // once the record names the image, or the container is gone
	record, err = s.State.Update(id, func(c *state.Container) {
		c.Phase, c.Spec, c.Image, c.Verdicts, c.Grant = state.Running, l.Spec, l.Image, l.Verdicts, l.Grant
		c.Evidence, c.Identity, c.Endpoint, c.Started = l.Evidence, l.Identity, l.Endpoint, time.Now().UTC()
	})
	if err != nil { // it could not be acknowledged, so it must not be
		s.giveUp(ctx, id)
		return state.Container{}, release, err
	}
	s.track(id, c)
	if hold {
		release = s.hold(c, id)
	}
	s.Bus.Publish(eventbus.Event{
		Type: "container.started", Container: id, Name: spec.Name,
		Message: fmt.Sprintf("%s started from %s", spec.Name, l.Image.Reference),
		Attributes: map[string]string{
			"image_digest": string(l.Image.Digest), "spiffe_id": l.Identity.SPIFFEID,
			"record": fmt.Sprint(l.Evidence.Sequence), "level": l.Evidence.Level.String(),
		},
	})
	return record, release, nil
}

// launchFault says which launch an internal error belongs to; a fault says so itself.
func launchFault(name string, err error) error {
	if _, ok := errors.AsType[*fault.Error](err); ok {
		return err
	}
	return fmt.Errorf("launch of %q: %w", name, err)
}

func (s *Supervisor) publishFailure(id workload.ID, name string, err error) {
	kind := "launch.failed"
	if fault.KindOf(err) == fault.Denied {
		kind = "launch.refused"
	}
	s.Bus.Publish(eventbus.Event{
		Type: kind, Container: id, Name: name, Message: err.Error(),
		Attributes: map[string]string{"kind": fault.KindOf(err).String()},
	})
}

// giveUp discards a launch that failed. What cannot be removed now is tried
// again until it can; the record stays so long, so that a restart knows of it.
func (s *Supervisor) giveUp(ctx context.Context, id workload.ID) {
	s.mu.Lock()
	delete(s.live, id)
	s.mu.Unlock()
	err := s.discard(ctx, id)
	if err == nil {
		return
	}
	s.spawn(func(ctx context.Context) {
		for err != nil {
			s.Log.ErrorContext(ctx, "failed launch not cleaned up yet", slog.String("container", string(id)), slog.String("error", err.Error()))
			select {
			case <-ctx.Done():
				return
			case <-time.After(retryEvery):
			}
			err = s.discard(ctx, id)
		}
	})
}

// discard removes all that a container holds, and its record.
func (s *Supervisor) discard(ctx context.Context, id workload.ID) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
	defer cancel()
	if err := errors.Join(
		s.Network.Detach(ctx, id),
		s.Identities.Revoke(ctx, id),
		s.Sandboxes.Destroy(ctx, id),
	); err != nil {
		return err
	}
	return s.State.Remove(id)
}

// track watches a running container for its exit.
func (s *Supervisor) track(id workload.ID, c *container) {
	s.spawn(func(ctx context.Context) {
		exit, err := s.Sandboxes.Wait(ctx, id)
		if ctx.Err() != nil {
			return // the next daemon hears the exit
		}
		e := state.Exit{Code: exit.Code, Signal: int(exit.Signal), OOMKilled: exit.OOMKilled, At: exit.At}
		switch {
		case err != nil:
			e = lostExit(err)
		case exit.Lost:
			e.Message = "it ended with the process that kept it; its own exit code is lost"
		}
		s.finish(ctx, id, c, e)
	})
}

func (s *Supervisor) adopt(id workload.ID, c *container) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.live[id] = c
}

// lostCode is the exit code of a container whose own word was lost.
const lostCode = 255

func lostExit(err error) state.Exit {
	return state.Exit{Code: lostCode, At: time.Now().UTC(), Message: "its exit code is lost: " + err.Error()}
}

// finish gives back what an exited container held and records the exit, trying
// again until both are done or the daemon ends.
func (s *Supervisor) finish(ctx context.Context, id workload.ID, c *container, exit state.Exit) {
	var name string
	for {
		err := errors.Join(s.Network.Detach(ctx, id), s.Identities.Revoke(ctx, id))
		if err == nil {
			var record state.Container
			record, err = s.State.Update(id, func(r *state.Container) { r.Phase, r.Exit, r.Endpoint = state.Exited, &exit, nil })
			name = record.Spec.Name
		}
		if err == nil || fault.KindOf(err) == fault.NotFound {
			break
		}
		s.Log.ErrorContext(ctx, "container exit not recorded yet", slog.String("container", string(id)), slog.String("error", err.Error()))
		select {
		case <-ctx.Done():
			return
		case <-time.After(retryEvery):
		}
	}
	s.mu.Lock()
	c.exit, c.gone = exit, true
	close(c.exited)
	remove := c.remove && c.holds == 0
	s.mu.Unlock()
	s.Bus.Publish(eventbus.Event{
		Type: "container.exited", Container: id, Name: name,
		Message:    fmt.Sprintf("%s exited with code %d", name, exit.Code),
		Attributes: map[string]string{"code": fmt.Sprint(exit.Code), "oom_killed": fmt.Sprint(exit.OOMKilled)},
	})
	if remove {
		s.autoRemove(ctx, id, name)
	}
}

func (s *Supervisor) autoRemove(ctx context.Context, id workload.ID, name string) {
	if err := s.removeExited(ctx, id, name); err != nil {
		s.Log.ErrorContext(ctx, "container not removed", slog.String("container", string(id)), slog.String("error", err.Error()))
	}
}

// hold keeps a container's output readable until the returned function is called.
func (s *Supervisor) hold(c *container, id workload.ID) (release func()) {
	s.mu.Lock()
	c.holds++
	s.mu.Unlock()
	return sync.OnceFunc(func() {
		s.mu.Lock()
		c.holds--
		remove := c.remove && c.gone && c.holds == 0
		s.mu.Unlock()
		if remove {
			s.spawn(func(ctx context.Context) { s.autoRemove(ctx, id, "") })
		}
	})
}
