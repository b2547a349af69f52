package supervise

import (
	"context"
	"errors"
	"fmt"
	"reflect"

	"tero.internal/common/fault"
	"tero.internal/common/workload"
	"tero.internal/runtime/state"
)

// Change is what Update changes; nil and 0 leave it as it is.
type Change struct {
	Resources workload.Resources
	Restart   *workload.Restart
}

// Update changes limits and restart policy of a container, at once when it runs,
// and for its later launches. Plugins and policy decide as on a launch of what it
// would be then, with the caller who asks. What was launched and measured stays in
// the record as it was; the present limits are beside it. On an error nothing is
// changed.
//
// Limits are set in the kernel first: a crash before the record leaves new limits
// with an old record until the next launch or update, never a record of limits
// that do not hold.
func (s *Supervisor) Update(ctx context.Context, caller workload.Principal, key string, change Change) (state.Container, error) {
	r, c, release, err := s.claim(ctx, key)
	if err != nil {
		return r, err
	}
	defer release()
	present := r.Spec.Resources
	if r.Limits != nil {
		present = *r.Limits
	}
	asked, want := r.Asked, r.Spec
	asked.Resources = changed(asked.Resources, change.Resources)
	want.Resources = changed(present, change.Resources)
	if change.Restart != nil {
		asked.Restart, want.Restart = *change.Restart, *change.Restart
	}
	if err := asked.Validate(); err != nil {
		return r, fault.New(fault.Invalid, "the change is not valid: %w", err).WithHint("nothing was changed; \"tero update --help\" describes each flag")
	}
	final, grant, err := s.Launcher.Readmit(ctx, caller, want, r.Image)
	if err != nil {
		return r, err
	}
	runs := r.Phase == state.Running
	if runs && !reflect.DeepEqual(final.Resources, present) {
		if err := s.Processes.Update(ctx, r.ID, final.Resources); err != nil {
			return r, err
		}
	}
	record, err := s.State.Update(r.ID, func(r *state.Container) {
		r.Asked = asked
		if runs && !reflect.DeepEqual(final.Resources, r.Spec.Resources) {
			r.Limits = &final.Resources
		} else {
			r.Limits = nil
		}
	})
	if err != nil {
		if runs {
			err = errors.Join(err, s.Processes.Update(context.WithoutCancel(ctx), r.ID, present))
		}
		return r, err
	}
	c.wake() // a wait for a restart may be over
	s.publishChange(record, "container.updated", "was updated", map[string]string{
		"milli_cpu": fmt.Sprint(final.Resources.MilliCPU), "memory_bytes": fmt.Sprint(final.Resources.MemoryBytes),
		"pids": fmt.Sprint(final.Resources.Pids), "restart": record.Policy().String(), "decision": grant.DecisionID,
	})
	return record, nil
}

// changed gives r with the limits that c sets.
func changed(r, c workload.Resources) workload.Resources {
	for _, l := range []struct{ to, from *int64 }{
		{&r.MilliCPU, &c.MilliCPU}, {&r.MemoryBytes, &c.MemoryBytes}, {&r.Pids, &c.Pids},
	} {
		if *l.from != 0 {
			*l.to = *l.from
		}
	}
	return r
}
