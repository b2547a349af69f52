package network

import (
	"errors"
	"fmt"
	"net/netip"

	"tero.internal/network-manager/internal/nft"
	"tero.internal/network-manager/segment"
)

// enforce brings the kernel to what segments and endpoints say now, with c as
// part of the same step. When the kernel does not have what it should, because
// somebody else changed it, the whole table is made anew. The caller holds mu.
func (m *Manager) enforce(c nft.Change) error {
	want := segment.Compile(m.segments, m.members())
	for e := range want {
		if _, ok := m.allowed[e]; !ok {
			c.AddAllows = append(c.AddAllows, allow(e))
		}
	}
	for e := range m.allowed {
		if _, ok := want[e]; !ok {
			c.RemoveAllows = append(c.RemoveAllows, allow(e))
		}
	}
	err := errUnsure
	if !m.unsure {
		err = m.table.Apply(c)
	}
	if err != nil {
		if again := m.replace(want); again != nil {
			return fmt.Errorf("enforce policy: %w; and making the table anew: %w", err, again)
		}
	}
	m.allowed = want
	return nil
}

// replace makes the table hold exactly what it should. The caller holds mu.
func (m *Manager) replace(want map[segment.Entry][]string) error {
	var c nft.Change
	for _, n := range m.networks {
		c.AddGateways = append(c.AddGateways, n.Gateway)
	}
	for e := range m.endpoints.All() {
		c.AddEndpoints = append(c.AddEndpoints, e.Element())
	}
	for e := range want {
		c.AddAllows = append(c.AddAllows, allow(e))
	}
	err := m.table.Replace(c)
	m.unsure = err != nil
	return err
}

var errUnsure = errors.New("an earlier change failed")

func (m *Manager) members() []segment.Member {
	out := make([]segment.Member, 0, m.endpoints.Len())
	for e := range m.endpoints.All() {
		out = append(out, e.Member())
	}
	return out
}

func allow(e segment.Entry) nft.Allow {
	return nft.Allow{Mark: e.Mark, Addr: netip.AddrFrom4(e.Address), Protocol: e.Protocol, Port: e.Port}
}
