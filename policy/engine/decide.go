package engine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"

	"tero.internal/common/eventbus"
	"tero.internal/common/fault"
	"tero.internal/common/workload"
	"tero.internal/policy/bundle"
	"tero.internal/policy/internal/ring"
)

// policySetName is the one policy set of a node.
const policySetName = "policy"

// Actions gives the actions that Authorize knows, each with the kinds of
// resource that it can be about, so that a table of API methods can be checked
// by a test.
func (e *Engine) Actions() map[string][]string {
	out := map[string][]string{}
	for action, types := range e.actions {
		if action == "launch" {
			continue
		}
		for _, t := range types {
			out[action] = append(out[action], strings.TrimPrefix(t, bundle.Namespace+"::"))
		}
	}
	return out
}

// AdmitLaunch permits one launch or gives a fault of kind Denied. The decision
// is recorded before it is given; a launch whose permission cannot be recorded
// is refused.
func (e *Engine) AdmitLaunch(ctx context.Context, admission workload.Admission) (workload.Grant, error) {
	d, err := e.launch(e.now.Load(), admission)
	if err != nil {
		return workload.Grant{}, err
	}
	d.ID = newID()
	if err := keep(e.launches, d); err != nil {
		return workload.Grant{}, fault.New(fault.Exhausted, "launch of %q: the policy decision cannot be recorded: %w", admission.Spec.Name, err).
			WithHint("see whether the disk of the state folder is full")
	}
	e.tell(ctx, d, admission.Spec.Name)
	if !d.Allowed {
		return workload.Grant{}, denied(d)
	}
	grant := workload.Grant{DecisionID: d.ID, PolicyDigest: d.PolicyDigest}
	for _, m := range d.Matched {
		grant.Policies = append(grant.Policies, m.Policy)
	}
	return grant, nil
}

// launch decides on a launch and records nothing.
func (e *Engine) launch(a *active, admission workload.Admission) (*Decision, error) {
	r, err := launchRequest(admission, a.set.Entities())
	if err != nil {
		return nil, err
	}
	d, err := a.record(r, a.decide(r))
	if err != nil {
		return nil, err
	}
	// The level is what the request itself asks for: no policy can waive it.
	if d.Allowed && admission.NodeLevel < admission.Spec.MinLevel {
		d.Allowed = false
		d.Message = fmt.Sprintf("launch of %q refused: it asks for assurance level %s, and this node has %s",
			printable(admission.Spec.Name), admission.Spec.MinLevel, admission.NodeLevel)
	}
	return d, nil
}

// TestLaunch gives what would be decided on a launch, by the set in force or
// by files when there are any. Nothing is recorded.
func (e *Engine) TestLaunch(_ context.Context, admission workload.Admission, files []bundle.File) (*Decision, error) {
	a := e.now.Load()
	if len(files) > 0 {
		var err error
		a, err = compile(files)
		if invalid, ok := errors.AsType[*InvalidError](err); ok {
			return nil, fault.New(fault.Invalid, "the policies cannot be used: %w", invalid)
		}
		if err != nil {
			return nil, err
		}
	}
	return e.launch(a, admission)
}

// Authorize permits one call of the API, or gives a fault of kind Denied (or
// Unauthenticated, for a caller that cannot be named). action is one of
// Actions; resourceKind is an entity type of the schema ("Container", "Image",
// "Network", "Plugin", "PolicySet", "Node"), Node when empty. resourceName
// should be the name that policies are written for, not an ID that a caller may
// give instead. Permitted reading is not recorded.
func (e *Engine) Authorize(ctx context.Context, caller workload.Principal, action, resourceKind, resourceName string) error {
	if resourceKind == "" {
		resourceKind = "Node"
	}
	if err := e.checkKind(action, resourceKind); err != nil {
		return err
	}
	if resourceKind == "PolicySet" {
		resourceName = policySetName
	}
	a := e.now.Load()
	r, err := callRequest(caller, action, resourceKind, resourceName, a.set.Entities())
	if err != nil {
		return err
	}
	v := a.decide(r)
	if v.allowed && len(v.audited) == 0 && e.schema.InGroup(r.cedar.Action, actionUID("read")) {
		return nil
	}
	d, err := a.record(r, v)
	if err != nil {
		return err
	}
	d.ID = newID()
	if err := keep(e.calls, d); err != nil {
		// A full disk must not keep an operator from freeing it.
		e.log.ErrorContext(ctx, "a decision on a call was not recorded", slog.String("message", d.Message), slog.Any("error", err))
	}
	e.tell(ctx, d, "")
	if !d.Allowed {
		return denied(d)
	}
	return nil
}

// checkKind refuses what is not in the schema: a mistake in TERO.
func (e *Engine) checkKind(action, kind string) error {
	types, known := e.actions[action]
	if !known || action == "launch" {
		return fault.New(fault.Internal, "policy knows no action %q on an API call; it knows %s", action,
			strings.Join(slices.Sorted(maps.Keys(e.Actions())), ", "))
	}
	if !slices.Contains(types, string(entityType(kind))) {
		return fault.New(fault.Internal, "policy: the action %q is not about the kind %q", action, kind)
	}
	return nil
}

func denied(d *Decision) error {
	f := fault.New(fault.Denied, "%s", d.Message)
	if len(d.NearMisses) == 0 {
		return f.WithHint("\"tero policy why %s\" tells which policies were looked at", d.ID)
	}
	return f.WithHint("the nearest policy is %s; \"tero policy why %s\" tells more", d.NearMisses[0], d.ID)
}

// tell logs and publishes what others may care about.
func (e *Engine) tell(ctx context.Context, d *Decision, name string) {
	attributes := map[string]string{"decision": d.ID, "action": d.Action, "principal": d.Principal, "resource": d.Resource}
	if !d.Allowed {
		e.log.InfoContext(ctx, "refused by policy", slog.String("decision", d.ID), slog.String("action", d.Action),
			slog.String("principal", d.Principal), slog.String("resource", d.Resource), slog.String("reason", d.Message))
		e.publish(eventbus.Event{Type: "policy.refused", Name: name, Message: d.Message, Attributes: attributes})
	}
	for _, m := range d.Audited {
		e.log.InfoContext(ctx, "a policy in audit mode matched", slog.String("decision", d.ID), slog.String("policy", m.Policy),
			slog.String("effect", m.Effect), slog.String("resource", d.Resource))
		with := maps.Clone(attributes)
		with["policy"], with["effect"] = m.Policy, m.Effect
		e.publish(eventbus.Event{
			Type: "policy.audited", Name: name, Attributes: with,
			Message: fmt.Sprintf("policy %s (audit) would %s: action %s on %s", m.Policy, m.Effect, d.Action, d.Resource),
		})
	}
}

// Explain gives the record of a decision by its ID, by the beginning of it, or
// the newest refusal for "".
func (e *Engine) Explain(id string) (*Decision, error) {
	if id == "" {
		list, err := e.Decisions(1, true)
		if err != nil {
			return nil, err
		}
		if len(list) == 0 {
			return nil, fault.New(fault.NotFound, "nothing was refused yet")
		}
		return list[0], nil
	}
	b, err := e.launches.Get(id)
	if errors.Is(err, ring.ErrNotFound) {
		b, err = e.calls.Get(id)
	}
	switch {
	case errors.Is(err, ring.ErrNotFound):
		return nil, fault.New(fault.NotFound, "no decision %q is on record", id).
			WithHint("only the newest decisions are kept; tero policy why without an id explains the newest refusal")
	case errors.Is(err, ring.ErrAmbiguous):
		return nil, fault.New(fault.Invalid, "more than one decision begins with %q", id).WithHint("give more of the id")
	case err != nil:
		return nil, err
	}
	return decode(b)
}

func decode(b []byte) (*Decision, error) {
	var d Decision
	if err := json.Unmarshal(b, &d); err != nil {
		return nil, fault.New(fault.Corrupt, "a decision record cannot be read: %w", err)
	}
	return &d, nil
}

// Decisions gives up to limit decisions, newest first.
func (e *Engine) Decisions(limit int, refusedOnly bool) ([]*Decision, error) {
	var only byte
	if refusedOnly {
		only = mark(false)
	}
	var out []*Decision
	for _, r := range []*ring.Ring{e.launches, e.calls} {
		records, err := r.Newest(limit, only)
		if err != nil {
			return nil, err
		}
		for _, b := range records {
			d, err := decode(b)
			if err != nil {
				return nil, err
			}
			out = append(out, d)
		}
	}
	slices.SortStableFunc(out, func(a, b *Decision) int { return b.Time.Compare(a.Time) })
	return out[:min(len(out), limit)], nil
}
