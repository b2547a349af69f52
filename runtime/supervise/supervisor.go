// Package supervise looks after containers from launch to removal: it records
// them, hears their exits, gives back what they held, launches them again as
// their restart policies say, checks their health, and takes them up again after
// the daemon was restarted or killed.
//
// The record comes first: what somebody wants ("stopped") and what is about to
// happen ("restarting, due at ...") is durable before it is done, so that
// whenever this process is killed the next one finds what was meant. Each row is
// a test in crash_test.go:
//
//	killed                                 the next daemon
//	in a launch                            undoes it: nobody was told that it runs
//	while it runs, or ends                 takes it up; the exit is heard at once or later
//	after an exit, before its record       records it, and decides about the restart
//	in the wait for a restart              waits until the recorded time, and restarts it
//	in the launch of a restart             ends that one, and launches it anew
//	in a start of an exited one            ends that one: nobody was told that it runs
//	after "stopped" was recorded,
//	before the signal                      takes it up; whenever it ends it stays so
//	after the signal, before the exit      records the exit; it stays so
//	in a restart, between stop and start   leaves it exited, as after a failed start
//	while one is paused                    takes it up; it is paused, as the kernel says
//	in an update                           takes it up; the present limits are the recorded
//	                                       ones, or those of the update
//
//	the machine was started anew
//	running, no or on-failure              exited with a lost code, which is a failure:
//	                                       on-failure restarts it
//	running, always or unless-stopped      the same, restarted
//	restarting                             restarted
//	exited, always                         started again, also after a stop
//	exited, unless-stopped                 started again, unless somebody stopped it
//	exited, no or on-failure               stays so
package supervise

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"tero.internal/common/eventbus"
	"tero.internal/common/fault"
	"tero.internal/common/workload"
	"tero.internal/runtime/health"
	"tero.internal/runtime/launch"
	"tero.internal/runtime/sandbox"
	"tero.internal/runtime/state"
)

// Launcher launches containers (launch.Pipeline).
type Launcher interface {
	Run(ctx context.Context, caller workload.Principal, container workload.ID, spec workload.Spec) (*launch.Launched, error)
	// Again launches one that ran before, with the same image, log and layer.
	Again(ctx context.Context, caller workload.Principal, container workload.ID, spec workload.Spec, image digest.Digest) (*launch.Launched, error)
	// Readmit decides on a change of one that runs.
	Readmit(ctx context.Context, caller workload.Principal, spec workload.Spec, image workload.Image) (workload.Spec, workload.Grant, error)
}

// Sandboxes are the process trees (sandbox.Native).
type Sandboxes interface {
	Signal(ctx context.Context, container workload.ID, sig unix.Signal) error
	// Wait gives the exit, also when it was long ago.
	Wait(ctx context.Context, container workload.ID) (sandbox.Exit, error)
	List(ctx context.Context) ([]sandbox.Status, error)
	Destroy(ctx context.Context, container workload.ID) error
	// End is Destroy, but for the log and the writable layer.
	End(ctx context.Context, container workload.ID) error
}

// Logs are the containers' outputs (sandbox.Native).
type Logs interface {
	// HoldLog makes a container whose launch is to come wait rather than lose
	// output that nobody has read.
	HoldLog(container workload.ID)
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

// Config holds what a Supervisor works with; all fields but Check must be set.
type Config struct {
	Launcher   Launcher
	Sandboxes  Sandboxes
	Processes  Processes
	Logs       Logs
	Network    Network
	Identities Identities
	State      *state.Store
	// Check runs a health check in a container; by Exec when it is nil.
	Check func(ctx context.Context, container workload.ID, command []string) (code int, output []byte, err error)
	// Boot names this run of the machine (/proc/sys/kernel/random/boot_id).
	Boot string
	Bus  *eventbus.Bus
	Log  *slog.Logger
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

// Open takes up the containers that state and sandboxes know, undoes launches
// that were never acknowledged, and removes what belongs to nobody.
func Open(ctx context.Context, c Config) (*Supervisor, error) {
	watchCtx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	s := &Supervisor{Config: c, watch: cancel, live: map[workload.ID]*container{}}
	if c.Check == nil {
		s.Check = func(ctx context.Context, container workload.ID, command []string) (int, []byte, error) {
			return health.Execute(ctx, s, container, command)
		}
	}
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
	record := state.Container{ID: id, Phase: state.Creating, Caller: caller, Spec: spec, Asked: spec, Created: time.Now().UTC()}
	if err := s.State.Add(record); err != nil {
		return state.Container{}, release, err
	}
	c := newContainer(spec.AutoRemove)
	s.adopt(id, c) // before anybody can find it running
	if hold {
		s.Logs.HoldLog(id)
	}
	l, err := s.Launcher.Run(ctx, caller, id, spec)
	if err != nil {
		s.publishFailure(id, spec.Name, err)
		s.giveUp(ctx, id)
		return state.Container{}, release, launchFault(spec.Name, err)
	}
	defer l.Release() // once the record names the image, or the container is gone
	record, err = s.State.Update(id, func(r *state.Container) { s.launched(r, l) })
	if err != nil { // it could not be acknowledged, so it must not be
		s.giveUp(ctx, id)
		return state.Container{}, release, err
	}
	s.track(id, c)
	if hold {
		release = s.hold(c, id)
	}
	s.publishStart(record)
	return record, release, nil
}

// launched makes the record of a container that a launch has left running.
func (s *Supervisor) launched(r *state.Container, l *launch.Launched) {
	r.Phase, r.Spec, r.Image, r.Verdicts, r.Grant = state.Running, l.Spec, l.Image, l.Verdicts, l.Grant
	r.Evidence, r.Identity, r.Endpoint, r.Started = l.Evidence, l.Identity, l.Endpoint, time.Now().UTC()
	r.Limits, r.Boot, r.Health, r.Restarts.Now = nil, s.Boot, "", false
}

func (s *Supervisor) publishStart(r state.Container) {
	message := fmt.Sprintf("%s started from %s", r.Spec.Name, r.Image.Reference)
	if r.Restarts.Count > 0 {
		message = fmt.Sprintf("%s started again from %s, restart %d", r.Spec.Name, r.Image.Reference, r.Restarts.Count)
	}
	s.Bus.Publish(eventbus.Event{
		Type: "container.started", Container: r.ID, Name: r.Spec.Name, Message: message,
		Attributes: map[string]string{
			"image_digest": string(r.Image.Digest), "spiffe_id": r.Identity.SPIFFEID,
			"record": fmt.Sprint(r.Evidence.Sequence), "level": r.Evidence.Level.String(), "restarts": fmt.Sprint(r.Restarts.Count),
		},
	})
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
			if !pause(ctx, retryEvery) {
				return
			}
			err = s.discard(ctx, id)
		}
	})
}

// discard removes all that a container holds, and its record.
func (s *Supervisor) discard(ctx context.Context, id workload.ID) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
	defer cancel()
	if err := errors.Join(s.giveBack(ctx, id), s.Sandboxes.Destroy(ctx, id)); err != nil {
		return err
	}
	return s.State.Remove(id)
}

// giveBack takes from a container what others could use.
func (s *Supervisor) giveBack(ctx context.Context, id workload.ID) error {
	return errors.Join(s.Network.Detach(ctx, id), s.Identities.Revoke(ctx, id))
}

// pause waits; it is false when ctx has ended.
func pause(ctx context.Context, d time.Duration) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(d):
		return true
	}
}
