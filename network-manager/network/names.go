package network

import (
	"context"
	"fmt"
	"net/netip"

	"tero.internal/network-manager/dns"
	"tero.internal/network-manager/flow"
	"tero.internal/network-manager/segment"
)

func (m *Manager) serveDNS(ctx context.Context) error {
	for _, n := range m.networks {
		s, err := dns.Serve(ctx, n.Gateway, n.Name, m, m.config.Log)
		if err != nil {
			return err
		}
		n.dns = s
	}
	return nil
}

// Lookup gives the addresses of the workloads with a name that asker may reach,
// for the network's DNS server. A name that exists but that no segment lets the
// asker reach does not exist for it; the flow log says why.
func (m *Manager) Lookup(asker netip.Addr, network, name string) ([]netip.Addr, bool) {
	m.mu.Lock()
	src := m.endpoints.At(asker)
	if src == nil || src.Network != network {
		m.mu.Unlock()
		return nil, false
	}
	from := src.Member()
	var out []netip.Addr
	var hidden *Endpoint
	for e := range m.endpoints.All() {
		if e.Network != network || e.Name != name {
			continue
		}
		to := e.Member()
		if e.Name == src.Name || len(segment.AnyReach(m.segments, &from, &to)) > 0 {
			out = append(out, e.Address)
		} else {
			hidden = e
		}
	}
	m.mu.Unlock()
	if len(out) == 0 && hidden != nil {
		m.noteHidden(src, hidden, name)
	}
	return out, len(out) > 0
}

func (m *Manager) noteHidden(src, hidden *Endpoint, name string) {
	f, isNew := m.flows.Add(flow.Flow{
		From: src.Name, FromAddress: src.Address, FromContainer: string(src.Container),
		To: hidden.Name, ToAddress: hidden.Address, ToContainer: string(hidden.Container), Network: src.Network,
		Protocol: "dns", Port: 53, Rule: flow.RuleDNS, Query: name,
		Reason: fmt.Sprintf("the name %s was not answered: no segment allows %s to reach %s on any port", name, src.Name, hidden.Name),
	})
	if isNew {
		m.tellDenied(f)
	}
}
