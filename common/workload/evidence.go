package workload

import (
	"net/netip"
	"time"

	"github.com/opencontainers/go-digest"
)

// Measurement is what a launch record binds together. It is recorded, and
// the register extended, before anything of the workload runs.
type Measurement struct {
	Container ID     `json:"container"`
	Name      string `json:"name"`
	// ImageRef is informative; Image, the manifest digest, is what counts.
	ImageRef string        `json:"imageRef"`
	Image    digest.Digest `json:"image"`
	// Config is the digest of the canonical OCI runtime configuration.
	Config digest.Digest `json:"config"`
	// Mounts is the digest of the canonical list of mounts in that configuration.
	Mounts digest.Digest `json:"mounts"`
	// Policy is the digest of the policy set that admitted the launch.
	Policy   digest.Digest `json:"policy"`
	SPIFFEID string        `json:"spiffeId"`
}

// Evidence is the receipt for one measured launch.
type Evidence struct {
	// Sequence is the record's number in the launch log, from 0.
	Sequence uint64 `json:"sequence"`
	// Record is the SHA-256 of the event's bytes.
	Record digest.Digest `json:"record"`
	// Level is what the register behind it is worth.
	Level Level `json:"level"`
}

// Identity is a workload's name, valid as long as it is enrolled.
type Identity struct {
	// SPIFFEID is the SPIFFE ID ("spiffe://node.tero/workload/web").
	SPIFFEID string `json:"spiffeId"`
	// Record is the launch record that the identity is bound to.
	Record   digest.Digest `json:"record"`
	Enrolled time.Time     `json:"enrolled"`
}

// Attachment asks for one network interface of one container.
type Attachment struct {
	Container ID
	Name      string
	Network   string
	SPIFFEID  string
	Labels    map[string]string
	// NetNS is a path to the network namespace ("/proc/123/ns/net").
	NetNS string
	// Interface is the name inside the namespace ("eth0").
	Interface string
}

// Endpoint is one interface of a container on a network.
type Endpoint struct {
	Network       string       `json:"network"`
	Interface     string       `json:"interface"`
	HostInterface string       `json:"hostInterface"`
	MAC           string       `json:"mac"`
	Address       netip.Prefix `json:"address"`
	Gateway       netip.Addr   `json:"gateway"`
	// DNS are the servers for the container's resolv.conf; Search its domains.
	DNS    []netip.Addr `json:"dns,omitempty"`
	Search []string     `json:"search,omitempty"`
	MTU    int          `json:"mtu"`
}
