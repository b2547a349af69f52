package daemon

import (
	"context"

	attestationv1 "tero.internal/api/attestation/v1"
	networkv1 "tero.internal/api/network/v1"
	nodev1 "tero.internal/api/node/v1"
	pluginv1 "tero.internal/api/plugin/v1"
	policyv1 "tero.internal/api/policy/v1"
	runtimev1 "tero.internal/api/runtime/v1"
	"tero.internal/common/fault"
	"tero.internal/common/rpc"
	"tero.internal/common/workload"
)

// authorizer decides on requests (policy/engine.Engine).
type authorizer interface {
	Authorize(ctx context.Context, caller workload.Principal, action, kind, name string) error
}

// access is what a method asks of policy: an action on a resource.
type access struct {
	action string
	kind   string // of the resource, as in the policy schema
	name   func(request any) string
}

// names gives things the names that policies know them by, however a request
// calls them: a rule about "web" must hold for web's id, too.
type names struct {
	node      string
	container func(key string) string // key as given when there is none
	image     func(reference string) string
}

// accesses lists every method of the API. One that is missing here is refused,
// and a test holds the list against the services.
func accesses(n names) map[string]access {
	theNode := func(any) string { return n.node }
	containerOf := func(request any) string { return n.container(containerKey(request)) }
	referenceOf := func(request any) string { return n.image(imageReference(request)) }
	onNode := func(action string) access { return access{action, "Node", theNode} }
	onContainer := func(action string) access { return access{action, "Container", containerOf} }
	return map[string]access{
		nodev1.NodeService_Status_FullMethodName:      onNode("info"),
		nodev1.NodeService_WatchEvents_FullMethodName: onNode("events"),
		nodev1.NodeService_Down_FullMethodName:        onNode("nodeWrite"),

		runtimev1.RuntimeService_Run_FullMethodName:              onNode("run"),
		runtimev1.RuntimeService_Attach_FullMethodName:           onContainer("attach"), // or a launch: see guard
		runtimev1.RuntimeService_Exec_FullMethodName:             onContainer("exec"),
		runtimev1.RuntimeService_ListContainers_FullMethodName:   onNode("list"),
		runtimev1.RuntimeService_InspectContainer_FullMethodName: onContainer("inspect"),
		runtimev1.RuntimeService_StopContainer_FullMethodName:    onContainer("stop"),
		runtimev1.RuntimeService_KillContainer_FullMethodName:    onContainer("kill"),
		runtimev1.RuntimeService_RemoveContainer_FullMethodName:  onContainer("remove"),
		runtimev1.RuntimeService_WaitContainer_FullMethodName:    onContainer("wait"),
		runtimev1.RuntimeService_StartContainer_FullMethodName:   onContainer("start"), // what it may run is decided like a launch
		runtimev1.RuntimeService_RestartContainer_FullMethodName: onContainer("restart"),
		runtimev1.RuntimeService_PauseContainer_FullMethodName:   onContainer("pause"),
		runtimev1.RuntimeService_UnpauseContainer_FullMethodName: onContainer("pause"),
		runtimev1.RuntimeService_UpdateContainer_FullMethodName:  onContainer("update"),
		runtimev1.RuntimeService_Logs_FullMethodName:             onContainer("logs"),
		runtimev1.RuntimeService_Stats_FullMethodName:            onContainer("stats"),
		runtimev1.RuntimeService_Top_FullMethodName:              onContainer("top"),
		runtimev1.RuntimeService_CopyFrom_FullMethodName:         onContainer("copyFrom"),
		runtimev1.RuntimeService_CopyTo_FullMethodName:           onContainer("copyTo"),

		runtimev1.ImageService_ImportImage_FullMethodName:     onNode("imageImport"),
		runtimev1.ImageService_ListImages_FullMethodName:      onNode("imageRead"),
		runtimev1.ImageService_InspectImage_FullMethodName:    {"imageRead", "Image", referenceOf},
		runtimev1.ImageService_RemoveImage_FullMethodName:     {"imageRemove", "Image", referenceOf},
		runtimev1.ImageService_AttachSignature_FullMethodName: {"imageImport", "Image", referenceOf},

		runtimev1.VolumeService_CreateVolume_FullMethodName:  {"volumeWrite", "Volume", nameOf},
		runtimev1.VolumeService_ListVolumes_FullMethodName:   onNode("volumeRead"),
		runtimev1.VolumeService_InspectVolume_FullMethodName: {"volumeRead", "Volume", nameOf},
		runtimev1.VolumeService_RemoveVolume_FullMethodName:  {"volumeWrite", "Volume", nameOf},
		runtimev1.VolumeService_PruneVolumes_FullMethodName:  onNode("volumeWrite"),

		networkv1.NetworkService_ListNetworks_FullMethodName:   onNode("networkRead"),
		networkv1.NetworkService_CreateNetwork_FullMethodName:  onNode("networkWrite"),
		networkv1.NetworkService_RemoveNetwork_FullMethodName:  {"networkWrite", "Network", nameOf},
		networkv1.NetworkService_InspectNetwork_FullMethodName: {"networkRead", "Network", nameOf},
		networkv1.NetworkService_ListEndpoints_FullMethodName:  onNode("networkRead"),
		networkv1.NetworkService_ApplySegment_FullMethodName:   onNode("networkWrite"),
		networkv1.NetworkService_ListSegments_FullMethodName:   onNode("networkRead"),
		networkv1.NetworkService_RemoveSegment_FullMethodName:  onNode("networkWrite"),
		networkv1.NetworkService_ListFlows_FullMethodName:      onNode("networkRead"),
		networkv1.NetworkService_WatchFlows_FullMethodName:     onNode("networkRead"),

		pluginv1.PluginService_InstallPlugin_FullMethodName: onNode("pluginInstall"),
		pluginv1.PluginService_ListPlugins_FullMethodName:   onNode("pluginRead"),
		pluginv1.PluginService_GrantPlugin_FullMethodName:   {"pluginInstall", "Plugin", nameOf},
		pluginv1.PluginService_RemovePlugin_FullMethodName:  {"pluginRemove", "Plugin", nameOf},
		pluginv1.PluginService_InspectPlugin_FullMethodName: {"pluginRead", "Plugin", nameOf},

		policyv1.PolicyService_ListPolicies_FullMethodName:    onNode("policyRead"),
		policyv1.PolicyService_ApplyPolicy_FullMethodName:     {"policyWrite", "PolicySet", theNode},
		policyv1.PolicyService_CheckPolicy_FullMethodName:     onNode("policyRead"),
		policyv1.PolicyService_TestPolicy_FullMethodName:      onNode("policyRead"),
		policyv1.PolicyService_ExplainDecision_FullMethodName: onNode("policyRead"),
		policyv1.PolicyService_ListDecisions_FullMethodName:   onNode("policyRead"),

		attestationv1.AttestationService_Attest_FullMethodName:               onNode("attest"),
		attestationv1.AttestationService_GetEnrolment_FullMethodName:         onNode("attest"),
		attestationv1.AttestationService_ListRecords_FullMethodName:          onNode("attest"),
		attestationv1.AttestationService_ListIdentities_FullMethodName:       onNode("attest"),
		attestationv1.AttestationService_IssueUserCertificate_FullMethodName: onNode("nodeWrite"),
	}
}

// guard asks policy about every request.
func guard(policy authorizer, n names) rpc.Guard {
	table := accesses(n)
	return func(ctx context.Context, caller workload.Principal, method string, request any) error {
		if r, ok := request.(*runtimev1.AttachRequest); ok && r.GetRun() != nil {
			method = runtimev1.RuntimeService_Run_FullMethodName // "tero run" in the foreground
		}
		a, ok := table[method]
		if r, is := request.(*attestationv1.GetEnrolmentRequest); is && r.GetTakeWitnessKey() {
			a.action = "nodeWrite" // it is given once, and who has it can forge the log of an L0 node
		}
		if !ok {
			return fault.New(fault.Denied, "no policy covers the method %s", method)
		}
		return policy.Authorize(ctx, caller, a.action, a.kind, a.name(request))
	}
}

func containerKey(request any) string {
	switch r := request.(type) {
	case interface{ GetContainer() string }:
		return r.GetContainer()
	case *runtimev1.AttachRequest:
		return r.GetStart().GetContainer()
	case *runtimev1.ExecRequest:
		return r.GetStart().GetContainer()
	case *runtimev1.CopyToRequest:
		return r.GetStart().GetContainer()
	}
	return ""
}

func nameOf(request any) string {
	if r, ok := request.(interface{ GetName() string }); ok {
		return r.GetName()
	}
	return ""
}

func imageReference(request any) string {
	if r, ok := request.(interface{ GetReference() string }); ok {
		return r.GetReference()
	}
	return ""
}
