package nft

import (
	"encoding/binary"
	"net"
	"net/netip"

	"github.com/google/nftables"
	"golang.org/x/sys/unix"
)

// Endpoint is what the kernel knows of one interface.
type Endpoint struct {
	// Index is the interface index on the node.
	Index int
	// MAC is the container's address; Addr the only source it may use.
	MAC  net.HardwareAddr
	Addr netip.Addr
	// Mark stands for the workload's identity.
	Mark uint32
}

// Allow lets an identity reach an address on a port. For ICMP (Protocol
// unix.IPPROTO_ICMP) it lets echo requests pass, and Port is 0.
type Allow struct {
	Mark     uint32
	Addr     netip.Addr
	Protocol uint8
	Port     uint16
}

// Change is a difference between what the kernel has and what it should have.
type Change struct {
	AddGateways, RemoveGateways   []netip.Addr
	AddEndpoints, RemoveEndpoints []Endpoint
	AddAllows, RemoveAllows       []Allow
}

// Empty tells whether there is nothing to do.
func (c *Change) Empty() bool {
	return len(c.AddGateways)+len(c.RemoveGateways)+len(c.AddEndpoints)+len(c.RemoveEndpoints)+
		len(c.AddAllows)+len(c.RemoveAllows) == 0
}

// native gives v in the byte order of the machine, as meta expressions load it.
func native(v uint32) []byte { return binary.NativeEndian.AppendUint32(nil, v) }

// key joins the parts of a concatenated key; each begins at a register of 4 bytes.
func key(parts ...[]byte) []byte {
	var out []byte
	for _, p := range parts {
		out = append(out, p...)
		for len(out)%4 != 0 {
			out = append(out, 0)
		}
	}
	return out
}

func spoofElement(e Endpoint) nftables.SetElement {
	return nftables.SetElement{Key: key(native(uint32(e.Index)), e.MAC, e.Addr.AsSlice())} //nolint:gosec // interface indexes are positive
}

func identityElement(e Endpoint) nftables.SetElement {
	return nftables.SetElement{Key: e.Addr.AsSlice(), Val: native(e.Mark)}
}

func allowElement(a Allow) nftables.SetElement {
	if a.Protocol == unix.IPPROTO_ICMP {
		return nftables.SetElement{Key: key(native(a.Mark), a.Addr.AsSlice())}
	}
	return nftables.SetElement{Key: key(native(a.Mark), a.Addr.AsSlice(), []byte{a.Protocol}, binary.BigEndian.AppendUint16(nil, a.Port))}
}

// elementsPerMessage keeps each netlink attribute under its 64 KiB.
const elementsPerMessage = 400

// batch gathers set changes for one transaction.
type batch struct {
	conn *nftables.Conn
	err  error
}

func (b *batch) add(s *nftables.Set, elements []nftables.SetElement) {
	b.each(elements, func(part []nftables.SetElement) error { return b.conn.SetAddElements(s, part) })
}

func (b *batch) remove(s *nftables.Set, elements []nftables.SetElement) {
	b.each(elements, func(part []nftables.SetElement) error { return b.conn.SetDeleteElements(s, part) })
}

func (b *batch) each(elements []nftables.SetElement, do func([]nftables.SetElement) error) {
	for len(elements) > 0 && b.err == nil {
		n := min(len(elements), elementsPerMessage)
		b.err = do(elements[:n])
		elements = elements[n:]
	}
}

// put adds the messages of c to the transaction; removals come first, so that
// an address can go from one endpoint to another in one step.
func (t *Table) put(c Change) error {
	b := batch{conn: t.conn}
	b.remove(t.gateways, addresses(c.RemoveGateways))
	spoof, ids := endpointElements(c.RemoveEndpoints)
	b.remove(t.spoof, spoof)
	b.remove(t.ids, ids)
	ports, echo := allowElements(c.RemoveAllows)
	b.remove(t.allow, ports)
	b.remove(t.echo, echo)

	b.add(t.gateways, addresses(c.AddGateways))
	spoof, ids = endpointElements(c.AddEndpoints)
	b.add(t.spoof, spoof)
	b.add(t.ids, ids)
	ports, echo = allowElements(c.AddAllows)
	b.add(t.allow, ports)
	b.add(t.echo, echo)
	return b.err
}

func addresses(as []netip.Addr) []nftables.SetElement {
	var out []nftables.SetElement
	for _, a := range as {
		out = append(out, nftables.SetElement{Key: a.AsSlice()})
	}
	return out
}

func endpointElements(es []Endpoint) (spoof, ids []nftables.SetElement) {
	for _, e := range es {
		spoof = append(spoof, spoofElement(e))
		ids = append(ids, identityElement(e))
	}
	return spoof, ids
}

func allowElements(as []Allow) (ports, echo []nftables.SetElement) {
	for _, a := range as {
		if a.Protocol == unix.IPPROTO_ICMP {
			echo = append(echo, allowElement(a))
		} else {
			ports = append(ports, allowElement(a))
		}
	}
	return ports, echo
}
