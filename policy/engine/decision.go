package engine

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	cedar "github.com/cedar-policy/cedar-go"
	"github.com/cedar-policy/cedar-go/types"
	"github.com/opencontainers/go-digest"

	"tero.internal/common/workload"
	"tero.internal/policy/bundle"
	"tero.internal/policy/internal/cedarx"
)

// Decision is the record of one decision.
type Decision struct {
	// ID finds the record; empty for a decision that was only tried.
	ID      string    `json:"id,omitempty"`
	Time    time.Time `json:"time"`
	Allowed bool      `json:"allowed"`
	// Principal and Resource are Cedar entities (Tero::User::"uid:0").
	Principal string `json:"principal"`
	Action    string `json:"action"`
	Resource  string `json:"resource"`
	// Message is the outcome in one line for people.
	Message string `json:"message"`
	// Matched are the policies that decided, by id.
	Matched []Matched `json:"matched,omitempty"`
	// NearMisses are the permits nearest to matching, for a default denial.
	NearMisses []NearMiss `json:"nearMisses,omitempty"`
	// Errors are the policies that could not be evaluated.
	Errors []EvaluationError `json:"errors,omitempty"`
	// Audited are policies in audit mode that matched; they decided nothing.
	Audited []Matched `json:"audited,omitempty"`
	// PolicyDigest is the digest of the set that decided.
	PolicyDigest digest.Digest `json:"policyDigest"`
	// RequestDigest is the SHA-256 of the canonical request: Principal,
	// Action, Resource, Parents, Labels and Context.
	RequestDigest digest.Digest `json:"requestDigest"`
	// Parents are what the resource lies in (repository, network).
	Parents []string          `json:"parents,omitempty"`
	Labels  map[string]string `json:"labels,omitempty"`
	// Context is the request's context in Cedar's JSON form.
	Context json.RawMessage `json:"context"`
	// Duration is how long deciding took.
	Duration time.Duration `json:"durationNs"`
}

// Matched is a policy whose scope and conditions held.
type Matched struct {
	Policy string `json:"policy"`
	Effect string `json:"effect"`
	File   string `json:"file"`
	Line   int    `json:"line"`
	// Reason is the policy's @reason with the values of the request.
	Reason string `json:"reason,omitempty"`
}

// NearMiss is a permit that did not match, and what it lacked.
type NearMiss struct {
	Policy string `json:"policy"`
	File   string `json:"file"`
	Line   int    `json:"line"`
	// Failed are the conditions that did not hold, as Cedar text: the first ten.
	Failed []string `json:"failed"`
	// Missing is how many did not hold, Conditions how many there are in all.
	Missing    int    `json:"missing"`
	Conditions int    `json:"conditions"`
	Reason     string `json:"reason,omitempty"`
}

// String gives "allow-signed: 1 of 3 conditions failed: context.signed".
func (m NearMiss) String() string {
	return fmt.Sprintf("%s: %d of %d conditions failed: %s", m.Policy, m.Missing, m.Conditions, strings.Join(m.Failed, "; "))
}

// EvaluationError is a policy that could not be evaluated.
type EvaluationError struct {
	Policy  string `json:"policy"`
	Message string `json:"message"`
}

// nearMisses is how many are told, with up to nearFailures conditions each.
const (
	nearMisses   = 3
	nearFailures = 10
)

// maxRecord is how long a record may be before it is shortened, in bytes.
const maxRecord = 64 << 10

// active is a set with its indexes; it does not change.
type active struct {
	set     *bundle.Set
	enforce *cedarx.Index
	audit   *cedarx.Index
	loaded  time.Time
}

func newActive(set *bundle.Set) (*active, error) {
	schema, err := bundle.Schema()
	if err != nil {
		return nil, err
	}
	return &active{
		set: set, loaded: time.Now().UTC(),
		enforce: cedarx.NewIndex(schema, set.Mode(bundle.Enforce)),
		audit:   cedarx.NewIndex(schema, set.Mode(bundle.Audit)),
	}, nil
}

// verdict is what Cedar said, before it is put into words.
type verdict struct {
	allowed bool
	diag    cedar.Diagnostic
	audited []cedar.DiagnosticReason
	took    time.Duration
}

func (a *active) decide(r *request) verdict {
	start := time.Now()
	entities := overlay{a.set.Entities(), r}
	decision, diag := a.enforce.Authorize(entities, r.cedar)
	v := verdict{allowed: decision == cedar.Allow, diag: diag}
	if a.audit.Len() > 0 {
		_, audited := a.audit.Authorize(entities, r.cedar)
		v.audited = audited.Reasons
	}
	v.took = time.Since(start)
	return v
}

// record puts a verdict into words.
func (a *active) record(r *request, v verdict) (*Decision, error) {
	d := &Decision{
		Time: time.Now().UTC(), Allowed: v.allowed, PolicyDigest: a.set.Digest, Duration: v.took,
		Principal: r.cedar.Principal.String(), Action: string(r.cedar.Action.ID), Resource: r.cedar.Resource.String(),
		Labels: map[string]string{},
	}
	for p := range r.resource.Parents.All() {
		d.Parents = append(d.Parents, p.String())
	}
	slices.Sort(d.Parents)
	for k, l := range r.resource.Tags.All() {
		d.Labels[string(k)] = valueText(l)
	}
	for _, m := range v.diag.Reasons {
		d.Matched = append(d.Matched, a.matched(r, m.PolicyID))
	}
	for _, m := range v.audited {
		d.Audited = append(d.Audited, a.matched(r, m.PolicyID))
	}
	for _, e := range v.diag.Errors {
		d.Errors = append(d.Errors, EvaluationError{string(e.PolicyID), e.Message})
	}
	if !v.allowed && len(d.Matched) == 0 {
		a.misses(r, d)
	}
	d.Message = a.words(r, d)
	var err error
	if d.Context, err = contextJSON(r.cedar.Context); err != nil {
		return nil, err
	}
	d.RequestDigest, err = workload.CanonicalDigest(struct {
		Principal string            `json:"principal"`
		Action    string            `json:"action"`
		Resource  string            `json:"resource"`
		Parents   []string          `json:"parents"`
		Labels    map[string]string `json:"labels"`
		Context   json.RawMessage   `json:"context"`
	}{d.Principal, d.Action, d.Resource, d.Parents, d.Labels, d.Context})
	d.Principal, d.Resource = clip(d.Principal), clip(d.Resource)
	return d, err
}

// encode gives the record as JSON. A request so large that it would push many
// others out of the ring is kept by its digest only.
func (d *Decision) encode() ([]byte, error) {
	b, err := json.Marshal(d)
	if err == nil && len(b) > maxRecord {
		short := *d
		short.Context, short.Labels, short.Parents = json.RawMessage(`{}`), nil, nil
		b, err = json.Marshal(short)
	}
	if err != nil {
		return nil, fmt.Errorf("decision as JSON: %w", err)
	}
	return b, nil
}

func (a *active) matched(r *request, id cedar.PolicyID) Matched {
	p, _ := a.set.Policy(string(id))
	return Matched{Policy: p.ID, Effect: p.Effect, File: p.File, Line: p.Line, Reason: bundle.Fill(p.Reason, r.text)}
}

func (a *active) misses(r *request, d *Decision) {
	all := a.enforce.Misses(overlay{a.set.Entities(), r}, r.cedar)
	for _, m := range all[:min(len(all), nearMisses)] {
		p, _ := a.set.Policy(string(m.ID))
		n := NearMiss{Policy: p.ID, File: p.File, Line: p.Line, Missing: len(m.Failed), Conditions: m.Conditions}
		var reasons []string
		for i, f := range m.Failed {
			if i == nearFailures {
				n.Failed = append(n.Failed, fmt.Sprintf("and %d more", len(m.Failed)-i))
				break
			}
			text := clip(f.Text)
			if f.Error != nil {
				text += " (cannot be evaluated: " + f.Error.Error() + ")"
			}
			n.Failed = append(n.Failed, text)
			for _, attribute := range f.Attributes {
				if why := p.Reasons[attribute]; why != "" {
					reasons = append(reasons, bundle.Fill(why, r.text))
				}
			}
		}
		if len(reasons) == 0 && p.Reason != "" {
			reasons = append(reasons, bundle.Fill(p.Reason, r.text))
		}
		slices.Sort(reasons)
		n.Reason = strings.Join(slices.Compact(reasons), "; ")
		d.NearMisses = append(d.NearMisses, n)
	}
}

// words gives the outcome in one line.
func (a *active) words(r *request, d *Decision) string {
	subject := fmt.Sprintf("%s of %q", d.Action, printable(string(r.cedar.Resource.ID)))
	if d.Action != "launch" {
		subject = fmt.Sprintf("action %s on %s", d.Action, subjectOf(r.cedar.Resource))
	}
	if d.Allowed {
		return fmt.Sprintf("%s permitted by %s", subject, policyNames(d.Matched))
	}
	return fmt.Sprintf("%s refused by policy: %s", subject, a.why(r, d))
}

func (a *active) why(r *request, d *Decision) string {
	if len(d.Matched) > 0 {
		var reasons []string
		for _, m := range d.Matched {
			if m.Reason != "" {
				reasons = append(reasons, m.Reason)
			}
		}
		if len(reasons) > 0 {
			return strings.Join(slices.Compact(reasons), "; ")
		}
		return policyNames(d.Matched) + " forbids it"
	}
	for _, e := range d.Errors {
		if p, _ := a.set.Policy(e.Policy); p.Effect == "forbid" {
			return fmt.Sprintf("policy %s, which could forbid it, cannot be evaluated: %s", e.Policy, e.Message)
		}
	}
	if len(d.NearMisses) == 0 {
		return fmt.Sprintf("no policy permits it to %s", printable(string(r.cedar.Principal.ID)))
	}
	nearest := d.NearMisses[0]
	if nearest.Reason != "" {
		return nearest.Reason
	}
	return fmt.Sprintf("no policy permits it to %s; nearest is %s", printable(string(r.cedar.Principal.ID)), nearest)
}

func policyNames(list []Matched) string {
	names := make([]string, 0, len(list))
	for _, m := range list {
		names = append(names, m.Policy)
	}
	return strings.Join(names, ", ")
}

// subjectOf gives `container "web"` for Tero::Container::"web".
func subjectOf(uid types.EntityUID) string {
	kind := strings.ToLower(strings.TrimPrefix(string(uid.Type), bundle.Namespace+"::"))
	if kind == "policyset" {
		return "the policy set"
	}
	return fmt.Sprintf("%s %q", kind, printable(string(uid.ID)))
}

// contextJSON gives the context with sets in a fixed order.
func contextJSON(r types.Record) (json.RawMessage, error) {
	b, err := json.Marshal(plain(r))
	if err != nil {
		return nil, fmt.Errorf("context as JSON: %w", err)
	}
	return b, nil
}

func plain(v types.Value) any {
	switch t := v.(type) {
	case types.Record:
		m := map[string]any{}
		for k, e := range t.All() {
			m[string(k)] = plain(e)
		}
		return m
	case types.Set:
		list := make([]string, 0, t.Len())
		for e := range t.All() {
			list = append(list, valueText(e))
		}
		slices.Sort(list)
		return list
	case types.Boolean:
		return bool(t)
	case types.Long:
		return int64(t)
	}
	return valueText(v)
}
