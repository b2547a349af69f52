package engine

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"tero.internal/common/eventbus"
	"tero.internal/common/fault"
	"tero.internal/common/workload"
	"tero.internal/policy/bundle"
)

var root = workload.Principal{Local: true}

func signed(name string) workload.Admission {
	return workload.Admission{
		Caller: root, SPIFFEID: "spiffe://n.tero/workload/" + name,
		Spec: workload.Spec{
			Name: name, Image: "web:v1", Network: "default", User: "0:0", Args: []string{"/web"},
			Labels: map[string]string{"tier": "front"}, Resources: workload.Resources{Pids: 1024},
		},
		Image: workload.Image{
			Reference: "localhost/team/web:v1", Digest: digest.Digest("sha256:" + strings.Repeat("a", 64)),
			Signers: []workload.Signer{{Name: "demo", KeyID: "sha256:" + strings.Repeat("b", 64)}},
		},
		Plugins: []workload.PluginVerdict{{Plugin: "nolatest", Digest: digest.Digest("sha256:" + strings.Repeat("c", 64))}},
	}
}

func unsigned(name string) workload.Admission {
	a := signed(name)
	a.Image.Signers, a.Image.Reference = nil, "localhost/rogue:v1"
	return a
}

func write(t testing.TB, dir string, files map[string]string) {
	t.Helper()
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for name, content := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// folder gives an engine over a policy folder with these files.
func folder(t testing.TB, files map[string]string) (*Engine, Config) {
	t.Helper()
	base := t.TempDir()
	c := Config{Dir: filepath.Join(base, "policies"), StateDir: filepath.Join(base, "state"), Bus: &eventbus.Bus{}, Log: slog.New(slog.DiscardHandler)}
	write(t, c.Dir, files)
	e, err := Open(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = e.Close() })
	return e, c
}

const (
	rootAPI    = `@id("root-api") permit (principal == Tero::User::"uid:0", action in Tero::Action::"api", resource);`
	allowAll   = `@id("allow-all") permit (principal, action == Tero::Action::"launch", resource);`
	launchOnly = "(principal, action == Tero::Action::\"launch\", resource)"
)

func TestDefaultCallPolicies(t *testing.T) {
	e, _ := folder(t, map[string]string{"entities.json": `[
		{"uid":{"type":"Tero::User","id":"uid:1000"},"parents":[{"type":"Tero::Role","id":"operator"}]},
		{"uid":{"type":"Tero::User","id":"spiffe://n.tero/user/ann"},"parents":[{"type":"Tero::Role","id":"auditor"}]}]`})
	operator, nobody := workload.Principal{Local: true, UID: 1000}, workload.Principal{Local: true, UID: 1001}
	auditor := workload.Principal{SPIFFEID: "spiffe://n.tero/user/ann"}
	web := workload.Principal{SPIFFEID: "spiffe://n.tero/workload/web"}
	const permitted = fault.Kind(255)
	for _, c := range []struct {
		who          workload.Principal
		action, kind string
		want         fault.Kind
	}{
		{root, "policyWrite", "PolicySet", permitted},
		{root, "stop", "Container", permitted},
		{root, "imageImport", "Image", permitted},
		{root, "info", "", permitted},
		{operator, "stop", "Container", permitted},
		{operator, "run", "Container", permitted},
		{operator, "logs", "Container", permitted},
		{operator, "policyWrite", "PolicySet", fault.Denied},
		{operator, "imageImport", "Image", fault.Denied},
		{auditor, "logs", "Container", permitted},
		{auditor, "attest", "Node", permitted},
		{auditor, "stop", "Container", fault.Denied},
		{nobody, "list", "Node", fault.Denied},
		{web, "exec", "Container", fault.Denied},
		{workload.Principal{}, "info", "", fault.Unauthenticated},
		{workload.Principal{SPIFFEID: "spiffe://n.tero/robot/x"}, "info", "", fault.Unauthenticated},
		{workload.Principal{SPIFFEID: "uid:0"}, "info", "", fault.Unauthenticated},
		{root, "launch", "Workload", fault.Internal},
		{root, "fly", "", fault.Internal},
		{root, "stop", "Image", fault.Internal},
	} {
		err := e.Authorize(t.Context(), c.who, c.action, c.kind, "web")
		if (err == nil) != (c.want == permitted) || err != nil && fault.KindOf(err) != c.want {
			t.Errorf("%+v %s %s: %v", c.who, c.action, c.kind, err)
		}
	}
	err := e.Authorize(t.Context(), nobody, "stop", "Container", "web")
	want := `action stop on container "web" refused by policy: no policy permits it to uid:1001; nearest is operators-api: 1 of 1 conditions failed: principal in Tero::Role::"operator"`
	if err == nil || err.Error() != want {
		t.Errorf("got  %v\nwant %s", err, want)
	}
}

// TestRequestsFitTheSchema holds what the engine asks against the schema that
// the policies are held against.
func TestRequestsFitTheSchema(t *testing.T) {
	schema, err := bundle.Schema()
	if err != nil {
		t.Fatal(err)
	}
	e, _ := folder(t, nil)
	set, _ := e.Current()
	check := func(r *request, err error) {
		t.Helper()
		if err != nil {
			t.Error(err)
			return
		}
		for _, err := range []error{schema.Request(r.cedar), schema.Entity(r.principal), schema.Entity(r.resource)} {
			if err != nil {
				t.Errorf("%+v: %v", r.cedar, err)
			}
		}
	}
	callers := []workload.Principal{root, {SPIFFEID: "spiffe://a/user/b"}, {SPIFFEID: "spiffe://a/workload/b"}, {SPIFFEID: "spiffe://a/node/b"}}
	for _, who := range callers {
		for action, kinds := range e.Actions() {
			for _, kind := range kinds {
				if err := e.checkKind(action, kind); err != nil {
					t.Fatal(err)
				}
				check(callRequest(who, action, kind, "localhost/a/b:v1", set.Entities()))
			}
		}
		for _, a := range []workload.Admission{signed("web"), unsigned("web"), {Spec: workload.Spec{Name: "x"}}} {
			a.Caller = who
			check(launchRequest(a, set.Entities()))
		}
	}
}

func TestReferences(t *testing.T) {
	for reference, want := range map[string][3]string{
		"localhost/web:v1":               {"localhost", "localhost/web", "v1"},
		"localhost:5000/a/b":             {"localhost:5000", "localhost:5000/a/b", ""},
		"r.example/a@sha256:" + "00":     {"r.example", "r.example/a", ""},
		"r.example:1/a:t@sha256:" + "00": {"r.example:1", "r.example:1/a", "t"},
		"":                               {"", "", ""},
	} {
		a, b, c := splitReference(reference)
		if got := [3]string{a, b, c}; got != want {
			t.Errorf("%q: %q", reference, got)
		}
	}
	var names []string
	for _, u := range repositories("r:5000/a/b") {
		names = append(names, string(u.ID))
	}
	if diff := cmp.Diff([]string{"r:5000/a/b", "r:5000/a", "r:5000"}, names); diff != "" {
		t.Error(diff)
	}
	for user, want := range map[string]bool{"": true, "0": true, "root": true, "0:5": true, "root:x": true, "00": true, "1": false, "web": false, "1:0": false} {
		if isRoot(user) != want {
			t.Errorf("user %q", user)
		}
	}
}

// TestPoliciesOnEverything decides by each thing that a launch's policy can read.
func TestPoliciesOnEverything(t *testing.T) {
	for _, c := range []struct{ policy, want string }{
		{`@id("p") permit (principal == Tero::User::"uid:0", action == Tero::Action::"launch", resource in Tero::Repository::"localhost/team");`, ""},
		{`@id("p") permit (principal, action == Tero::Action::"launch", resource in Tero::Repository::"localhost");`, ""},
		{`@id("p") permit (principal, action == Tero::Action::"launch", resource in Tero::Repository::"localhost/te");`, "nearest is p"},
		{`@id("p") permit (principal, action == Tero::Action::"launch", resource == Tero::Workload::"web");`, ""},
		{`@id("p") permit (principal, action == Tero::Action::"launch", resource in Tero::Network::"default");`, ""},
		{`@id("p") permit ` + launchOnly + ` when { resource.hasTag("tier") && resource.getTag("tier") == "front" };`, ""},
		{`@id("p") permit ` + launchOnly + ` when { context.image has tag && context.image.tag == "v1" && context.image.registry == "localhost" };`, ""},
		{`@id("p") permit ` + launchOnly + ` when { context.signers.contains("demo") && context.plugins.contains("nolatest") && context.runsAsRoot };`, ""},
		{`@id("p") permit ` + launchOnly + ` when { principal is Tero::User && principal.local && principal.uid == 0 && resource.spiffeId like "spiffe://*/workload/web" };`, ""},
		{`@id("p") permit ` + launchOnly + ` when { context.resources.memoryBytes > 0 };`, "1 of 1 conditions failed: context.resources.memoryBytes > 0"},
		{allowAll + `@id("f") @reason("{name} may not join {network}") forbid ` + launchOnly + ` when { context.network == "default" };`, `launch of "web" refused by policy: web may not join default`},
		{allowAll + `@id("f") forbid ` + launchOnly + ` unless { context.terminal };`, "f forbids it"},
		{allowAll + `@id("f") forbid ` + launchOnly + ` when { context.resources.pids + 9223372036854775807 > 5 };`, "policy f, which could forbid it, cannot be evaluated"},
		{allowAll + `@id("b") permit ` + launchOnly + ` when { context.resources.pids + 9223372036854775807 > 5 };`, ""},
		{allowAll + `@id("f") @mode("audit") forbid ` + launchOnly + `;`, ""},
		{`@id("p") @mode("audit") permit ` + launchOnly + `;`, "no policy permits it to uid:0"},
	} {
		t.Run(c.policy, func(t *testing.T) {
			e, _ := folder(t, map[string]string{"a.cedar": rootAPI + c.policy})
			_, err := e.AdmitLaunch(t.Context(), signed("web"))
			if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %q", err, c.want)
			}
		})
	}
}

// TestLevelCannotBeWaived: what the request asks for holds whatever policy says.
func TestLevelCannotBeWaived(t *testing.T) {
	e, _ := folder(t, map[string]string{"a.cedar": rootAPI + allowAll})
	a := signed("web")
	a.Spec.MinLevel = workload.L3
	if _, err := e.AdmitLaunch(t.Context(), a); fault.KindOf(err) != fault.Denied || !strings.Contains(err.Error(), "asks for assurance level L3, and this node has L0") {
		t.Error(err)
	}
}

func TestAuditIsToldNotEnforced(t *testing.T) {
	e, c := folder(t, map[string]string{"a.cedar": rootAPI + allowAll + `@id("try") @mode("audit") @reason("no terminal for {name}") forbid ` + launchOnly + ` unless { context.terminal };`})
	sub := c.Bus.Subscribe()
	defer sub.Close()
	grant, err := e.AdmitLaunch(t.Context(), signed("web"))
	if err != nil {
		t.Fatal(err)
	}
	d, err := e.Explain(grant.DecisionID)
	if err != nil {
		t.Fatal(err)
	}
	want := []Matched{{Policy: "try", Effect: "forbid", File: "a.cedar", Line: 1, Reason: "no terminal for web"}}
	if diff := cmp.Diff(want, d.Audited); diff != "" || !d.Allowed {
		t.Error(diff)
	}
	ev, _, err := sub.Next(t.Context())
	if err != nil || ev.Type != "policy.audited" || ev.Name != "web" || ev.Attributes["policy"] != "try" {
		t.Errorf("%+v, %v", ev, err)
	}
}

func TestRefusalIsPublished(t *testing.T) {
	e, c := folder(t, nil)
	sub := c.Bus.Subscribe()
	defer sub.Close()
	if _, err := e.AdmitLaunch(t.Context(), unsigned("rogue")); err == nil {
		t.Fatal("permitted")
	}
	ev, _, err := sub.Next(t.Context())
	if err != nil || ev.Type != "policy.refused" || ev.Name != "rogue" || !strings.Contains(ev.Message, "is not signed") || ev.Attributes["decision"] == "" {
		t.Errorf("%+v, %v", ev, err)
	}
}

func TestDecisionsSurviveRestart(t *testing.T) {
	e, c := folder(t, nil)
	var ids []string
	for i := range 10 {
		grant, err := e.AdmitLaunch(t.Context(), signed(fmt.Sprintf("web%d", i)))
		if err != nil {
			t.Fatal(err)
		}
		ids = append(ids, grant.DecisionID)
	}
	if err := e.Authorize(t.Context(), root, "list", "Node", ""); err != nil { // reading is not recorded
		t.Fatal(err)
	}
	if err := e.Authorize(t.Context(), workload.Principal{Local: true, UID: 7}, "list", "Node", ""); err == nil {
		t.Fatal("permitted")
	}
	// Not closed, as after kill -9.
	again, err := Open(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	for i, id := range ids {
		d, err := again.Explain(id[:12])
		if err != nil || d.ID != id || !d.Allowed || d.Resource != fmt.Sprintf(`Tero::Workload::"web%d"`, i) {
			t.Errorf("%s: %+v, %v", id, d, err)
		}
	}
	all, err := again.Decisions(100, false)
	if err != nil || len(all) != 11 || all[0].Allowed || all[0].Action != "list" || all[1].ID != ids[9] {
		t.Errorf("%d decisions, %v", len(all), err)
	}
	refused, err := again.Decisions(100, true)
	if err != nil || len(refused) != 1 {
		t.Errorf("%d refusals, %v", len(refused), err)
	}
	if _, err := again.Explain("ffffffffffffffff0"); fault.KindOf(err) != fault.NotFound {
		t.Error(err)
	}
}

func TestNothingRefusedYet(t *testing.T) {
	e, _ := folder(t, nil)
	if _, err := e.Explain(""); fault.KindOf(err) != fault.NotFound {
		t.Error(err)
	}
}

func TestOpenRefusesAFaultyFolder(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, map[string]string{"a.cedar": `@id("a") permit (principal, action == Tero::Action::"lunch", resource);`})
	_, err := Open(t.Context(), Config{Dir: dir, StateDir: t.TempDir(), Log: slog.New(slog.DiscardHandler)})
	if fault.KindOf(err) != fault.Invalid || !strings.Contains(err.Error(), "a.cedar:1") || fault.HintOf(err) == "" {
		t.Errorf("%v", err)
	}
}

func TestApply(t *testing.T) {
	e, c := folder(t, nil)
	first, _ := e.Current()
	files := []bundle.File{{Name: "mine.cedar", Content: []byte(rootAPI + allowAll)}}
	before, err := e.Apply(t.Context(), files, first.Digest)
	if err != nil || before != first.Digest {
		t.Fatal(before, err)
	}
	if _, err := e.AdmitLaunch(t.Context(), unsigned("web")); err != nil {
		t.Errorf("the new set is not in force: %v", err)
	}
	second, _ := e.Current()
	// A stale digest, a faulty set and one that locks root out change nothing.
	if _, err := e.Apply(t.Context(), nil, first.Digest); fault.KindOf(err) != fault.Conflict {
		t.Error(err)
	}
	_, err = e.Apply(t.Context(), []bundle.File{{Name: "x.cedar", Content: []byte("permit")}}, "")
	var invalid *InvalidError
	if fault.KindOf(err) != fault.Invalid || !errors.As(err, &invalid) || len(invalid.Problems) != 1 {
		t.Error(err)
	}
	_, err = e.Apply(t.Context(), []bundle.File{{Name: "x.cedar", Content: []byte(allowAll)}}, "")
	if fault.KindOf(err) != fault.Invalid || !strings.Contains(err.Error(), "no policy lets root") {
		t.Error(err)
	}
	if now, _ := e.Current(); now.Digest != second.Digest {
		t.Error("a refused set came into force")
	}
	on, err := bundle.ReadDir(c.Dir)
	if err != nil || cmp.Diff(files, on) != "" {
		t.Errorf("the folder holds %v, %v", on, err)
	}
	// No files bring the defaults back.
	if _, err := e.Apply(t.Context(), nil, ""); err != nil {
		t.Fatal(err)
	}
	if now, _ := e.Current(); now.Digest != first.Digest || !now.BuiltIn {
		t.Error("the defaults are not back")
	}
}

func TestReloadKeepsTheOldSetOnError(t *testing.T) {
	e, c := folder(t, map[string]string{"a.cedar": rootAPI + allowAll})
	before, _ := e.Current()
	write(t, c.Dir, map[string]string{"b.cedar": "permit"})
	if err := e.Reload(t.Context()); fault.KindOf(err) != fault.Invalid {
		t.Error(err)
	}
	if now, _ := e.Current(); now.Digest != before.Digest {
		t.Error("a faulty set came into force")
	}
	write(t, c.Dir, map[string]string{"b.cedar": `@id("f") forbid ` + launchOnly + ";"})
	if err := e.Reload(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := e.AdmitLaunch(t.Context(), signed("web")); fault.KindOf(err) != fault.Denied {
		t.Errorf("the new set is not in force: %v", err)
	}
}

// TestReloadUnderLoad replaces the set while others decide: each decision is
// by one set, the one whose digest the grant names.
func TestReloadUnderLoad(t *testing.T) {
	e, _ := folder(t, nil)
	sets := [][]bundle.File{
		{{Name: "a.cedar", Content: []byte(rootAPI + `@id("one") permit ` + launchOnly + ";")}},
		{{Name: "a.cedar", Content: []byte(rootAPI + `@id("two") permit ` + launchOnly + ";")}},
	}
	names := map[string]string{}
	for i, files := range sets {
		set, problems, err := e.Check(files)
		if err != nil || problems != nil {
			t.Fatal(problems, err)
		}
		names[set.Digest.String()] = []string{"one", "two"}[i]
	}
	if _, err := e.Apply(t.Context(), sets[0], ""); err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for n := 0; n < 20 || ctx.Err() == nil; n++ {
				grant, err := e.AdmitLaunch(context.WithoutCancel(ctx), signed("web"))
				if err != nil || len(grant.Policies) != 1 || grant.Policies[0] != names[grant.PolicyDigest.String()] {
					t.Errorf("%+v, %v", grant, err)
					return
				}
				if err := e.Authorize(context.WithoutCancel(ctx), root, "stop", "Container", "web"); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	for i := range 20 {
		if _, err := e.Apply(t.Context(), sets[i%2], ""); err != nil {
			t.Error(err)
		}
	}
	stop()
	wg.Wait()
}

// TestFullDisk: a launch that cannot be recorded is refused; calls go on, so
// that an operator can make room.
func TestFullDisk(t *testing.T) {
	state := t.TempDir()
	if err := unix.Mount("tmpfs", state, "tmpfs", 0, "size=32k"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(state, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	e, err := Open(t.Context(), Config{Dir: filepath.Join(t.TempDir(), "none"), StateDir: state, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	permitted := 0
	for err == nil {
		if _, err = e.AdmitLaunch(t.Context(), signed("web")); err == nil {
			permitted++
		}
	}
	if fault.KindOf(err) != fault.Exhausted || !errors.Is(err, unix.ENOSPC) || fault.HintOf(err) == "" {
		t.Errorf("after %d launches: %v", permitted, err)
	}
	if err := e.Authorize(t.Context(), root, "remove", "Container", "web"); err != nil {
		t.Errorf("a full disk keeps root from making room: %v", err)
	}
	if err := e.Authorize(t.Context(), workload.Principal{Local: true, UID: 9}, "remove", "Container", "web"); fault.KindOf(err) != fault.Denied {
		t.Errorf("a full disk permits: %v", err)
	}
	if list, err := e.Decisions(1000, false); err != nil || len(list) < permitted {
		t.Errorf("%d of %d records left, %v", len(list), permitted, err)
	}
}

func TestTestLaunchRecordsNothing(t *testing.T) {
	e, _ := folder(t, nil)
	d, err := e.TestLaunch(t.Context(), unsigned("web"), nil)
	if err != nil || d.Allowed || d.ID != "" || len(d.NearMisses) != 1 {
		t.Errorf("%+v, %v", d, err)
	}
	d, err = e.TestLaunch(t.Context(), unsigned("web"), []bundle.File{{Name: "a.cedar", Content: []byte(allowAll)}})
	if err != nil || !d.Allowed {
		t.Errorf("%+v, %v", d, err)
	}
	if _, err := e.TestLaunch(t.Context(), unsigned("web"), []bundle.File{{Name: "a.cedar", Content: []byte("x")}}); fault.KindOf(err) != fault.Invalid {
		t.Error(err)
	}
	if list, err := e.Decisions(10, false); err != nil || len(list) != 0 {
		t.Errorf("%v, %v", list, err)
	}
}

// TestRequestDigestIsOfTheRequest: equal requests have equal digests whatever
// the order of their lists, and another request another.
func TestRequestDigestIsOfTheRequest(t *testing.T) {
	e, _ := folder(t, nil)
	digestOf := func(a workload.Admission) string {
		d, err := e.TestLaunch(t.Context(), a, nil)
		if err != nil {
			t.Fatal(err)
		}
		return d.RequestDigest.String()
	}
	a, b := signed("web"), signed("web")
	a.Spec.CapAdd, b.Spec.CapAdd = []string{"CAP_A", "CAP_B", "CAP_C"}, []string{"CAP_C", "CAP_B", "CAP_A"}
	if digestOf(a) != digestOf(b) {
		t.Error("the order of a list changes the digest")
	}
	b.Spec.Labels = map[string]string{"tier": "back"}
	if digestOf(a) == digestOf(b) {
		t.Error("other labels, same digest")
	}
}

// TestExplainingIsBounded: a refusal among many policies, each with near
// misses, is put into words in bounded time.
func TestExplainingIsBounded(t *testing.T) {
	e := large(t, 5000)
	start := time.Now()
	if _, err := e.TestLaunch(t.Context(), unsigned("web"), nil); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(start); took > 2*time.Second {
		t.Errorf("a refusal among 5,000 policies took %v", took)
	}
}

// TestPathologicalPolicies: what the limits let through is loaded, decided and
// explained in bounded time.
func TestPathologicalPolicies(t *testing.T) {
	both := "true"
	for range 9 {
		both = "(if context.signed then " + both + " else " + both + ")"
	}
	for name, condition := range map[string]string{
		"guards":       strings.Repeat(`context.image has tag && context.image.tag == "x" && `, 450) + "false",
		"alternatives": strings.Repeat(`context.image has tag && context.image.tag == "x" || `, 400) + "false",
		"else if":      strings.Repeat("if context.signed then false else ", 90) + "false",
		"if in if":     strings.Repeat("if (", 90) + "true" + strings.Repeat(") then context.terminal else context.terminal", 90),
		"both ways":    both + " && false",
		"wildcards":    `context.image.reference like "` + strings.Repeat("*a", 1500) + `b"`,
		"records":      strings.Repeat("{a:", 90) + "1" + strings.Repeat("}", 90) + " == " + strings.Repeat("{a:", 90) + "2" + strings.Repeat("}", 90),
		"tags":         strings.Repeat(`resource.hasTag("a") && resource.getTag("a") == "b" && `, 450) + "false",
	} {
		t.Run(name, func(t *testing.T) {
			start := time.Now()
			a := signed("web")
			a.Image.Reference = "localhost/" + strings.Repeat("a", 4000)
			d, err := mustEngine(t).TestLaunch(t.Context(), a, []bundle.File{{Name: "a.cedar", Content: []byte(`@id("a") permit ` + launchOnly + " when { " + condition + " };")}})
			if err != nil || d.Allowed || len(d.NearMisses) != 1 {
				t.Errorf("%+v, %v", d, err)
			}
			if took := time.Since(start); took > 2*time.Second {
				t.Errorf("took %v", took)
			}
		})
	}
}

func mustEngine(t *testing.T) *Engine {
	t.Helper()
	e, _ := folder(t, nil)
	return e
}

// TestLargeRequests: a caller cannot flush the ring or hide by sending much.
func TestLargeRequests(t *testing.T) {
	e := mustEngine(t)
	a := unsigned("web")
	a.Spec.Labels = map[string]string{"x": strings.Repeat("y", 2<<20)}
	a.Spec.CapAdd = []string{strings.Repeat("Z", 1<<20)}
	_, err := e.AdmitLaunch(t.Context(), a)
	if fault.KindOf(err) != fault.Denied || len(err.Error()) > 2000 {
		t.Fatalf("%.300v", err)
	}
	if err := e.Authorize(t.Context(), workload.Principal{Local: true, UID: 5}, "stop", "Container", strings.Repeat("w", 1<<20)); fault.KindOf(err) != fault.Denied || len(err.Error()) > 2000 {
		t.Fatalf("%.300v", err)
	}
	list, err := e.Decisions(10, true)
	if err != nil || len(list) != 2 {
		t.Fatalf("%d, %v", len(list), err)
	}
	for _, d := range list {
		if b, err := d.encode(); err != nil || len(b) > 8<<10 || d.RequestDigest.Validate() != nil {
			t.Errorf("%d bytes, %v", len(b), err)
		}
	}
}
