// Package segment says who may reach whom: it reads segments, compiles them to
// the entries of the kernel's allow set, and explains why something is refused.
package segment

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// Segment allows the workloads that From selects to reach those that To
// selects on Ports. What no segment allows is refused.
type Segment struct {
	Name    string     `json:"name"`
	Network string     `json:"network"`
	To      Selector   `json:"to"`
	From    []Selector `json:"from"`
	Ports   []Port     `json:"ports"`
	// Source is the file and line of the declaration ("web.yaml:1").
	Source string `json:"source"`
}

// Selector selects workloads by name, by labels that all must be equal, or by both.
type Selector struct {
	Workload string            `json:"workload,omitempty"`
	Labels   map[string]string `json:"labels,omitempty"`
}

// Port is a protocol ("tcp", "udp", "icmp") and a destination port, which ICMP has not.
type Port struct {
	Protocol string `json:"protocol"`
	Port     uint16 `json:"port,omitempty"`
}

// Member is a workload's interface on a network.
type Member struct {
	Network string
	Name    string
	Labels  map[string]string
	// Mark stands for the identity: equal marks have equal names and labels.
	Mark uint32
	// Address as 4 bytes makes entries comparable and small.
	Address [4]byte
}

// Entry lets an identity reach an address on a port.
type Entry struct {
	Mark     uint32
	Address  [4]byte
	Protocol uint8
	Port     uint16
}

// Matches tells whether the selector selects m.
func (s Selector) Matches(m *Member) bool {
	if s.Workload != "" && s.Workload != m.Name {
		return false
	}
	for k, v := range s.Labels {
		if got, ok := m.Labels[k]; !ok || got != v {
			return false
		}
	}
	return s.Workload != "" || len(s.Labels) > 0
}

// String gives the selector as it is written in a segment.
func (s Selector) String() string {
	var parts []string
	if s.Workload != "" {
		parts = append(parts, "workload: "+s.Workload)
	}
	if len(s.Labels) > 0 {
		var labels []string
		for _, k := range slices.Sorted(maps.Keys(s.Labels)) {
			labels = append(labels, k+": "+s.Labels[k])
		}
		parts = append(parts, "labels: {"+strings.Join(labels, ", ")+"}")
	}
	return "{" + strings.Join(parts, ", ") + "}"
}

// String gives "tcp/8080" or "icmp".
func (p Port) String() string {
	if p.Protocol == "icmp" {
		return p.Protocol
	}
	return fmt.Sprintf("%s/%d", p.Protocol, p.Port)
}

// Number is the IP protocol number; 0 when unknown.
func (p Port) Number() uint8 {
	switch p.Protocol {
	case "tcp":
		return unix.IPPROTO_TCP
	case "udp":
		return unix.IPPROTO_UDP
	case "icmp":
		return unix.IPPROTO_ICMP
	}
	return 0
}

// ProtocolName gives the name of an IP protocol, or its number in digits.
func ProtocolName(number uint8) string {
	switch number {
	case unix.IPPROTO_TCP:
		return "tcp"
	case unix.IPPROTO_UDP:
		return "udp"
	case unix.IPPROTO_ICMP:
		return "icmp"
	case unix.IPPROTO_ICMPV6:
		return "icmpv6"
	case unix.IPPROTO_SCTP:
		return "sctp"
	}
	return fmt.Sprint(number)
}

func (s *Segment) selectsSource(m *Member) bool {
	return slices.ContainsFunc(s.From, func(f Selector) bool { return f.Matches(m) })
}

// Compile gives the entries that the segments make among the members, each
// with the names of the segments that make it, in their order.
func Compile(segments []Segment, members []Member) map[Entry][]string {
	out := map[Entry][]string{}
	for i := range segments {
		s := &segments[i]
		marks := map[uint32]struct{}{}
		var targets []*Member
		for j := range members {
			m := &members[j]
			if m.Network != s.Network {
				continue
			}
			if s.selectsSource(m) {
				marks[m.Mark] = struct{}{}
			}
			if s.To.Matches(m) {
				targets = append(targets, m)
			}
		}
		for _, to := range targets {
			for mark := range marks {
				for _, p := range s.Ports {
					e := Entry{Mark: mark, Address: to.Address, Protocol: p.Number(), Port: p.Port}
					if names := out[e]; len(names) == 0 || names[len(names)-1] != s.Name {
						out[e] = append(names, s.Name)
					}
				}
			}
		}
	}
	return out
}
