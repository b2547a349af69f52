package network

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"strings"

	"tero.internal/network-manager/flow"
	"tero.internal/network-manager/internal/nflog"
	"tero.internal/network-manager/internal/nft"
	"tero.internal/network-manager/segment"
)

// Flows gives the newest flows, oldest first.
func (m *Manager) Flows(limit int, match func(*flow.Flow) bool) []flow.Flow {
	return m.flows.List(limit, match)
}

// WatchFlows gives recent flows and then each as it is seen. Close the watch.
func (m *Manager) WatchFlows(recent int, match func(*flow.Flow) bool) *flow.Watch {
	return m.flows.Watch(recent, match)
}

// collect turns logged packets into flows until Close.
func (m *Manager) collect(ctx context.Context) {
	for {
		packets, lost, err := m.packets.Next()
		if err != nil {
			select {
			case <-m.stop:
			default:
				m.config.Log.ErrorContext(ctx, "the flow log ended", slog.String("error", err.Error()))
			}
			return
		}
		if lost {
			m.config.Log.WarnContext(ctx, "more packets were refused than the flow log could take")
		}
		for _, p := range packets {
			m.note(p)
		}
	}
}

// note counts one packet.
func (m *Manager) note(p nflog.Packet) {
	f := m.describe(p)
	f, isNew := m.flows.Add(f)
	if isNew && !f.Allowed {
		m.tellDenied(f)
	}
}

func (m *Manager) tellDenied(f flow.Flow) {
	m.mu.Lock()
	e := m.endpoints.Last(f.FromAddress)
	m.mu.Unlock()
	what := f.Protocol
	if f.Port != 0 {
		what = fmt.Sprintf("%s/%d", f.Protocol, f.Port)
	}
	m.publish("flow.denied", e, fmt.Sprintf("%s to %s on %s refused: %s", f.From, f.To, what, f.Reason), map[string]string{
		"from": f.From, "to": f.To, "protocol": f.Protocol, "port": fmt.Sprint(f.Port), "rule": f.Rule, "reason": f.Reason, "network": f.Network,
	})
}

// describe says who, to whom and why.
func (m *Manager) describe(p nflog.Packet) flow.Flow {
	f := flow.Flow{Protocol: segment.ProtocolName(p.Protocol)}
	from, to, port := p.Source, p.Destination, p.DestinationPort
	if p.Prefix == nft.PrefixReply { // the flow's own direction, not the packet's
		from, to, port = p.Destination, p.Source, p.SourcePort
	}
	f.FromAddress, f.ToAddress, f.Port = from, to, port
	f.From, f.To = addressName(from), addressName(to)

	m.mu.Lock()
	defer m.mu.Unlock()
	src, dst := m.endpoints.Last(from), m.endpoints.Last(to)
	if p.Prefix == nft.PrefixSpoofed || p.Prefix == nft.PrefixIPv6 {
		src = m.endpoints.Behind(int(p.In)) // the address says nothing about the sender
	}
	if src != nil {
		f.From, f.FromContainer, f.Network = src.Name, string(src.Container), src.Network
	}
	if dst != nil {
		f.To, f.ToContainer = dst.Name, string(dst.Container)
	}
	if f.Network == "" && dst != nil {
		f.Network = dst.Network
	}
	m.judge(&f, p, src, dst)
	return f
}

// judge fills in verdict, rule and reason. The caller holds mu.
func (m *Manager) judge(f *flow.Flow, p nflog.Packet, src, dst *Endpoint) {
	what := segment.Port{Protocol: f.Protocol, Port: f.Port}
	switch p.Prefix {
	case nft.PrefixAllowed:
		f.Allowed = true
		f.Rule, f.Reason = m.allowing(what, src, dst)
	case nft.PrefixSpoofed:
		f.Rule = flow.RuleSpoofed
		f.Reason = fmt.Sprintf("%s sent from %s, which is not its address", f.From, f.FromAddress)
		if src == nil {
			f.Reason = fmt.Sprintf("an interface that is attached to no network sent from %s", f.FromAddress)
		}
	case nft.PrefixIPv6:
		f.Rule, f.Reason = flow.RuleIPv6, "network "+f.Network+" has no IPv6"
	case nft.PrefixHost:
		f.Rule = flow.RuleHostGuard
		f.Reason = "containers reach nothing on the node itself but DNS on their gateway"
		if m.isGateway(f.ToAddress) {
			f.To = "gateway"
		}
	case nft.PrefixReply:
		f.Rule = flow.RuleRevoked
		f.Reason = "a reply in a flow that was allowed before: " + m.explain(f, what, src, dst)
	default:
		f.Rule, f.Reason = flow.RuleDefaultDeny, m.explain(f, what, src, dst)
	}
}

func (m *Manager) explain(f *flow.Flow, what segment.Port, src, dst *Endpoint) string {
	switch {
	case src != nil && dst != nil:
		a, b := src.Member(), dst.Member()
		return segment.Explain(m.segments, &a, &b, what)
	case src != nil:
		return fmt.Sprintf("no segment allows %s to reach %s on %s: it is no address of a workload here", f.From, f.ToAddress, what)
	default:
		return fmt.Sprintf("no segment allows %s, which is no workload here, to reach %s on %s", f.FromAddress, f.To, what)
	}
}

// allowing names the segments that allow a flow. They are judged by the
// segments, not by the kernel's set: a client that was quick has gone from it.
func (m *Manager) allowing(what segment.Port, src, dst *Endpoint) (rule, reason string) {
	if src != nil && dst != nil {
		a, b := src.Member(), dst.Member()
		if names := segment.Allowing(m.segments, &a, &b, what); len(names) > 0 {
			return names[0], "allowed by segment " + strings.Join(names, ", ")
		}
	}
	return "segment", "allowed by a segment that is gone by now"
}

func (m *Manager) isGateway(a netip.Addr) bool {
	for _, n := range m.networks {
		if n.Gateway == a {
			return true
		}
	}
	return false
}

func addressName(a netip.Addr) string {
	if !a.IsValid() {
		return "unknown"
	}
	return a.String()
}
