package nft

import (
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// The prefixes of log messages: why a packet is told about.
const (
	PrefixAllowed = "allowed" // the first packet of an allowed flow
	PrefixDenied  = "denied"  // no segment allows it
	PrefixReply   = "reply"   // a reply in a flow that no segment allows any more
	PrefixSpoofed = "spoofed" // not the interface's own addresses
	PrefixHost    = "host"    // to the node itself
	PrefixIPv6    = "ipv6"    // IPv6, which has no addresses here
)

// snapLength is how much of a packet is logged: IPv4 with options, and ports.
const snapLength = 96

// Registers of 4 bytes; the first of them begins where register 1 is.
const (
	r0 = 1
	r1 = 9
	r2 = 10
	r3 = 11
)

// program is a rule's expressions.
type program []expr.Any

func join(parts ...program) program { return slices.Concat(parts...) }

func meta(k expr.MetaKey, register uint32) program {
	return program{&expr.Meta{Key: k, Register: register}}
}

func is(data ...byte) program {
	return program{&expr.Cmp{Op: expr.CmpOpEq, Register: r0, Data: data}}
}

func load(base expr.PayloadBase, offset, length, register uint32) program {
	return program{&expr.Payload{DestRegister: register, Base: base, Offset: offset, Len: length}}
}

func verdict(k expr.VerdictKind, chain string) program {
	return program{&expr.Verdict{Kind: k, Chain: chain}}
}

func in(s *nftables.Set) program {
	return program{&expr.Lookup{SourceRegister: r0, SetName: s.Name, SetID: s.ID}}
}

func ingroup(g uint32) program  { return join(meta(expr.MetaKeyIIFGROUP, r0), is(native(g)...)) }
func outgroup(g uint32) program { return join(meta(expr.MetaKeyOIFGROUP, r0), is(native(g)...)) }
func ipv4() program             { return join(meta(expr.MetaKeyNFPROTO, r0), is(unix.NFPROTO_IPV4)) }

func ipv6() program        { return join(meta(expr.MetaKeyNFPROTO, r0), is(unix.NFPROTO_IPV6)) }
func proto(p byte) program { return join(meta(expr.MetaKeyL4PROTO, r0), is(p)) }

// source, destination: IPv4 addresses (RFC 791, section 3.1).
func source(register uint32) program {
	return load(expr.PayloadBaseNetworkHeader, 12, 4, register)
}

func destination(register uint32) program {
	return load(expr.PayloadBaseNetworkHeader, 16, 4, register)
}

// sourcePort, destinationPort are at the same place in TCP, UDP and SCTP.
func sourcePort(register uint32) program {
	return load(expr.PayloadBaseTransportHeader, 0, 2, register)
}

func destinationPort(register uint32) program {
	return load(expr.PayloadBaseTransportHeader, 2, 2, register)
}

func icmpType(t byte) program {
	return join(proto(unix.IPPROTO_ICMP), load(expr.PayloadBaseTransportHeader, 0, 1, r0), is(t))
}

func state(bit uint32) program {
	return program{
		&expr.Ct{Key: expr.CtKeySTATE, Register: r0},
		&expr.Bitwise{SourceRegister: r0, DestRegister: r0, Len: 4, Mask: native(bit), Xor: native(0)},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: r0, Data: native(0)},
	}
}

// replying matches packets from the side that did not open the flow.
func replying() program {
	return join(program{&expr.Ct{Key: expr.CtKeyDIRECTION, Register: r0}}, is(1))
}

// tell logs at most some thousand packets a second, so that a flood of refused
// packets costs the node no more than counting them.
func (t *Table) tell(prefix string) program {
	return program{
		&expr.Limit{Type: expr.LimitTypePkts, Rate: 1000, Unit: expr.LimitTimeSecond, Burst: 500},
		&expr.Log{
			Key:   1<<unix.NFTA_LOG_GROUP | 1<<unix.NFTA_LOG_PREFIX | 1<<unix.NFTA_LOG_SNAPLEN,
			Group: t.config.LogGroup, Snaplen: snapLength, Data: []byte(prefix),
		},
	}
}

func drop() program   { return join(program{&expr.Counter{}}, verdict(expr.VerdictDrop, "")) }
func accept() program { return join(program{&expr.Counter{}}, verdict(expr.VerdictAccept, "")) }

// unmark takes the mark off again: others on this node (kube-proxy, VPNs) have
// meanings of their own for its bits.
func unmark() program {
	return program{&expr.Immediate{Register: r0, Data: native(0)}, &expr.Meta{Key: expr.MetaKeyMARK, SourceRegister: true, Register: r0}}
}

// reject tells the sender at once (RFC 1812, section 5.2.7.1, code 13), who
// would wait for minutes otherwise. It may know: it is its own node that says no.
func reject() program {
	return program{&expr.Counter{}, &expr.Reject{Type: unix.NFT_REJECT_ICMPX_UNREACH, Code: unix.NFT_REJECT_ICMPX_ADMIN_PROHIBITED}}
}

// identify sets the packet's mark from an address in register 1; 0 when unknown.
func (t *Table) identify(address program) []program {
	setMark := program{&expr.Meta{Key: expr.MetaKeyMARK, SourceRegister: true, Register: r0}}
	return []program{
		unmark(),
		join(ipv4(), address, program{&expr.Lookup{
			SourceRegister: r0, DestRegister: r0, IsDestRegSet: true, SetName: t.ids.Name, SetID: t.ids.ID,
		}}, setMark),
	}
}

// icmpErrors lets errors about an allowed flow pass (RFC 792: destination
// unreachable, time exceeded, parameter problem).
func icmpErrors() []program {
	var out []program
	for _, typ := range []byte{3, 11, 12} {
		out = append(out, join(state(expr.CtStateBitRELATED), ipv4(), icmpType(typ), accept()))
	}
	return out
}

// chains are the rules, in the order in which "nft list table" shows them.
func (t *Table) chains() []chain {
	g, doomed := t.config.Group, t.config.Group+1
	mark := meta(expr.MetaKeyMARK, r0)
	goTo := func(name string) program { return verdict(expr.VerdictGoto, name) }
	return []chain{
		{name: "allowed", rules: []program{
			join(state(expr.CtStateBitNEW), t.tell(PrefixAllowed)),
			unmark(),
			accept(),
		}},
		{name: "reply", rules: slices.Concat(t.identify(destination(r0)), []program{
			join(ipv4(), mark, source(r1), meta(expr.MetaKeyL4PROTO, r2), sourcePort(r3), in(t.allow), unmark(), accept()),
			join(ipv4(), icmpType(0), mark, source(r1), in(t.echo), unmark(), accept()),
			t.tell(PrefixReply),
			drop(),
		})},
		{name: "policy", rules: slices.Concat(icmpErrors(), []program{join(replying(), goTo("reply"))}, t.identify(source(r0)), []program{
			join(ipv4(), mark, destination(r1), meta(expr.MetaKeyL4PROTO, r2), destinationPort(r3), in(t.allow), goTo("allowed")),
			join(ipv4(), icmpType(8), mark, destination(r1), in(t.echo), goTo("allowed")),
			t.tell(PrefixDenied),
			reject(),
		})},
		{name: "host", rules: slices.Concat(icmpErrors(), []program{
			join(replying(), state(expr.CtStateBitESTABLISHED), accept()),
			join(ipv4(), proto(unix.IPPROTO_UDP), destination(r0), in(t.gateways), destinationPort(r0), is(0, 53), accept()),
			join(ipv4(), proto(unix.IPPROTO_TCP), destination(r0), in(t.gateways), destinationPort(r0), is(0, 53), accept()),
			t.tell(PrefixHost),
			drop(),
		})},
		{name: "prerouting", hook: nftables.ChainHookPrerouting, priority: nftables.ChainPriorityRaw, rules: []program{
			join(ingroup(doomed), drop()),
			join(ingroup(g), ipv6(), proto(unix.IPPROTO_ICMPV6), drop()), // neighbour discovery and the like: nobody's flow
			join(ingroup(g), ipv6(), t.tell(PrefixIPv6)),
			join(ingroup(g), ipv6(), drop()),
			join(
				ingroup(g), meta(expr.MetaKeyIIFTYPE, r0), is(binaryutil.NativeEndian.PutUint16(unix.ARPHRD_ETHER)...),
				load(expr.PayloadBaseLLHeader, 12, 2, r0), is(0x08, 0x00),
				meta(expr.MetaKeyIIF, r0), load(expr.PayloadBaseLLHeader, 6, 6, r1), source(r3), in(t.spoof),
				verdict(expr.VerdictAccept, ""),
			),
			join(ingroup(g), t.tell(PrefixSpoofed)),
			join(ingroup(g), drop()),
		}},
		{name: "forward", hook: nftables.ChainHookForward, priority: nftables.ChainPriorityFilter, rules: []program{
			join(outgroup(doomed), drop()),
			join(ingroup(g), goTo("policy")),
			join(outgroup(g), goTo("policy")),
		}},
		{name: "input", hook: nftables.ChainHookInput, priority: nftables.ChainPriorityFilter, rules: []program{
			join(ingroup(g), goTo("host")),
		}},
	}
}

type chain struct {
	name     string
	hook     *nftables.ChainHook
	priority *nftables.ChainPriority
	rules    []program
}
