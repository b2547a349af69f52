// Package server handles the calls of api/policy/v1. Whether a caller may make
// them is decided before, by the daemon's interceptor.
package server

import (
	"context"
	"strings"

	"github.com/opencontainers/go-digest"
	"google.golang.org/protobuf/types/known/timestamppb"

	policyv1 "tero.internal/api/policy/v1"
	"tero.internal/common/fault"
	"tero.internal/common/workload"
	"tero.internal/policy/bundle"
	"tero.internal/policy/engine"
)

// mostDecisions bounds one answer.
const mostDecisions = 1000

// Server is the PolicyService of one engine. Errors are faults; the daemon
// turns them into gRPC codes.
type Server struct {
	policyv1.UnsafePolicyServiceServer // so that a method that is missing does not compile
	engine                             *engine.Engine
}

// New gives the service of an engine.
func New(e *engine.Engine) *Server { return &Server{engine: e} }

// ListPolicies gives the policies in force.
func (s *Server) ListPolicies(context.Context, *policyv1.ListPoliciesRequest) (*policyv1.ListPoliciesResponse, error) {
	set, _ := s.engine.Current()
	out := &policyv1.ListPoliciesResponse{Set: s.set()}
	for _, p := range set.Policies() {
		out.Policies = append(out.Policies, policy(p))
	}
	return out, nil
}

// ApplyPolicy replaces the policy set.
func (s *Server) ApplyPolicy(ctx context.Context, r *policyv1.ApplyPolicyRequest) (*policyv1.ApplyPolicyResponse, error) {
	before, err := s.engine.Apply(ctx, files(r.GetFiles()), digest.Digest(r.GetExpectedDigest()))
	if err != nil {
		return nil, err
	}
	set, _ := s.engine.Current()
	return &policyv1.ApplyPolicyResponse{Set: s.set(), PreviousDigest: before.String(), Policies: int32(len(set.Policies()))}, nil //nolint:gosec // at most 100,000
}

// CheckPolicy tells what is wrong with files.
func (s *Server) CheckPolicy(_ context.Context, r *policyv1.CheckPolicyRequest) (*policyv1.CheckPolicyResponse, error) {
	set, problems, err := s.engine.Check(files(r.GetFiles()))
	if err != nil {
		return nil, err
	}
	out := &policyv1.CheckPolicyResponse{}
	for _, p := range problems {
		out.Problems = append(out.Problems, &policyv1.Problem{
			File: p.File, Line: int32(p.Line), Column: int32(p.Column), Policy: p.Policy, Message: p.Message, //nolint:gosec // files are at most 16 MiB
		})
	}
	if len(problems) == 0 {
		out.Digest, out.Policies = set.Digest.String(), int32(len(set.Policies())) //nolint:gosec // at most 100,000
	}
	return out, nil
}

// TestPolicy decides a launch that nobody asked for.
func (s *Server) TestPolicy(ctx context.Context, r *policyv1.TestPolicyRequest) (*policyv1.TestPolicyResponse, error) {
	admission, err := admission(r.GetLaunch())
	if err != nil {
		return nil, err
	}
	d, err := s.engine.TestLaunch(ctx, admission, files(r.GetFiles()))
	if err != nil {
		return nil, err
	}
	return &policyv1.TestPolicyResponse{Decision: decision(d)}, nil
}

// ExplainDecision gives the record of a decision with the policies it names.
func (s *Server) ExplainDecision(_ context.Context, r *policyv1.ExplainDecisionRequest) (*policyv1.ExplainDecisionResponse, error) {
	d, err := s.engine.Explain(r.GetId())
	if err != nil {
		return nil, err
	}
	set, _ := s.engine.Current()
	out := &policyv1.ExplainDecisionResponse{Decision: decision(d), Current: set.Digest == d.PolicyDigest}
	named := map[string]bool{}
	add := func(id string) {
		if p, ok := set.Policy(id); ok && !named[id] {
			named[id] = true
			out.Policies = append(out.Policies, policy(p))
		}
	}
	for _, m := range d.Matched {
		add(m.Policy)
	}
	for _, m := range d.NearMisses {
		add(m.Policy)
	}
	for _, m := range d.Errors {
		add(m.Policy)
	}
	for _, m := range d.Audited {
		add(m.Policy)
	}
	return out, nil
}

// ListDecisions gives the newest decisions.
func (s *Server) ListDecisions(_ context.Context, r *policyv1.ListDecisionsRequest) (*policyv1.ListDecisionsResponse, error) {
	limit := int(r.GetLimit())
	switch {
	case limit < 0:
		return nil, fault.New(fault.Invalid, "limit %d is negative", limit)
	case limit == 0:
		limit = 100
	}
	list, err := s.engine.Decisions(min(limit, mostDecisions), r.GetRefusedOnly())
	if err != nil {
		return nil, err
	}
	out := &policyv1.ListDecisionsResponse{}
	for _, d := range list {
		out.Decisions = append(out.Decisions, decision(d))
	}
	return out, nil
}

func (s *Server) set() *policyv1.PolicySet {
	set, loaded := s.engine.Current()
	return &policyv1.PolicySet{Digest: set.Digest.String(), BuiltIn: set.BuiltIn, Loaded: timestamppb.New(loaded)}
}

func files(in []*policyv1.File) []bundle.File {
	var out []bundle.File
	for _, f := range in {
		out = append(out, bundle.File{Name: f.GetName(), Content: f.GetContent()})
	}
	return out
}

func policy(p bundle.Policy) *policyv1.Policy {
	return &policyv1.Policy{
		Id: p.ID, Effect: p.Effect, Mode: string(p.Mode), Reason: p.Reason,
		File: p.File, Line: int32(p.Line), Text: p.Text, //nolint:gosec // files are at most 16 MiB
	}
}

func matched(list []engine.Matched) []*policyv1.Matched {
	var out []*policyv1.Matched
	for _, m := range list {
		out = append(out, &policyv1.Matched{Policy: m.Policy, Effect: m.Effect, File: m.File, Line: int32(m.Line), Reason: m.Reason}) //nolint:gosec // as above
	}
	return out
}

func decision(d *engine.Decision) *policyv1.Decision {
	out := &policyv1.Decision{
		Id: d.ID, Time: timestamppb.New(d.Time), Allowed: d.Allowed,
		Principal: d.Principal, Action: d.Action, Resource: d.Resource, Message: d.Message,
		Matched: matched(d.Matched), Audited: matched(d.Audited),
		PolicyDigest: d.PolicyDigest.String(), RequestDigest: d.RequestDigest.String(),
		Context: string(d.Context), DurationNs: d.Duration.Nanoseconds(),
	}
	for _, m := range d.NearMisses {
		out.NearMisses = append(out.NearMisses, &policyv1.NearMiss{
			Policy: m.Policy, File: m.File, Line: int32(m.Line), Failed: m.Failed, Conditions: int32(m.Conditions), Missing: int32(m.Missing), Reason: m.Reason, //nolint:gosec // small
		})
	}
	for _, e := range d.Errors {
		out.Errors = append(out.Errors, &policyv1.EvaluationError{Policy: e.Policy, Message: e.Message})
	}
	return out
}

// testDigest stands for an image in a test that names no digest.
const testDigest = "sha256:0000000000000000000000000000000000000000000000000000000000000000"

// admission makes what policy decides on of a hypothetical launch. It passes
// through the same completion and checks as a real one.
func admission(l *policyv1.HypotheticalLaunch) (workload.Admission, error) {
	if l.GetImage() == "" {
		return workload.Admission{}, fault.New(fault.Invalid, "the launch to test names no image")
	}
	imageDigest := digest.Digest(or(l.GetImageDigest(), testDigest))
	if err := imageDigest.Validate(); err != nil {
		return workload.Admission{}, fault.New(fault.Invalid, "image digest %q: %w", l.GetImageDigest(), err)
	}
	level, err := workload.ParseLevel(or(l.GetNodeLevel(), "L0"))
	if err != nil {
		return workload.Admission{}, fault.New(fault.Invalid, "%w", err)
	}
	minLevel, err := workload.ParseLevel(or(l.GetMinLevel(), "L0"))
	if err != nil {
		return workload.Admission{}, fault.New(fault.Invalid, "%w", err)
	}
	image := workload.Image{Reference: l.GetImage(), Digest: imageDigest, Config: workload.ImageConfig{Cmd: []string{"test"}}}
	for _, name := range l.GetSigners() {
		image.Signers = append(image.Signers, workload.Signer{Name: name, KeyID: testDigest})
	}
	spec := workload.Spec{
		Name: or(l.GetName(), "test"), Image: l.GetImage(), Labels: l.GetLabels(), CapAdd: l.GetCapAdd(),
		WritableRootfs: l.GetWritableRootfs(), Network: or(l.GetNetwork(), workload.NetworkDefault), User: l.GetUser(),
		Resources: workload.Resources{MilliCPU: l.GetMilliCpu(), MemoryBytes: l.GetMemoryBytes(), Pids: l.GetPids()},
		MinLevel:  minLevel,
	}
	if spec, err = spec.Complete(image); err == nil {
		err = spec.Validate()
	}
	if err != nil {
		return workload.Admission{}, fault.New(fault.Invalid, "%w", err)
	}
	out := workload.Admission{
		Caller: workload.Principal{Local: true}, Spec: spec, Image: image,
		SPIFFEID: "spiffe://test/workload/" + spec.Name, NodeLevel: level,
	}
	if c := l.GetCaller(); c != nil {
		out.Caller = workload.Principal{Local: c.GetSpiffeId() == "", UID: c.GetUid(), SPIFFEID: c.GetSpiffeId()}
	}
	for _, name := range l.GetPlugins() {
		name, pluginDigest, _ := strings.Cut(name, "@")
		out.Plugins = append(out.Plugins, workload.PluginVerdict{Plugin: name, Digest: digest.Digest(or(pluginDigest, testDigest))})
	}
	return out, nil
}

func or(s, otherwise string) string {
	if s != "" {
		return s
	}
	return otherwise
}
