package bundle

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/cedar-policy/cedar-go/types"
	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

// The entity types of callers and roles.
const (
	TypeUser     = types.EntityType(Namespace + "::User")
	TypeNode     = types.EntityType(Namespace + "::Node")
	TypeWorkload = types.EntityType(Namespace + "::Workload")
	TypeRole     = types.EntityType(Namespace + "::Role")
)

type entityRef struct {
	Type string `json:"type"`
	ID   string `json:"id"`
}

// entityEntry is Cedar's JSON form of an entity, of which only the membership
// is taken: what a caller is, the kernel or a certificate says.
type entityEntry struct {
	UID     entityRef      `json:"uid"`
	Attrs   map[string]any `json:"attrs"`
	Parents []entityRef    `json:"parents"`
}

// Caller gives the entity of a caller, with the attributes that its ID says.
// The ID of a User is uid:N or a SPIFFE ID, that of others a SPIFFE ID or name.
func Caller(uid types.EntityUID, parents types.EntityUIDSet) (types.Entity, error) {
	e := types.Entity{UID: uid, Parents: parents}
	id := string(uid.ID)
	switch uid.Type {
	case TypeUser:
		n, local := strings.CutPrefix(id, "uid:")
		number := int64(-1)
		if local {
			parsed, err := strconv.ParseUint(n, 10, 32)
			if err != nil || strconv.FormatUint(parsed, 10) != n {
				return e, fmt.Errorf("%q is not uid: and a number", id)
			}
			number = int64(parsed)
		} else if !strings.HasPrefix(id, "spiffe://") {
			return e, fmt.Errorf("user %q is neither uid:N nor a SPIFFE ID", id)
		}
		spiffeID := id
		if local {
			spiffeID = ""
		}
		e.Attributes = types.NewRecord(types.RecordMap{"uid": types.Long(number), "local": types.Boolean(local), "spiffeId": types.String(spiffeID)})
	case TypeWorkload:
		e.Attributes = types.NewRecord(types.RecordMap{"name": types.String(id), "spiffeId": types.String(id)})
	case TypeNode, TypeRole:
	default:
		return e, fmt.Errorf("entity type %s is given by the request; only %s, %s, %s and %s can have roles", uid.Type, TypeUser, TypeWorkload, TypeNode, TypeRole)
	}
	return e, nil
}

func (r *reader) entitiesFile(f File) {
	var entries []entityEntry
	if err := json.Unmarshal(f.Content, &entries, json.RejectUnknownMembers(true)); err != nil {
		r.problem(jsonProblem(f, err))
		return
	}
	found := map[types.EntityUID]bool{}
	for i, e := range entries {
		fail := func(format string, args ...any) {
			r.problem(Problem{File: f.Name, Message: fmt.Sprintf("entry %d (%s::%q): %s", i+1, e.UID.Type, e.UID.ID, fmt.Sprintf(format, args...))})
		}
		uid := types.NewEntityUID(types.EntityType(e.UID.Type), types.String(e.UID.ID))
		switch {
		case e.UID.Type == "" || e.UID.ID == "":
			fail("uid needs type and id")
			continue
		case found[uid]:
			fail("the entity is given twice")
			continue
		case len(e.Attrs) > 0:
			fail("attributes come from the request, not from this file")
			continue
		}
		found[uid] = true
		var parents []types.EntityUID
		for _, p := range e.Parents {
			parents = append(parents, types.NewEntityUID(types.EntityType(p.Type), types.String(p.ID)))
		}
		entity, err := Caller(uid, types.NewEntityUIDSet(parents...))
		if err == nil {
			err = r.schema.Entity(entity)
		}
		if err == nil {
			err = onlyRoles(parents)
		}
		if err != nil {
			fail("%v", err)
			continue
		}
		r.set.entities[uid] = entity
	}
	if cycle, ok := r.cycle(); ok {
		r.problem(Problem{File: f.Name, Message: fmt.Sprintf("role %q is a member of itself", cycle.ID)})
	}
}

func onlyRoles(parents []types.EntityUID) error {
	for _, p := range parents {
		if p.Type != TypeRole {
			return fmt.Errorf("parent %s is not a %s", p, TypeRole)
		}
	}
	return nil
}

// cycle finds a role that is its own ancestor.
func (r *reader) cycle() (types.EntityUID, bool) {
	const open, done = 1, 2
	state := map[types.EntityUID]int{}
	var visit func(uid types.EntityUID) bool
	visit = func(uid types.EntityUID) bool {
		switch state[uid] {
		case open:
			return true
		case done:
			return false
		}
		state[uid] = open
		if e, ok := r.set.entities[uid]; ok {
			for p := range e.Parents.All() {
				if visit(p) {
					return true
				}
			}
		}
		state[uid] = done
		return false
	}
	for uid := range r.set.entities {
		if visit(uid) {
			return uid, true
		}
	}
	return types.EntityUID{}, false
}

// jsonProblem finds the line of a JSON error.
func jsonProblem(f File, err error) Problem {
	p := Problem{File: f.Name, Message: "not a list of entities in Cedar's JSON form: " + err.Error()}
	offset := int64(-1)
	var syntax *jsontext.SyntacticError
	var semantic *json.SemanticError
	switch {
	case errors.As(err, &syntax):
		offset = syntax.ByteOffset
	case errors.As(err, &semantic):
		offset = semantic.ByteOffset
	}
	if offset >= 0 && offset <= int64(len(f.Content)) {
		p.Line = 1 + strings.Count(string(f.Content[:offset]), "\n")
	}
	return p
}
