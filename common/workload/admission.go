package workload

import "github.com/opencontainers/go-digest"

// Principal is who makes a request. Exactly one of its two ways to know a
// caller is set: the kernel's word for a unix socket, a certificate for TCP.
type Principal struct {
	// Local is true for a caller on the unix socket.
	Local bool `json:"local"`
	// UID and PID are the peer's credentials of a local caller (SO_PEERCRED).
	UID uint32 `json:"uid,omitempty"`
	PID int32  `json:"pid,omitempty"`
	// SPIFFEID is the URI name in the verified certificate of a remote caller.
	SPIFFEID string `json:"spiffeId,omitempty"`
}

// Admission is all that policy decides a launch on.
type Admission struct {
	Caller Principal
	// Spec is final: completed, and changed by no one after the decision.
	Spec  Spec
	Image Image
	// SPIFFEID is the identity that the workload would get.
	SPIFFEID string
	// NodeLevel is the assurance level of this node.
	NodeLevel Level
	// Plugins names the admission plugins that accepted, with their digests.
	Plugins []PluginVerdict
}

// PluginVerdict is an admission plugin's word on a launch that it accepted.
type PluginVerdict struct {
	Plugin string        `json:"plugin"`
	Digest digest.Digest `json:"digest"`
	// Ticks is the metered cost of the call.
	Ticks int64 `json:"ticks"`
	// Changed lists the JSON pointers (RFC 6901) that the plugin set.
	Changed []string `json:"changed,omitempty"`
}

// Grant is policy's permission for one launch.
type Grant struct {
	// DecisionID finds the decision record ("tero policy why ID").
	DecisionID string `json:"decisionId"`
	// Policies are the ids of the policies that permitted, sorted.
	Policies []string `json:"policies"`
	// PolicyDigest is the digest of the whole policy set that decided.
	PolicyDigest digest.Digest `json:"policyDigest"`
}
