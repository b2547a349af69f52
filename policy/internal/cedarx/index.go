package cedarx

import (
	"cmp"
	"iter"
	"slices"

	cedar "github.com/cedar-policy/cedar-go"
	"github.com/cedar-policy/cedar-go/types"
	xast "github.com/cedar-policy/cedar-go/x/exp/ast"
)

// Index finds the policies whose scope can match a request, so that the time
// of a decision does not grow with the number of policies about other things.
//
// A policy is filed under the entity that its scope names: the resource, else
// the principal, else none. Policies for some actions only are filed again by
// action. A clause of the scope cannot fail to evaluate, so leaving out a
// policy whose scope cannot match changes neither decision nor reasons nor
// errors (TestIndexEqualsLinear holds that against cedar.Authorize).
type Index struct {
	schema   *Schema
	any      shelf                      // policies for every action
	byAction map[types.EntityUID]*shelf // policies for some actions, by each
	odd      []item                     // action scopes that the schema does not know
	byID     map[cedar.PolicyID]*cedar.Policy
}

type item struct {
	id     cedar.PolicyID
	policy *cedar.Policy
}

// shelf files policies by the entity in their scope.
type shelf struct {
	rest                []item
	resource, principal map[types.EntityUID][]item
	permits             []item // all of them, for explanations
}

// NewIndex files all policies.
func NewIndex(s *Schema, policies iter.Seq2[cedar.PolicyID, *cedar.Policy]) *Index {
	x := &Index{schema: s, byAction: map[types.EntityUID]*shelf{}, byID: map[cedar.PolicyID]*cedar.Policy{}}
	for id, p := range policies {
		x.byID[id] = p
		x.add(item{id, p})
	}
	return x
}

func (x *Index) add(it item) {
	a := (*xast.Policy)(it.policy.AST())
	var wanted []types.EntityUID
	switch scope := a.Action.(type) {
	case xast.ScopeTypeAll:
		x.any.add(a, it)
		return
	case xast.ScopeTypeEq:
		wanted = []types.EntityUID{scope.Entity}
	case xast.ScopeTypeIn:
		wanted = []types.EntityUID{scope.Entity}
	case xast.ScopeTypeInSet:
		wanted = scope.Entities
	default:
		x.odd = append(x.odd, it)
		return
	}
	_, exact := a.Action.(xast.ScopeTypeEq)
	for uid, ancestors := range x.schema.actions {
		if exact {
			ancestors = ancestors[:1]
		}
		if slices.ContainsFunc(wanted, func(w types.EntityUID) bool { return slices.Contains(ancestors, w) }) {
			if x.byAction[uid] == nil {
				x.byAction[uid] = &shelf{}
			}
			x.byAction[uid].add(a, it)
		}
	}
}

func (s *shelf) add(a *xast.Policy, it item) {
	if a.Effect == xast.EffectPermit {
		s.permits = append(s.permits, it)
	}
	if uid, ok := scopeEntity(a.Resource); ok {
		if s.resource == nil {
			s.resource = map[types.EntityUID][]item{}
		}
		s.resource[uid] = append(s.resource[uid], it)
		return
	}
	if uid, ok := scopeEntity(a.Principal); ok {
		if s.principal == nil {
			s.principal = map[types.EntityUID][]item{}
		}
		s.principal[uid] = append(s.principal[uid], it)
		return
	}
	s.rest = append(s.rest, it)
}

func scopeEntity(n any) (types.EntityUID, bool) {
	switch s := n.(type) {
	case xast.ScopeTypeEq:
		return s.Entity, true
	case xast.ScopeTypeIn:
		return s.Entity, true
	case xast.ScopeTypeIsIn:
		return s.Entity, true
	}
	return types.EntityUID{}, false
}

// Len is how many policies there are.
func (x *Index) Len() int { return len(x.byID) }

// Get gives the policy with an id, or nil.
func (x *Index) Get(id cedar.PolicyID) *cedar.Policy { return x.byID[id] }

// Authorize decides as cedar.Authorize does over all policies, with one
// difference that can only deny more: a forbid that cannot be evaluated
// denies, where Cedar would skip it. Reasons and errors are sorted by id. The
// entities must hold the schema's actions (ActionEntities).
func (x *Index) Authorize(entities types.EntityGetter, r cedar.Request) (cedar.Decision, cedar.Diagnostic) {
	decision, diag := cedar.Authorize(candidates{x, entities, r}, entities, r)
	slices.SortFunc(diag.Reasons, func(a, b cedar.DiagnosticReason) int { return cmp.Compare(a.PolicyID, b.PolicyID) })
	slices.SortFunc(diag.Errors, func(a, b cedar.DiagnosticError) int { return cmp.Compare(a.PolicyID, b.PolicyID) })
	if decision == cedar.Allow {
		for _, e := range diag.Errors {
			if p := x.byID[e.PolicyID]; p == nil || p.Effect() == cedar.Forbid {
				diag.Reasons = nil
				return cedar.Deny, diag
			}
		}
	}
	return decision, diag
}

// candidates is the part of the index that a request can match.
type candidates struct {
	x        *Index
	entities types.EntityGetter
	request  cedar.Request
}

// All gives the candidates; it is cedar.PolicyIterator.
func (c candidates) All() iter.Seq2[cedar.PolicyID, *cedar.Policy] {
	return func(yield func(cedar.PolicyID, *cedar.Policy) bool) {
		if _, known := c.x.schema.actions[c.request.Action]; !known {
			for id, p := range c.x.byID { // an action from elsewhere: look at everything
				if !yield(id, p) {
					return
				}
			}
			return
		}
		if each(c.x.odd, yield) && c.shelf(&c.x.any, yield) {
			if s := c.x.byAction[c.request.Action]; s != nil {
				c.shelf(s, yield)
			}
		}
	}
}

func (c candidates) shelf(s *shelf, yield func(cedar.PolicyID, *cedar.Policy) bool) bool {
	return each(s.rest, yield) && c.walk(c.request.Resource, s.resource, yield) && c.walk(c.request.Principal, s.principal, yield)
}

func each(items []item, yield func(cedar.PolicyID, *cedar.Policy) bool) bool {
	for _, it := range items {
		if !yield(it.id, it.policy) {
			return false
		}
	}
	return true
}

// walk gives the policies filed under uid and under each of its ancestors.
func (c candidates) walk(uid types.EntityUID, filed map[types.EntityUID][]item, yield func(cedar.PolicyID, *cedar.Policy) bool) bool {
	if len(filed) == 0 {
		return true
	}
	var space [8]types.EntityUID
	queue := append(space[:0], uid)
	for i := 0; i < len(queue); i++ {
		if slices.Contains(queue[:i], queue[i]) {
			continue
		}
		if !each(filed[queue[i]], yield) {
			return false
		}
		if e, ok := c.entities.Get(queue[i]); ok {
			for p := range e.Parents.All() {
				queue = append(queue, p)
			}
		}
	}
	return true
}
