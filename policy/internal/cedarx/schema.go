// Package cedarx is everything of policy that touches the experimental part of
// cedar-go (its x/exp): the schema, strict validation, the index by scope and
// the explanation of a decision. A new version of cedar-go is an edit here.
package cedarx

import (
	"fmt"
	"slices"
	"strings"

	cedar "github.com/cedar-policy/cedar-go"
	"github.com/cedar-policy/cedar-go/types"
	xast "github.com/cedar-policy/cedar-go/x/exp/ast"
	xschema "github.com/cedar-policy/cedar-go/x/exp/schema"
	"github.com/cedar-policy/cedar-go/x/exp/schema/resolved"
	"github.com/cedar-policy/cedar-go/x/exp/schema/validate"
)

// Schema is a resolved schema with its strict validator.
type Schema struct {
	resolved  *resolved.Schema
	validator *validate.Validator
	// actions holds each action with its ancestors, itself first.
	actions map[types.EntityUID][]types.EntityUID
}

// ParseSchema reads a schema in Cedar's own syntax.
func ParseSchema(name string, text []byte) (*Schema, error) {
	var s xschema.Schema
	s.SetFilename(name)
	if err := s.UnmarshalCedar(text); err != nil {
		return nil, fmt.Errorf("schema: %w", err)
	}
	r, err := s.Resolve()
	if err != nil {
		return nil, fmt.Errorf("schema %s: %w", name, err)
	}
	out := &Schema{resolved: r, validator: validate.New(r), actions: map[types.EntityUID][]types.EntityUID{}}
	for uid := range r.Actions {
		out.actions[uid] = out.ancestors(uid)
	}
	return out, nil
}

func (s *Schema) ancestors(uid types.EntityUID) []types.EntityUID {
	list := []types.EntityUID{uid}
	for i := 0; i < len(list); i++ {
		for p := range s.resolved.Actions[list[i]].Entity.Parents.All() {
			if !slices.Contains(list, p) {
				list = append(list, p)
			}
		}
	}
	return list
}

// Policy checks one policy strictly: every entity type, action, attribute and
// operand type must be in the schema.
func (s *Schema) Policy(id string, p *cedar.Policy) error {
	return s.validator.Policy(id, (*xast.Policy)(p.AST()))
}

// Request checks a request.
func (s *Schema) Request(r cedar.Request) error { return s.validator.Request(r) }

// Entity checks an entity.
func (s *Schema) Entity(e types.Entity) error { return s.validator.Entity(e) }

// Actions gives the names of the actions that a request can be for, with the
// entity types each applies to, both sorted.
func (s *Schema) Actions() map[string][]string {
	out := map[string][]string{}
	for uid, a := range s.resolved.Actions {
		if a.AppliesTo == nil {
			continue // a group
		}
		var kinds []string
		for _, r := range a.AppliesTo.Resources {
			kinds = append(kinds, string(r))
		}
		slices.Sort(kinds)
		out[string(uid.ID)] = kinds
	}
	return out
}

// ActionEntities gives the actions with their parents, as evaluation needs them.
func (s *Schema) ActionEntities() types.EntityMap {
	m := types.EntityMap{}
	for uid, a := range s.resolved.Actions {
		m[uid] = a.Entity
	}
	return m
}

// InGroup tells whether an action is in a group of actions.
func (s *Schema) InGroup(action, group types.EntityUID) bool {
	return slices.Contains(s.actions[action], group)
}

// HasContext tells whether an action's context can have the attribute at a
// dotted path ("image.reference").
func (s *Schema) HasContext(action types.EntityUID, path string) bool {
	a, ok := s.resolved.Actions[action]
	if !ok || a.AppliesTo == nil {
		return false
	}
	record := a.AppliesTo.Context
	parts := strings.Split(path, ".")
	for i, part := range parts {
		attr, ok := record[types.String(part)]
		if !ok {
			return false
		}
		if i == len(parts)-1 {
			return true
		}
		if record, ok = attr.Type.(resolved.RecordType); !ok {
			return false
		}
	}
	return false
}
