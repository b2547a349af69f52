// Package link makes and removes the interfaces of containers. Each is one end
// of a veth pair whose other end stays on the node; all traffic is routed by
// the node, so that no packet between two containers passes without it:
//
//	container  eth0  10.210.0.2/32   default via 10.210.0.1 (a fixed neighbour)
//	node       qv..                  10.210.0.2/32 dev qv.. (a fixed neighbour)
//	           lo    10.210.0.1/32   the gateway, which answers DNS
package link

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// Pair is a veth pair.
type Pair struct {
	// Host is the name on the node, Container the name in the container.
	Host, Container string
	HostMAC, MAC    net.HardwareAddr
	Address         netip.Addr
	Gateway         netip.Addr
	MTU             int
}

// Links makes interfaces in the network namespace that it was opened in.
type Links struct {
	handle *netlink.Handle
	group  uint32
	label  string
}

// Open gives the means to make interfaces of a group; group+1 is for those
// about to be removed. Gateway addresses carry a label with prefix in it.
func Open(group uint32, prefix string) (*Links, error) {
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("route socket: %w", err)
	}
	return &Links{handle: h, group: group, label: "lo:" + prefix}, nil
}

// Close ends the socket.
func (l *Links) Close() { l.handle.Close() }

// Create makes the pair, both ends down, one end in the namespace ns with its
// address and routes, and gives the node's interface index. Nothing can pass
// before Up. On an error nothing is left.
func (l *Links) Create(ns *os.File, p Pair) (index int, err error) {
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.HardwareAddr, attrs.MTU, attrs.Group, attrs.TxQLen = p.Host, p.HostMAC, p.MTU, l.group, 1000
	fd := int(ns.Fd())
	veth := &netlink.Veth{
		LinkAttrs: attrs, PeerName: p.Container, PeerHardwareAddr: p.MAC,
		PeerNamespace: netlink.NsFd(fd), PeerMTU: uint32(p.MTU), //nolint:gosec // an MTU is small
	}
	if err := l.handle.LinkAdd(veth); err != nil {
		return 0, fmt.Errorf("make veth %s with %s in the container: %w", p.Host, p.Container, err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, l.Remove(p.Host))
		}
	}()
	if veth.Index == 0 {
		made, err := l.handle.LinkByName(p.Host)
		if err != nil {
			return 0, fmt.Errorf("find veth %s: %w", p.Host, err)
		}
		veth.Index = made.Attrs().Index
	}
	if err := configure(netns.NsHandle(fd), p); err != nil {
		return 0, fmt.Errorf("%s in the container: %w", p.Container, err)
	}
	return veth.Index, nil
}

// configure sets up the container's end and its loopback interface.
func configure(ns netns.NsHandle, p Pair) error {
	h, err := netlink.NewHandleAt(ns, unix.NETLINK_ROUTE)
	if err != nil {
		return fmt.Errorf("route socket: %w", err)
	}
	defer h.Close()
	if err := h.LinkSetUp(byIndex(1)); err != nil {
		return fmt.Errorf("bring lo up: %w", err)
	}
	made, err := h.LinkByName(p.Container)
	if err != nil {
		return fmt.Errorf("find: %w", err)
	}
	index := made.Attrs().Index
	if err := h.AddrAdd(made, &netlink.Addr{IPNet: single(p.Address)}); err != nil {
		return fmt.Errorf("add address %s: %w", p.Address, err)
	}
	if err := h.LinkSetUp(made); err != nil {
		return fmt.Errorf("bring up: %w", err)
	}
	if err := h.NeighSet(neighbour(index, p.Gateway, p.HostMAC)); err != nil {
		return fmt.Errorf("set neighbour %s: %w", p.Gateway, err)
	}
	if err := h.RouteAdd(&netlink.Route{LinkIndex: index, Gw: p.Gateway.AsSlice(), Flags: int(netlink.FLAG_ONLINK)}); err != nil {
		return fmt.Errorf("add default route: %w", err)
	}
	return nil
}

// Up connects the pair: when it returns, the container can send.
func (l *Links) Up(ns *os.File, index int, p Pair) error {
	// The node forwards what comes from containers, and from nowhere else
	// because of us: the host does not become a router for its other networks.
	if err := sysctl("net/ipv4/conf/"+p.Host+"/forwarding", "1"); err != nil {
		return err
	}
	if err := sysctl("net/ipv6/conf/"+p.Host+"/disable_ipv6", "1"); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if err := l.handle.LinkSetUp(byIndex(index)); err != nil {
		return fmt.Errorf("bring %s up: %w", p.Host, err)
	}
	if err := settle(netns.NsHandle(int(ns.Fd())), p.Container); err != nil {
		return fmt.Errorf("%s in the container: %w", p.Container, err)
	}
	if err := l.handle.NeighSet(neighbour(index, p.Address, p.MAC)); err != nil {
		return fmt.Errorf("set neighbour %s: %w", p.Address, err)
	}
	if err := l.handle.RouteReplace(&netlink.Route{
		LinkIndex: index, Scope: netlink.SCOPE_LINK, Dst: single(p.Address), Src: p.Gateway.AsSlice(),
	}); err != nil {
		return fmt.Errorf("add route to %s: %w", p.Address, err)
	}
	return nil
}

// settle makes the kernel act on the carrier that the container's end has got by
// its peer's coming up. Otherwise a worker does so later, and until then what
// the container sends is dropped in silence: a lost DNS query costs five
// seconds. Asking for one link settles it (rtnl_getlink calls linkwatch_sync_dev).
func settle(ns netns.NsHandle, name string) error {
	h, err := netlink.NewHandleAt(ns, unix.NETLINK_ROUTE)
	if err != nil {
		return fmt.Errorf("route socket: %w", err)
	}
	defer h.Close()
	if _, err := h.LinkByName(name); err != nil {
		return fmt.Errorf("settle: %w", err)
	}
	return nil
}

// Doom marks an interface for Reap, which costs far less than removing each by
// itself: the kernel waits once for all of them. What is not there is no error.
func (l *Links) Doom(index int) error {
	err := l.handle.LinkSetGroup(byIndex(index), int(l.group+1))
	if gone(err) {
		return nil
	}
	return err
}

// Reap removes all doomed interfaces in one step.
func (l *Links) Reap() error {
	var b []byte
	b = append(b, make([]byte, unix.SizeofIfInfomsg)...)
	b = append(b, attribute(unix.IFLA_GROUP, l.group+1)...)
	return routeRequest(unix.RTM_DELLINK, b)
}

// Remove removes the interface with that name; one that is not there is no error.
func (l *Links) Remove(name string) error {
	found, err := l.handle.LinkByName(name)
	if err == nil {
		err = l.handle.LinkDel(found)
	}
	if gone(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("remove %s: %w", name, err)
	}
	return nil
}

// Interface is one of the group's interfaces.
type Interface struct {
	Name  string
	Index int
	// Doomed is true for one that Reap removes.
	Doomed bool
}

// List gives the interfaces of the group and the doomed ones.
func (l *Links) List() ([]Interface, error) {
	all, err := l.handle.LinkList()
	if err != nil {
		return nil, fmt.Errorf("list interfaces: %w", err)
	}
	var out []Interface
	for _, k := range all {
		if a := k.Attrs(); a.Group == l.group || a.Group == l.group+1 {
			out = append(out, Interface{Name: a.Name, Index: a.Index, Doomed: a.Group == l.group+1})
		}
	}
	return out, nil
}

// Gateways makes the node's addresses inside the networks exactly these.
func (l *Links) Gateways(want []netip.Addr) error {
	lo := byIndex(1)
	if err := l.handle.LinkSetUp(lo); err != nil {
		return fmt.Errorf("bring lo up: %w", err)
	}
	have, err := l.handle.AddrList(lo, netlink.FAMILY_V4)
	if err != nil {
		return fmt.Errorf("list addresses of lo: %w", err)
	}
	var kept []netip.Addr
	for _, a := range have {
		ip, _ := netip.AddrFromSlice(a.IP.To4())
		switch {
		case slices.Contains(want, ip):
			kept = append(kept, ip)
		case a.Label == l.label:
			if err := l.handle.AddrDel(lo, &a); err != nil {
				return fmt.Errorf("remove gateway %s: %w", ip, err)
			}
		}
	}
	for _, w := range want {
		if slices.Contains(kept, w) {
			continue
		}
		if err := l.handle.AddrAdd(lo, &netlink.Addr{IPNet: single(w), Label: l.label, Scope: int(netlink.SCOPE_LINK)}); err != nil {
			return fmt.Errorf("add gateway %s: %w", w, err)
		}
	}
	return nil
}

// Verify tells what of a pair is not as Create and Up made it.
func (l *Links) Verify(ns *os.File, index int, p Pair) error {
	host, err := l.handle.LinkByIndex(index)
	switch {
	case gone(err):
		return fmt.Errorf("interface %s on the node is gone", p.Host)
	case err != nil:
		return fmt.Errorf("interface %s: %w", p.Host, err)
	case host.Attrs().Name != p.Host || host.Attrs().Flags&net.FlagUp == 0:
		return fmt.Errorf("interface %s on the node is not up or has another name", p.Host)
	}
	h, err := netlink.NewHandleAt(netns.NsHandle(int(ns.Fd())), unix.NETLINK_ROUTE)
	if err != nil {
		return fmt.Errorf("route socket: %w", err)
	}
	defer h.Close()
	inner, err := h.LinkByName(p.Container)
	switch {
	case gone(err):
		return fmt.Errorf("interface %s in the container is gone", p.Container)
	case err != nil:
		return fmt.Errorf("interface %s: %w", p.Container, err)
	case !bytes.Equal(inner.Attrs().HardwareAddr, p.MAC):
		return fmt.Errorf("interface %s in the container has MAC address %s, not %s", p.Container, inner.Attrs().HardwareAddr, p.MAC)
	case inner.Attrs().Flags&net.FlagUp == 0:
		return fmt.Errorf("interface %s in the container is down", p.Container)
	}
	addrs, err := h.AddrList(inner, netlink.FAMILY_V4)
	if err != nil {
		return fmt.Errorf("addresses of %s: %w", p.Container, err)
	}
	if !slices.ContainsFunc(addrs, func(a netlink.Addr) bool { return a.IP.Equal(p.Address.AsSlice()) }) {
		return fmt.Errorf("interface %s in the container has lost its address %s", p.Container, p.Address)
	}
	routes, err := h.RouteList(inner, netlink.FAMILY_V4)
	if err != nil {
		return fmt.Errorf("routes of %s: %w", p.Container, err)
	}
	if !slices.ContainsFunc(routes, func(r netlink.Route) bool { return r.Gw.Equal(p.Gateway.AsSlice()) }) {
		return fmt.Errorf("the container has lost its route by %s", p.Gateway)
	}
	return nil
}

func byIndex(i int) netlink.Link { return &netlink.Device{LinkAttrs: netlink.LinkAttrs{Index: i}} }

func single(a netip.Addr) *net.IPNet {
	return &net.IPNet{IP: a.AsSlice(), Mask: net.CIDRMask(a.BitLen(), a.BitLen())}
}

func neighbour(index int, a netip.Addr, mac net.HardwareAddr) *netlink.Neigh {
	return &netlink.Neigh{LinkIndex: index, State: netlink.NUD_PERMANENT, IP: a.AsSlice(), HardwareAddr: mac}
}

func gone(err error) bool {
	var notFound netlink.LinkNotFoundError
	return errors.As(err, &notFound) || errors.Is(err, unix.ENODEV)
}

func sysctl(name, value string) error {
	f, err := os.OpenFile(filepath.Join("/proc/sys", name), os.O_WRONLY, 0) //nolint:gosec // below /proc/sys, and the name is our own interface's
	if err != nil {
		return fmt.Errorf("sysctl: %w", err)
	}
	defer f.Close()
	if _, err := f.WriteString(value); err != nil {
		return fmt.Errorf("sysctl: %w", err)
	}
	return nil
}
