// Package endpoint is what the Network Manager knows of one interface of one
// container: the endpoint, the register of those that are attached, and the
// journal by which they outlive the process.
package endpoint

import (
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"maps"
	"net"
	"net/netip"
	"slices"
	"time"

	"tero.internal/common/workload"
	"tero.internal/network-manager/internal/link"
	"tero.internal/network-manager/internal/nft"
	"tero.internal/network-manager/segment"
)

// Domain ends the names that the networks' DNS servers answer for.
const Domain = "tero"

// Endpoint is one interface of one container.
type Endpoint struct {
	Container workload.ID       `json:"container"`
	Name      string            `json:"name"`
	SPIFFEID  string            `json:"spiffeId,omitempty"`
	Labels    map[string]string `json:"labels,omitempty"`
	Network   string            `json:"network"`
	// Interface is the name inside the container, HostInterface and HostIndex
	// are the other end on the node.
	Interface     string     `json:"interface"`
	HostInterface string     `json:"hostInterface"`
	HostIndex     int        `json:"hostIndex"`
	MAC           string     `json:"mac"`
	HostMAC       string     `json:"hostMac"`
	Address       netip.Addr `json:"address"`
	Gateway       netip.Addr `json:"gateway"`
	MTU           int        `json:"mtu"`
	// Mark stands for the identity in the kernel.
	Mark uint32 `json:"mark"`
	// NamespaceInode tells the network namespace from any that comes later.
	NamespaceInode uint64    `json:"namespaceInode"`
	Attached       time.Time `json:"attached"`
	// CNI is the name of the CNI network configuration that the endpoint was
	// made by; empty when it was not made by CNI.
	CNI string `json:"cni,omitempty"`
}

// Key names an endpoint: a container may have several interfaces.
type Key struct {
	Container workload.ID
	Interface string
}

// String gives the key as the owner of a lease.
func (k Key) String() string { return string(k.Container) + "/" + k.Interface }

// New makes the endpoint that a asks for. The node's end gets a name that begins
// with prefix and that no interface had before.
func New(a workload.Attachment, address, gateway netip.Addr, mtu int, prefix string) *Endpoint {
	return &Endpoint{
		Container: a.Container, Name: a.Name, SPIFFEID: a.SPIFFEID, Labels: a.Labels, Network: a.Network,
		Interface: a.Interface, HostInterface: hostName(prefix),
		MAC: hardwareAddress(0x02, address), HostMAC: hardwareAddress(0x06, address),
		Address: address, Gateway: gateway, MTU: mtu, Attached: time.Now().UTC(),
	}
}

// Key gives the endpoint's name.
func (e *Endpoint) Key() Key { return Key{e.Container, e.Interface} }

// Workload gives the endpoint as the container's runtime needs it.
func (e *Endpoint) Workload() workload.Endpoint {
	return workload.Endpoint{
		Network: e.Network, Interface: e.Interface, HostInterface: e.HostInterface, MAC: e.MAC,
		Address: netip.PrefixFrom(e.Address, e.Address.BitLen()), Gateway: e.Gateway,
		DNS: []netip.Addr{e.Gateway}, Search: []string{e.Network + "." + Domain}, MTU: e.MTU,
	}
}

// Identity joins all that segments can select by, and the SPIFFE ID.
func (e *Endpoint) Identity() string {
	parts := []string{e.Network, e.Name, e.SPIFFEID}
	for _, k := range slices.Sorted(maps.Keys(e.Labels)) {
		parts = append(parts, k, e.Labels[k])
	}
	b, _ := json.Marshal(parts) // strings always encode
	return string(b)
}

// Pair gives the two interfaces.
func (e *Endpoint) Pair() link.Pair {
	mac, _ := net.ParseMAC(e.MAC) // made by hardwareAddress
	hostMAC, _ := net.ParseMAC(e.HostMAC)
	return link.Pair{
		Host: e.HostInterface, Container: e.Interface, HostMAC: hostMAC, MAC: mac,
		Address: e.Address, Gateway: e.Gateway, MTU: e.MTU,
	}
}

// Element gives the endpoint as the packet filter knows it.
func (e *Endpoint) Element() nft.Endpoint {
	mac, _ := net.ParseMAC(e.MAC)
	return nft.Endpoint{Index: e.HostIndex, MAC: mac, Addr: e.Address, Mark: e.Mark}
}

// Member gives the endpoint as segments select it.
func (e *Endpoint) Member() segment.Member {
	return segment.Member{Network: e.Network, Name: e.Name, Labels: e.Labels, Mark: e.Mark, Address: e.Address.As4()}
}

// hardwareAddress makes a locally administered address (IEEE 802, second bit of
// the first byte) of which the last four bytes are the IP address: unique
// wherever the IP address is.
func hardwareAddress(kind byte, a netip.Addr) string {
	b := a.As4()
	return net.HardwareAddr{kind, 0x51, b[0], b[1], b[2], b[3]}.String()
}

// hostName gives a name for the node's end that no interface had before.
func hostName(prefix string) string {
	var b [5]byte
	_, _ = rand.Read(b[:]) // never fails (Go 1.24)
	return prefix + hex.EncodeToString(b[:])
}
