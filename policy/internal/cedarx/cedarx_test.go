package cedarx

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	cedar "github.com/cedar-policy/cedar-go"
	"github.com/cedar-policy/cedar-go/types"
	gocmp "github.com/google/go-cmp/cmp"
)

const testSchema = `namespace T {
	entity Role in [Role];
	entity User in [Role] { age: Long };
	entity Box in [Box] { size: Long } tags String;
	action "all";
	action "look" in [Action::"all"];
	action "list" in [Action::"look"] appliesTo { principal: [User, Role], resource: [Box], context: { n: Long, ok: Bool, tags: Set<String>, tag?: String } };
	action "open", "shut" in [Action::"all"] appliesTo { principal: [User, Role], resource: [Box], context: { n: Long, ok: Bool, tags: Set<String>, tag?: String } };
	action "burn" appliesTo { principal: [User, Role], resource: [Box], context: { n: Long, ok: Bool, tags: Set<String>, tag?: String } };
}`

func mustSchema(t testing.TB) *Schema {
	t.Helper()
	s, err := ParseSchema("test.cedarschema", []byte(testSchema))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func mustPolicies(t testing.TB, texts ...string) cedar.PolicyMap {
	t.Helper()
	m := cedar.PolicyMap{}
	for i, text := range texts {
		var p cedar.Policy
		if err := p.UnmarshalCedar([]byte(text)); err != nil {
			t.Fatalf("%s: %v", text, err)
		}
		m[cedar.PolicyID(fmt.Sprintf("p%03d", i))] = &p
	}
	return m
}

func uid(kind, id string) types.EntityUID {
	return types.NewEntityUID(types.EntityType("T::"+kind), types.String(id))
}

// pick gives one of the choices.
func pick(r *rand.Rand, choices ...string) string { return choices[r.IntN(len(choices))] }

// randomPolicy gives a policy over few entities, so that many match; some
// conditions cannot be evaluated.
func randomPolicy(r *rand.Rand) string {
	n := func() int { return r.IntN(6) }
	principal := pick(r, "principal", fmt.Sprintf(`principal == T::User::"u%d"`, n()), fmt.Sprintf(`principal in T::Role::"r%d"`, n()),
		"principal is T::User", fmt.Sprintf(`principal is T::User in T::Role::"r%d"`, n()), `principal == T::Nobody::"x"`)
	action := pick(r, "action", `action == T::Action::"open"`, `action == T::Action::"all"`, `action in T::Action::"all"`, `action in T::Action::"look"`,
		`action in [T::Action::"look", T::Action::"open"]`, `action in [T::Action::"all", T::Action::"look"]`, `action == T::Action::"nope"`, `action in []`)
	resource := pick(r, "resource", fmt.Sprintf(`resource == T::Box::"b%d"`, n()), fmt.Sprintf(`resource in T::Box::"b%d"`, n()),
		"resource is T::Box", fmt.Sprintf(`resource is T::Box in T::Box::"b%d"`, n()))
	condition := pick(r, "", "", "when { context.ok }", "unless { context.ok }", "when { context.n + 9223372036854775807 > 0 }",
		"when { principal.age > 3 }", "when { context.missing }", `when { context.tags.contains("a") } unless { resource.size == 2 }`)
	return pick(r, "permit", "permit", "forbid") + "(" + principal + ", " + action + ", " + resource + ") " + condition + ";"
}

func randomEntities(r *rand.Rand, s *Schema) types.EntityMap {
	m := s.ActionEntities()
	parents := func(kind, letter string, upTo int) types.EntityUIDSet {
		var list []types.EntityUID
		for range r.IntN(3) {
			if upTo > 0 {
				list = append(list, uid(kind, fmt.Sprintf("%s%d", letter, r.IntN(upTo))))
			}
		}
		return types.NewEntityUIDSet(list...)
	}
	for i := range 6 {
		if r.IntN(4) > 0 {
			u := uid("User", fmt.Sprintf("u%d", i))
			m[u] = types.Entity{UID: u, Parents: parents("Role", "r", 6), Attributes: types.NewRecord(types.RecordMap{"age": types.Long(i)})}
		}
		ro := uid("Role", fmt.Sprintf("r%d", i))
		m[ro] = types.Entity{UID: ro, Parents: parents("Role", "r", 6)} // cycles included
		b := uid("Box", fmt.Sprintf("b%d", i))
		m[b] = types.Entity{UID: b, Parents: parents("Box", "b", i), Attributes: types.NewRecord(types.RecordMap{"size": types.Long(i)})}
	}
	return m
}

func randomRequest(r *rand.Rand) cedar.Request {
	return cedar.Request{
		Principal: uid(pick(r, "User", "User", "Role"), pick(r, "u", "r")+fmt.Sprint(r.IntN(6))),
		Action:    uid("Action", pick(r, "list", "open", "shut", "burn", "all", "elsewhere")),
		Resource:  uid("Box", fmt.Sprintf("b%d", r.IntN(7))),
		Context: types.NewRecord(types.RecordMap{
			"n": types.Long(r.IntN(3)), "ok": types.Boolean(r.IntN(2) == 0), "tags": types.NewSet(types.String(pick(r, "a", "b"))),
		}),
	}
}

func sorted(d cedar.Diagnostic) cedar.Diagnostic {
	slices.SortFunc(d.Reasons, func(a, b cedar.DiagnosticReason) int { return cmp.Compare(a.PolicyID, b.PolicyID) })
	slices.SortFunc(d.Errors, func(a, b cedar.DiagnosticError) int { return cmp.Compare(a.PolicyID, b.PolicyID) })
	return d
}

// TestIndexEqualsLinear holds the index against cedar.Authorize over all
// policies: decision, reasons and errors, on random sets. The one difference
// allowed is the strict one: a forbid in error denies.
func TestIndexEqualsLinear(t *testing.T) {
	s := mustSchema(t)
	decided, strict := map[cedar.Decision]int{}, 0
	for seed := range uint64(300) {
		r := rand.New(rand.NewPCG(seed, 7))
		var texts []string
		for range 1 + r.IntN(30) {
			texts = append(texts, randomPolicy(r))
		}
		policies := mustPolicies(t, texts...)
		entities := randomEntities(r, s)
		index := NewIndex(s, policies.All())
		for range 40 {
			request := randomRequest(r)
			wantDecision, wantDiag := cedar.Authorize(policies, entities, request)
			wantDiag = sorted(wantDiag)
			if wantDecision == cedar.Allow && slices.ContainsFunc(wantDiag.Errors, func(e cedar.DiagnosticError) bool {
				return policies[e.PolicyID].Effect() == cedar.Forbid
			}) {
				wantDecision, wantDiag.Reasons = cedar.Deny, nil
				strict++
			}
			got, diag := index.Authorize(entities, request)
			decided[got]++
			if got != wantDecision || gocmp.Diff(wantDiag, diag) != "" {
				t.Fatalf("seed %d, %+v: %v, want %v\n%s\n%s", seed, request, got, wantDecision, gocmp.Diff(wantDiag, diag), strings.Join(texts, "\n"))
			}
		}
	}
	if decided[cedar.Allow] < 500 || decided[cedar.Deny] < 500 || strict < 20 {
		t.Errorf("the random sets are poor: %d allowed, %d denied, %d by an error in a forbid", decided[cedar.Allow], decided[cedar.Deny], strict)
	}
}

func TestErrorInForbidDenies(t *testing.T) {
	s := mustSchema(t)
	request := cedar.Request{
		Principal: uid("User", "u1"), Action: uid("Action", "open"), Resource: uid("Box", "b1"),
		Context: types.NewRecord(types.RecordMap{"n": types.Long(1)}),
	}
	for _, c := range []struct {
		name, policy string
		want         cedar.Decision
	}{
		{"forbid overflows", `forbid(principal, action, resource) when { context.n + 9223372036854775807 > 0 };`, cedar.Deny},
		{"forbid reads what is absent", `forbid(principal, action, resource) when { principal.age > 18 };`, cedar.Deny},
		{"permit in error only does not permit", `permit(principal, action, resource) when { context.n + 9223372036854775807 > 0 };`, cedar.Allow},
		{"forbid for something else", `forbid(principal, action == T::Action::"shut", resource) when { principal.age > 18 };`, cedar.Allow},
	} {
		t.Run(c.name, func(t *testing.T) {
			index := NewIndex(s, mustPolicies(t, "permit(principal, action, resource);", c.policy).All())
			got, diag := index.Authorize(s.ActionEntities(), request)
			if got != c.want {
				t.Errorf("%v (%+v), want %v", got, diag, c.want)
			}
			if got == cedar.Deny && len(diag.Reasons) > 0 {
				t.Errorf("a denial names permits as its reasons: %+v", diag.Reasons)
			}
		})
	}
}

func TestMisses(t *testing.T) {
	s := mustSchema(t)
	request := cedar.Request{
		Principal: uid("User", "u1"), Action: uid("Action", "open"), Resource: uid("Box", "b1"),
		Context: types.NewRecord(types.RecordMap{"n": types.Long(1), "ok": types.False, "tags": types.NewSet(types.String("x"))}),
	}
	for _, c := range []struct {
		policy string
		want   []string // failed conditions
		of     int
		reads  string
	}{
		{`permit(principal, action, resource) when { context.ok && context.n == 1 && context.tags.isEmpty() };`, []string{"context.ok", "context.tags.isEmpty()"}, 3, "ok,tags"},
		{`permit(principal, action, resource) unless { context.ok || context.n == 1 };`, []string{"!(context.n == 1)"}, 2, "n"},
		{`permit(principal, action, resource) when { !(context.n == 1 || context.n == 2) };`, []string{"!(context.n == 1)"}, 2, "n"},
		{`permit(principal, action, resource) when { context has tag && context.tag == "x" };`, []string{"context has tag"}, 2, "tag"},
		{`permit(principal == T::User::"a, b", action, resource in T::Box::"b9");`, []string{`principal == T::User::"a, b"`, `resource in T::Box::"b9"`}, 2, ""},
		{`permit(principal in T::Role::"r1", action == T::Action::"open", resource) when { context.n == 1 };`, []string{`principal in T::Role::"r1"`}, 2, ""},
		{`permit(principal is T::Role, action, resource);`, []string{"principal is T::Role"}, 1, ""},
		{`permit(principal, action, resource) when { context.n + 9223372036854775807 > 0 };`, []string{"context.n + 9223372036854775807 > 0"}, 1, "n"},
		{`permit(principal, action, resource) when { context.ok };`, []string{"context.ok"}, 1, "ok"},
		{`permit(principal, action, resource) when { if context.ok then true else context.n > 5 };`, []string{"if context.ok then true else context.n > 5"}, 1, "n,ok"},
	} {
		index := NewIndex(s, mustPolicies(t, c.policy, `permit(principal, action == T::Action::"shut", resource);`, `forbid(principal, action, resource) when { false };`).All())
		misses := index.Misses(s.ActionEntities(), request)
		if len(misses) != 1 {
			t.Errorf("%s: %d misses: %+v", c.policy, len(misses), misses)
			continue
		}
		var texts, reads []string
		for _, f := range misses[0].Failed {
			texts, reads = append(texts, f.Text), append(reads, f.Attributes...)
		}
		if diff := gocmp.Diff(c.want, texts); diff != "" || misses[0].Conditions != c.of || strings.Join(reads, ",") != c.reads {
			t.Errorf("%s: %d conditions, reads %v\n%s", c.policy, misses[0].Conditions, reads, diff)
		}
	}
}

func TestMissesAreNearestFirst(t *testing.T) {
	s := mustSchema(t)
	index := NewIndex(s, mustPolicies(t,
		`permit(principal, action, resource) when { context.ok && context.n == 7 };`,
		`permit(principal, action, resource) when { context.ok && context.n == 1 && true };`,
		`permit(principal, action, resource) when { context.ok };`,
	).All())
	var order []string
	for _, m := range index.Misses(s.ActionEntities(), cedar.Request{
		Principal: uid("User", "u"), Action: uid("Action", "list"), Resource: uid("Box", "b"),
		Context: types.NewRecord(types.RecordMap{"n": types.Long(1), "ok": types.False}),
	}) {
		order = append(order, string(m.ID))
	}
	if diff := gocmp.Diff([]string{"p001", "p002", "p000"}, order); diff != "" {
		t.Error(diff)
	}
}

func TestSchemaLookups(t *testing.T) {
	s := mustSchema(t)
	for path, want := range map[string]bool{"n": true, "tag": true, "zz": false, "n.x": false, "": false} {
		if got := s.HasContext(uid("Action", "open"), path); got != want {
			t.Errorf("%q: %v", path, got)
		}
	}
	if s.HasContext(uid("Action", "all"), "n") || s.HasContext(uid("Action", "nope"), "n") {
		t.Error("a group or an unknown action has a context")
	}
	if !s.InGroup(uid("Action", "list"), uid("Action", "all")) || s.InGroup(uid("Action", "burn"), uid("Action", "all")) {
		t.Error("groups are wrong")
	}
	if diff := gocmp.Diff(map[string][]string{"list": {"T::Box"}, "open": {"T::Box"}, "shut": {"T::Box"}, "burn": {"T::Box"}}, s.Actions()); diff != "" {
		t.Error(diff)
	}
	if _, err := ParseSchema("x", []byte("entity")); err == nil {
		t.Error("a broken schema was read")
	}
	if _, err := ParseSchema("x", []byte("entity A in [Nope];")); err == nil {
		t.Error("a schema with an unknown type was read")
	}
}
