package engine

import (
	"fmt"
	"strings"
	"testing"

	"tero.internal/common/workload"
	"tero.internal/policy/bundle"
)

// members gives roles to two users, for the default policies about roles.
const members = `[{"uid":{"type":"Tero::User","id":"uid:1000"},"parents":[{"type":"Tero::Role","id":"operator"}]},
	{"uid":{"type":"Tero::User","id":"uid:1001"},"parents":[{"type":"Tero::Role","id":"auditor"}]}]`

// outcomes decides a table of requests by a set; one letter each.
func outcomes(t *testing.T, files []bundle.File) string {
	t.Helper()
	a, err := compile(files)
	if err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	decide := func(r *request, err error) {
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&out, "%c", mark(a.decide(r).allowed))
	}
	for _, change := range []func(*workload.Admission){
		func(*workload.Admission) {},
		func(a *workload.Admission) { a.Image.Signers = nil },
		func(a *workload.Admission) { a.Spec.CapAdd = []string{"CAP_NET_RAW"} },
		func(a *workload.Admission) { a.Spec.MinLevel, a.NodeLevel = workload.L2, workload.L1 },
		func(a *workload.Admission) { a.Spec.MinLevel, a.NodeLevel = workload.L2, workload.L2 },
		func(a *workload.Admission) { a.Spec.MinLevel, a.NodeLevel = workload.L0, workload.L1 },
	} {
		admission := signed("web")
		change(&admission)
		decide(launchRequest(admission, a.set.Entities()))
	}
	for _, uid := range []uint32{0, 1000, 1001, 1002} {
		for _, call := range [][2]string{{"logs", "Container"}, {"stop", "Container"}, {"policyWrite", "PolicySet"}} {
			decide(callRequest(workload.Principal{Local: true, UID: uid}, call[0], call[1], "x", a.set.Entities()))
		}
	}
	return out.String()
}

// TestMutatedDefaults removes or turns round each part of the default
// policies: the table above must notice each, or it would not hold them.
func TestMutatedDefaults(t *testing.T) {
	files, err := bundle.Default()
	if err != nil {
		t.Fatal(err)
	}
	files = append(files, bundle.File{Name: bundle.EntitiesFile, Content: []byte(members)})
	want := outcomes(t, files)
	if want != "+---++"+"+++"+"++-"+"+--"+"---" {
		t.Fatalf("outcomes %s", want)
	}
	for _, m := range [][2]string{
		{"context.signed &&", "true &&"},
		{"context.signed &&", "!context.signed &&"},
		{"context.capabilities.isEmpty() &&", "true &&"},
		{"context.capabilities.isEmpty() &&", "!context.capabilities.isEmpty() &&"},
		{"context.nodeLevel >= context.minLevel", "true"},
		{"context.nodeLevel >= context.minLevel", "context.nodeLevel > context.minLevel"},
		{"context.nodeLevel >= context.minLevel", "context.nodeLevel <= context.minLevel"},
		{"context.nodeLevel >= context.minLevel", "context.nodeLevel == context.minLevel"},
		{`principal == Tero::User::"uid:0"`, "principal"},
		{`principal == Tero::User::"uid:0"`, `principal == Tero::User::"uid:1002"`},
		{`action in Tero::Action::"api"`, `action in Tero::Action::"read"`},
		{`action in Tero::Action::"api"`, `action in Tero::Action::"operate"`},
		{`principal in Tero::Role::"operator"`, "principal"},
		{`principal in Tero::Role::"operator"`, `principal in Tero::Role::"auditor"`},
		{`[Tero::Action::"read", Tero::Action::"operate"]`, `[Tero::Action::"read"]`},
		{`[Tero::Action::"read", Tero::Action::"operate"]`, `[Tero::Action::"operate"]`},
		{`[Tero::Action::"read", Tero::Action::"operate"]`, `[Tero::Action::"api"]`},
		{`principal in Tero::Role::"auditor"`, "principal"},
		{"  action in Tero::Action::\"read\",", "  action in Tero::Action::\"api\","},
		{"permit (\n  principal in Tero::Role::\"auditor\"", "forbid (\n  principal in Tero::Role::\"auditor\""},
	} {
		var mutated []bundle.File
		found := false
		for _, f := range files {
			text := string(f.Content)
			if i := strings.Index(text, m[0]); i >= 0 && !found {
				found = true
				// A reason about a condition that is gone would be refused at load.
				text = noReasons(text[:i]) + m[1] + text[i+len(m[0]):]
			}
			mutated = append(mutated, bundle.File{Name: f.Name, Content: []byte(text)})
		}
		if !found {
			t.Errorf("%q is not in the default policies", m[0])
			continue
		}
		if got := outcomes(t, mutated); got == want {
			t.Errorf("%q instead of %q goes unnoticed", m[1], m[0])
		}
	}
}

func noReasons(text string) string {
	var out strings.Builder
	for line := range strings.Lines(text) {
		if !strings.HasPrefix(line, "@reason_") {
			out.WriteString(line)
		}
	}
	return out.String()
}
