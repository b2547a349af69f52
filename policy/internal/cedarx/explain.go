package cedarx

import (
	"bytes"
	"cmp"
	"slices"
	"strings"

	cedar "github.com/cedar-policy/cedar-go"
	"github.com/cedar-policy/cedar-go/ast"
	"github.com/cedar-policy/cedar-go/types"
	xast "github.com/cedar-policy/cedar-go/x/exp/ast"
	"github.com/cedar-policy/cedar-go/x/exp/eval"
)

// Failure is one condition that kept a permit from matching.
type Failure struct {
	// Text is the condition as Cedar text.
	Text string
	// Attributes are the attributes of context that it reads ("signed").
	Attributes []string
	// Error is set when it could not be evaluated.
	Error error
}

// Miss is a permit that did not match.
type Miss struct {
	ID     cedar.PolicyID
	Failed []Failure
	// Conditions is how many there are: what the scope says about principal
	// and resource, and each operand of the outermost && in the conditions.
	Conditions int
}

// mostMisses is how many permits are looked at beyond those that the index
// gives, so that explaining a refusal takes bounded time.
const mostMisses = 1000

// Misses gives the permits for the request's action that did not match,
// nearest first: those of which the fewest conditions failed. Of a large set
// it sees all permits whose scope names this request's entities, and the first
// thousand of the others.
func (x *Index) Misses(entities types.EntityGetter, r cedar.Request) []Miss {
	env := eval.Env{Entities: entities, Principal: r.Principal, Action: r.Action, Resource: r.Resource, Context: r.Context}
	var out []Miss
	for id, p := range x.explainable(candidates{x, entities, r}) {
		a := (*xast.Policy)(p.AST())
		e := explainer{env: env}
		e.scope(a)
		for _, c := range a.Conditions {
			e.condition(c.Body, bool(c.Condition))
		}
		if len(e.failed) > 0 {
			out = append(out, Miss{ID: id, Failed: e.failed, Conditions: e.of})
		}
	}
	slices.SortFunc(out, func(a, b Miss) int {
		return cmp.Or(cmp.Compare(len(a.Failed), len(b.Failed)), cmp.Compare(b.Conditions, a.Conditions), cmp.Compare(a.ID, b.ID))
	})
	return out
}

// explainable gives the permits that are for the request's action.
func (x *Index) explainable(c candidates) map[cedar.PolicyID]*cedar.Policy {
	out := map[cedar.PolicyID]*cedar.Policy{}
	for id, p := range c.All() {
		if p.Effect() == cedar.Permit {
			out[id] = p
		}
	}
	room := mostMisses
	for _, s := range []*shelf{x.byAction[c.request.Action], &x.any} {
		if s == nil {
			continue
		}
		for _, it := range s.permits[:min(len(s.permits), room)] {
			out[it.id] = it.policy
		}
		room -= min(len(s.permits), room)
	}
	return out
}

// scopeNode gives a scope as an expression; parts that are nil match all.
func scopeNode(p xast.Policy) xast.IsNode {
	all := xast.Permit()
	if p.Principal == nil {
		p.Principal = all.Principal
	}
	if p.Action == nil {
		p.Action = all.Action
	}
	if p.Resource == nil {
		p.Resource = all.Resource
	}
	p.Conditions = nil
	return eval.PolicyToNode(&p).AsIsNode()
}

func holds(env eval.Env, n xast.IsNode) bool {
	v, err := eval.Eval(n, env)
	return err == nil && v == types.True
}

type explainer struct {
	env    eval.Env
	failed []Failure
	of     int
}

func (e *explainer) scope(a *xast.Policy) {
	if _, all := a.Principal.(xast.ScopeTypeAll); !all {
		e.clause(xast.Policy{Principal: a.Principal}, "principal")
	}
	if _, all := a.Resource.(xast.ScopeTypeAll); !all {
		e.clause(xast.Policy{Resource: a.Resource}, "resource")
	}
}

func (e *explainer) clause(p xast.Policy, variable string) {
	e.of++
	if !holds(e.env, scopeNode(p)) {
		full := *xast.Permit()
		if p.Principal != nil {
			full.Principal = p.Principal
		}
		if p.Resource != nil {
			full.Resource = p.Resource
		}
		e.failed = append(e.failed, Failure{Text: clauseText(&full, variable)})
	}
}

// condition splits what must be true at &&, what must be false at ||, and
// evaluates the parts. A part that cannot be evaluated because a part before
// it is false (context has tag && context.tag == "x") is not held against it.
func (e *explainer) condition(n xast.IsNode, want bool) {
	switch t := n.(type) {
	case xast.NodeTypeAnd:
		if want {
			e.condition(t.Left, want)
			e.condition(t.Right, want)
			return
		}
	case xast.NodeTypeOr:
		if !want {
			e.condition(t.Left, want)
			e.condition(t.Right, want)
			return
		}
	case xast.NodeTypeNot:
		e.condition(t.Arg, !want)
		return
	}
	e.of++
	v, err := eval.Eval(n, e.env)
	switch {
	case err != nil && len(e.failed) > 0:
	case err != nil || v != types.Boolean(want):
		e.failed = append(e.failed, Failure{Text: Text(n, want), Attributes: Attributes(n), Error: err})
	}
}

// Attributes gives the attributes of context that an expression reads, sorted.
func Attributes(n xast.IsNode) []string {
	var out []string
	note := func(object xast.IsNode, name types.String) {
		if v, ok := object.(xast.NodeTypeVariable); ok && v.Name == "context" {
			out = append(out, string(name))
		}
	}
	xast.Inspect(xast.NewNode(n), func(n xast.IsNode) bool {
		switch t := n.(type) {
		case xast.NodeTypeAccess:
			note(t.Arg, t.Value)
		case xast.NodeTypeHas:
			note(t.Arg, t.Value)
		}
		return true
	})
	slices.Sort(out)
	return slices.Compact(out)
}

// PolicyAttributes gives the attributes of context that a policy's conditions read.
func PolicyAttributes(p *cedar.Policy) []string {
	var out []string
	for _, c := range (*xast.Policy)(p.AST()).Conditions {
		out = append(out, Attributes(c.Body)...)
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// Text gives an expression that must have the value want as Cedar text.
func Text(n xast.IsNode, want bool) string {
	node := xast.NewNode(n)
	if !want {
		node = xast.Not(node)
	}
	b := cedar.NewPolicyFromAST((*ast.Policy)(xast.Permit().When(node))).MarshalCedar()
	_, rest, _ := bytes.Cut(b, []byte("when {"))
	rest = bytes.TrimSuffix(bytes.TrimSpace(rest), []byte("};"))
	return strings.Join(strings.Fields(string(rest)), " ")
}

// clauseText gives what a scope says about one variable.
func clauseText(p *xast.Policy, variable string) string {
	text := strings.Join(strings.Fields(string(cedar.NewPolicyFromAST((*ast.Policy)(p)).MarshalCedar())), " ")
	i := strings.Index(text, variable)
	if i < 0 {
		return variable
	}
	text = strings.TrimSuffix(strings.TrimSuffix(text[i:], ");"), " ")
	return strings.TrimSuffix(text, ", action, resource")
}
