package server_test

import (
	"log/slog"
	"path/filepath"
	"strings"
	"testing"

	policyv1 "tero.internal/api/policy/v1"
	"tero.internal/common/fault"
	"tero.internal/common/workload"
	"tero.internal/policy/bundle"
	"tero.internal/policy/engine"
	"tero.internal/policy/server"
)

func newServer(t *testing.T) (*server.Server, *engine.Engine) {
	t.Helper()
	base := t.TempDir()
	e, err := engine.Open(t.Context(), engine.Config{
		Dir: filepath.Join(base, "policies"), StateDir: filepath.Join(base, "state"), Log: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = e.Close() })
	return server.New(e), e
}

const own = `@id("root-api") permit (principal == Tero::User::"uid:0", action in Tero::Action::"api", resource);
@id("front-only") @reason("only the tier front runs here") permit (principal, action == Tero::Action::"launch", resource)
when { resource.hasTag("tier") && resource.getTag("tier") == "front" };`

func files(content string) []*policyv1.File {
	return []*policyv1.File{{Name: "own.cedar", Content: []byte(content)}}
}

// TestAnOperatorsWay follows an operator: look, check, test, apply, ask why.
func TestAnOperatorsWay(t *testing.T) {
	s, _ := newServer(t)
	ctx := t.Context()
	list, err := s.ListPolicies(ctx, &policyv1.ListPoliciesRequest{})
	if err != nil || !list.GetSet().GetBuiltIn() || len(list.GetPolicies()) != 4 || list.GetPolicies()[0].GetId() != "allow-signed" || list.GetPolicies()[0].GetText() == "" {
		t.Fatalf("%v, %v", list, err)
	}
	check, err := s.CheckPolicy(ctx, &policyv1.CheckPolicyRequest{Files: files(strings.Replace(own, "hasTag(\"tier\") &&", "hasTag(\"tire\") &&", 1))})
	if err != nil || len(check.GetProblems()) != 1 || check.GetProblems()[0].GetFile() != "own.cedar" || check.GetProblems()[0].GetLine() == 0 || check.GetDigest() != "" {
		t.Fatalf("%v, %v", check, err)
	}
	check, err = s.CheckPolicy(ctx, &policyv1.CheckPolicyRequest{Files: files(own)})
	if err != nil || len(check.GetProblems()) != 0 || check.GetPolicies() != 2 {
		t.Fatalf("%v, %v", check, err)
	}
	launch := &policyv1.HypotheticalLaunch{Image: "localhost/web:v1", Labels: map[string]string{"tier": "back"}}
	test, err := s.TestPolicy(ctx, &policyv1.TestPolicyRequest{Launch: launch, Files: files(own)})
	if err != nil || test.GetDecision().GetAllowed() || test.GetDecision().GetMessage() != `launch of "test" refused by policy: only the tier front runs here` {
		t.Fatalf("%v, %v", test, err)
	}
	applied, err := s.ApplyPolicy(ctx, &policyv1.ApplyPolicyRequest{Files: files(own), ExpectedDigest: list.GetSet().GetDigest()})
	if err != nil || applied.GetSet().GetDigest() != check.GetDigest() || applied.GetPreviousDigest() != list.GetSet().GetDigest() || applied.GetPolicies() != 2 {
		t.Fatalf("%v, %v", applied, err)
	}
	launch.Labels["tier"] = "front"
	test, err = s.TestPolicy(ctx, &policyv1.TestPolicyRequest{Launch: launch})
	if err != nil || !test.GetDecision().GetAllowed() || test.GetDecision().GetMatched()[0].GetPolicy() != "front-only" {
		t.Fatalf("%v, %v", test, err)
	}
}

func TestExplain(t *testing.T) {
	s, e := newServer(t)
	ctx := t.Context()
	set, _ := e.Current()
	err := e.Authorize(ctx, workloadUser(1000), "stop", "Container", "web")
	if fault.KindOf(err) != fault.Denied {
		t.Fatal(err)
	}
	why, err := s.ExplainDecision(ctx, &policyv1.ExplainDecisionRequest{})
	if err != nil || why.GetDecision().GetAllowed() || !why.GetCurrent() || why.GetDecision().GetPolicyDigest() != set.Digest.String() ||
		len(why.GetPolicies()) != 2 || why.GetPolicies()[0].GetId() != "operators-api" {
		t.Fatalf("%v, %v", why, err)
	}
	again, err := s.ExplainDecision(ctx, &policyv1.ExplainDecisionRequest{Id: why.GetDecision().GetId()})
	if err != nil || again.GetDecision().GetMessage() != why.GetDecision().GetMessage() {
		t.Fatalf("%v, %v", again, err)
	}
	if _, err := e.Apply(ctx, []bundle.File{{Name: "own.cedar", Content: []byte(own)}}, ""); err != nil {
		t.Fatal(err)
	}
	if again, err = s.ExplainDecision(ctx, &policyv1.ExplainDecisionRequest{}); err != nil || again.GetCurrent() {
		t.Errorf("%v, %v", again, err)
	}
	list, err := s.ListDecisions(ctx, &policyv1.ListDecisionsRequest{RefusedOnly: true})
	if err != nil || len(list.GetDecisions()) != 1 {
		t.Errorf("%v, %v", list, err)
	}
}

func TestBadInput(t *testing.T) {
	s, _ := newServer(t)
	ctx := t.Context()
	for name, launch := range map[string]*policyv1.HypotheticalLaunch{
		"nothing":    nil,
		"no image":   {Name: "web"},
		"digest":     {Image: "a", ImageDigest: "sha256:xyz"},
		"level":      {Image: "a", NodeLevel: "L9"},
		"min level":  {Image: "a", MinLevel: "7"},
		"name":       {Image: "a", Name: "No Name"},
		"memory":     {Image: "a", MemoryBytes: 1},
		"no network": {Image: "a", Network: "-"},
	} {
		if _, err := s.TestPolicy(ctx, &policyv1.TestPolicyRequest{Launch: launch}); fault.KindOf(err) != fault.Invalid {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := s.TestPolicy(ctx, &policyv1.TestPolicyRequest{Launch: &policyv1.HypotheticalLaunch{Image: "a", Caller: &policyv1.Caller{SpiffeId: "nobody"}}}); fault.KindOf(err) != fault.Unauthenticated {
		t.Error(err)
	}
	if _, err := s.ApplyPolicy(ctx, &policyv1.ApplyPolicyRequest{Files: files("permit")}); fault.KindOf(err) != fault.Invalid {
		t.Error(err)
	}
	if _, err := s.ListDecisions(ctx, &policyv1.ListDecisionsRequest{Limit: -1}); fault.KindOf(err) != fault.Invalid {
		t.Error(err)
	}
	if _, err := s.ExplainDecision(ctx, &policyv1.ExplainDecisionRequest{Id: "nope"}); fault.KindOf(err) != fault.NotFound {
		t.Error(err)
	}
}

func workloadUser(uid uint32) workload.Principal { return workload.Principal{Local: true, UID: uid} }
