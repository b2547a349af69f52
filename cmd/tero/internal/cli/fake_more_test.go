package cli_test

import (
	"context"
	"time"

	attestationv1 "tero.internal/api/attestation/v1"
	networkv1 "tero.internal/api/network/v1"
	pluginv1 "tero.internal/api/plugin/v1"
	policyv1 "tero.internal/api/policy/v1"
)

func segment() *networkv1.Segment {
	return &networkv1.Segment{
		Name: "web-from-client", Network: "default", To: &networkv1.Peer{Workload: "web"},
		From:  []*networkv1.Peer{{Workload: "client"}, {Labels: map[string]string{"tier": "front"}}},
		Ports: []*networkv1.Port{{Protocol: "tcp", Port: 8080}}, Source: "seg.yaml", Entries: 4,
	}
}

func (*fake) ListNetworks(context.Context, *networkv1.ListNetworksRequest) (*networkv1.ListNetworksResponse, error) {
	return &networkv1.ListNetworksResponse{Networks: []*networkv1.Network{{
		Name: "default", Driver: "routed", Isolation: "full", Pool: "10.210.0.0/16", Gateway: "10.210.0.1", Mtu: 1500, Endpoints: 2, Created: before(time.Hour),
	}}}, nil
}

func (*fake) ApplySegment(_ context.Context, r *networkv1.ApplySegmentRequest) (*networkv1.ApplySegmentResponse, error) {
	g := segment()
	g.Source = r.GetFile()
	return &networkv1.ApplySegmentResponse{Segments: []*networkv1.Segment{g}}, nil
}

func (*fake) ListSegments(context.Context, *networkv1.ListSegmentsRequest) (*networkv1.ListSegmentsResponse, error) {
	return &networkv1.ListSegmentsResponse{Segments: []*networkv1.Segment{segment()}}, nil
}

func flow() *networkv1.Flow {
	return &networkv1.Flow{
		Sequence: 3, First: before(time.Minute), Last: before(time.Second), From: "client-2", To: "web", FromAddress: "10.210.0.4", ToAddress: "10.210.0.2",
		Network: "default", Protocol: "tcp", Port: 8080, Verdict: networkv1.Verdict_VERDICT_DENIED, Rule: "default-deny",
		Reason: "no segment allows client-2 to reach web on tcp/8080", Packets: 3,
	}
}

func (*fake) ListFlows(context.Context, *networkv1.ListFlowsRequest) (*networkv1.ListFlowsResponse, error) {
	allowed := &networkv1.Flow{
		Sequence: 2, Last: before(2 * time.Second), FromAddress: "10.210.0.3", To: "web", Protocol: "tcp", Port: 8080, Verdict: networkv1.Verdict_VERDICT_ALLOWED, Rule: "web-from-client",
	}
	return &networkv1.ListFlowsResponse{Flows: []*networkv1.Flow{flow(), allowed}}, nil
}

func (*fake) WatchFlows(_ *networkv1.WatchFlowsRequest, stream networkv1.NetworkService_WatchFlowsServer) error {
	return stream.Send(&networkv1.WatchFlowsResponse{Flow: flow(), Missed: 1})
}

func (*fake) ListPolicies(context.Context, *policyv1.ListPoliciesRequest) (*policyv1.ListPoliciesResponse, error) {
	return &policyv1.ListPoliciesResponse{
		Set: &policyv1.PolicySet{Digest: "sha256:cc", BuiltIn: true, Loaded: before(time.Hour)},
		Policies: []*policyv1.Policy{
			{Id: "allow-signed", Effect: "permit", Mode: "enforce", File: "base.cedar", Line: 4, Reason: "the image is signed by a trusted key"},
		},
	}, nil
}

func (*fake) CheckPolicy(_ context.Context, r *policyv1.CheckPolicyRequest) (*policyv1.CheckPolicyResponse, error) {
	if string(r.GetFiles()[0].GetContent()) == "good" {
		return &policyv1.CheckPolicyResponse{Digest: "sha256:dd", Policies: 1}, nil
	}
	return &policyv1.CheckPolicyResponse{Problems: []*policyv1.Problem{
		{File: r.GetFiles()[0].GetName(), Line: 2, Column: 5, Message: `unknown attribute "singed"; did you mean "signed"?`},
	}}, nil
}

func refusal() *policyv1.Decision {
	return &policyv1.Decision{
		Id: "7f3a", Time: before(time.Minute), Principal: `Tero::User::"uid:0"`, Action: "launch", Resource: `Tero::Workload::"rogue"`,
		Message: "image localhost/rogue:v1 is not signed by a trusted key", PolicyDigest: "sha256:cc",
		NearMisses: []*policyv1.NearMiss{{Policy: "allow-signed", File: "base.cedar", Line: 4, Failed: []string{"context.signed"}, Conditions: 3}},
	}
}

func (*fake) ExplainDecision(context.Context, *policyv1.ExplainDecisionRequest) (*policyv1.ExplainDecisionResponse, error) {
	return &policyv1.ExplainDecisionResponse{
		Decision: refusal(), Current: true,
		Policies: []*policyv1.Policy{{Id: "allow-signed", File: "base.cedar", Line: 4, Text: "permit(principal, action, resource)\nwhen { context.signed };\n"}},
	}, nil
}

func (*fake) TestPolicy(context.Context, *policyv1.TestPolicyRequest) (*policyv1.TestPolicyResponse, error) {
	return &policyv1.TestPolicyResponse{Decision: refusal()}, nil
}

func (*fake) ListPlugins(context.Context, *pluginv1.ListPluginsRequest) (*pluginv1.ListPluginsResponse, error) {
	return &pluginv1.ListPluginsResponse{Plugins: []*pluginv1.Plugin{{
		Name: "nolatest", Version: "1.0.0", Digest: "sha256:ab", State: "active", Signer: "demo", Stats: &pluginv1.Stats{Calls: 5, Denials: 1, Ticks: 900},
	}}}, nil
}

func (*fake) Attest(r *attestationv1.AttestRequest, stream attestationv1.AttestationService_AttestServer) error {
	for _, c := range []string{`{"nonce":"`, string(r.GetNonce()), `"}`} {
		if err := stream.Send(&attestationv1.AttestResponse{Chunk: []byte(c)}); err != nil {
			return err
		}
	}
	return nil
}

func (*fake) ListIdentities(context.Context, *attestationv1.ListIdentitiesRequest) (*attestationv1.ListIdentitiesResponse, error) {
	return &attestationv1.ListIdentitiesResponse{Identities: []*attestationv1.Identity{{
		SpiffeId: "spiffe://tero.local/workload/web", Container: web().GetId(), Record: "sha256:bb", Sequence: 7, Level: "L0", Enrolled: before(time.Minute),
	}}}, nil
}
