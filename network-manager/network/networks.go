package network

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"tero.internal/common/atomicfile"
	"tero.internal/common/fault"
	"tero.internal/common/workload"
	"tero.internal/network-manager/dns"
	"tero.internal/network-manager/internal/nft"
	"tero.internal/network-manager/ipam"
)

// The only driver and isolation so far: every packet goes by the node, and only
// what a segment allows passes.
const (
	DriverRouted  = "routed"
	IsolationFull = "full"
)

// Network is a pool of addresses and the way its containers are connected.
type Network struct {
	Name      string            `json:"name"`
	Driver    string            `json:"driver"`
	Isolation string            `json:"isolation"`
	Pool      netip.Prefix      `json:"pool"`
	Gateway   netip.Addr        `json:"gateway"`
	MTU       int               `json:"mtu"`
	Labels    map[string]string `json:"labels,omitempty"`
	Created   time.Time         `json:"created"`
}

// Info is a network with what is on it.
type Info struct {
	Network
	Endpoints int
	// Leases counts addresses that rest after use, too.
	Leases int
}

// load reads networks and segments; the network "default" is made if need be.
func (m *Manager) load() error {
	var list []Network
	if err := readJSON(m.networksFile(), &list); err != nil {
		return err
	}
	if i := slices.IndexFunc(list, func(n Network) bool { return n.Name == workload.NetworkDefault }); i < 0 {
		list = append(list, m.newNetwork(workload.NetworkDefault, m.config.Pool, m.config.MTU, nil))
	} else if list[i].Pool != m.config.Pool.Masked() || list[i].MTU != m.config.MTU {
		// The configuration counts. Containers that live keep their addresses,
		// which the new pool does not know: recover disconnects them.
		list[i] = m.newNetwork(workload.NetworkDefault, m.config.Pool, m.config.MTU, list[i].Labels)
	}
	for _, n := range list {
		pool, err := m.openPool(n)
		if err != nil {
			return err
		}
		m.networks[n.Name] = &state{Network: n, pool: pool}
	}
	if err := m.saveNetworks(); err != nil {
		return err
	}
	return readJSON(m.segmentsFile(), &m.segments)
}

func (m *Manager) newNetwork(name string, pool netip.Prefix, mtu int, labels map[string]string) Network {
	pool = pool.Masked()
	return Network{
		Name: name, Driver: DriverRouted, Isolation: IsolationFull, Pool: pool, Gateway: pool.Addr().Next(),
		MTU: mtu, Labels: labels, Created: time.Now().UTC(),
	}
}

func (m *Manager) openPool(n Network) (*ipam.Pool, error) {
	return ipam.Open(ipam.Config{
		Name: n.Name, Prefix: n.Pool, Reserved: []netip.Addr{n.Gateway}, Grace: m.config.Grace, Path: m.leasesFile(n.Name),
	})
}

func (m *Manager) networksFile() string { return filepath.Join(m.config.StateDir, "networks.json") }
func (m *Manager) segmentsFile() string { return filepath.Join(m.config.StateDir, "segments.json") }
func (m *Manager) leasesFile(network string) string {
	return filepath.Join(m.config.StateDir, "leases-"+network)
}

func readJSON(path string, dst any) error {
	b, err := os.ReadFile(path) //nolint:gosec // the manager's own file
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("network manager: %w", err)
	}
	if err := json.Unmarshal(b, dst); err != nil {
		return fault.New(fault.Corrupt, "%s: %w", path, err).WithHint("restore the file from a backup")
	}
	return nil
}

func writeJSON(path string, v any) error {
	b, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return fmt.Errorf("encode %s: %w", path, err)
	}
	return atomicfile.Write(path, append(b, '\n'), 0o600)
}

// saveNetworks writes the networks. The caller holds mu, or is Open.
func (m *Manager) saveNetworks() error {
	list := make([]Network, 0, len(m.networks))
	for _, name := range slices.Sorted(maps.Keys(m.networks)) {
		list = append(list, m.networks[name].Network)
	}
	return writeJSON(m.networksFile(), list)
}

// Networks lists all networks, sorted by name.
func (m *Manager) Networks() []Info {
	m.mu.Lock()
	defer m.mu.Unlock()
	var out []Info
	for _, name := range slices.Sorted(maps.Keys(m.networks)) {
		out = append(out, m.info(m.networks[name]))
	}
	return out
}

// Network gives one network.
func (m *Manager) Network(name string) (Info, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	n := m.networks[name]
	if n == nil {
		return Info{}, fault.New(fault.NotFound, "network %q does not exist", name)
	}
	return m.info(n), nil
}

// Status is nil when a container could be attached to the network now.
func (m *Manager) Status(name string) error {
	m.mu.Lock()
	closed := m.closed
	n := m.networks[name]
	m.mu.Unlock()
	if closed {
		return errClosed
	}
	if n == nil {
		return fault.New(fault.Unavailable, "network %q does not exist", name)
	}
	return n.pool.Available()
}

func (m *Manager) info(n *state) Info {
	i := Info{Network: n.Network, Leases: n.pool.Len()}
	for e := range m.endpoints.All() {
		if e.Network == n.Name {
			i.Endpoints++
		}
	}
	return i
}

// Request asks for a network; what is zero is chosen.
type Request struct {
	Name, Driver, Isolation string
	Pool                    netip.Prefix
	MTU                     int
	Labels                  map[string]string
}

// CreateNetwork makes a network.
func (m *Manager) CreateNetwork(ctx context.Context, r Request) (_ Info, err error) {
	if err := m.checkRequest(r); err != nil {
		return Info{}, err
	}
	if r.MTU == 0 {
		r.MTU = m.config.MTU
	}
	var failed *state
	defer func() { err = errors.Join(err, failed.stopDNS()) }() // after mu is let go: see stopDNS
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed {
		return Info{}, errClosed
	}
	if m.networks[r.Name] != nil {
		return Info{}, fault.New(fault.Exists, "network %q exists already", r.Name)
	}
	if !r.Pool.IsValid() {
		if r.Pool, err = m.freePool(); err != nil {
			return Info{}, err
		}
	}
	for _, n := range m.networks {
		if n.Pool.Overlaps(r.Pool) {
			return Info{}, fault.New(fault.Conflict, "pool %s overlaps %s of network %q", r.Pool.Masked(), n.Pool, n.Name)
		}
	}
	n := &state{Network: m.newNetwork(r.Name, r.Pool, r.MTU, r.Labels)}
	if n.pool, err = m.openPool(n.Network); err != nil {
		return Info{}, err
	}
	m.networks[n.Name] = n
	defer func() {
		if err != nil {
			failed = n
			err = errors.Join(err, m.dismantle(n))
		}
	}()
	if err := m.links.Gateways(m.gateways()); err != nil {
		return Info{}, err
	}
	if err := m.enforce(nft.Change{AddGateways: []netip.Addr{n.Gateway}}); err != nil {
		return Info{}, err
	}
	if n.dns, err = dns.Serve(ctx, n.Gateway, n.Name, m, m.config.Log); err != nil {
		return Info{}, err
	}
	if err := m.saveNetworks(); err != nil {
		return Info{}, err
	}
	m.publish("network.created", nil, fmt.Sprintf("network %s is %s", n.Name, n.Pool), map[string]string{"network": n.Name})
	return m.info(n), nil
}

func (m *Manager) checkRequest(r Request) error {
	if err := workload.ValidateName(r.Name); err != nil {
		return fault.New(fault.Invalid, "network: %w", err)
	}
	if r.Name == workload.NetworkNone {
		return fault.New(fault.Invalid, "%q means no network at all", r.Name)
	}
	if r.Driver != "" && r.Driver != DriverRouted {
		return fault.New(fault.Unsupported, "network driver %q does not exist; there is %q", r.Driver, DriverRouted)
	}
	if r.Isolation != "" && r.Isolation != IsolationFull {
		return fault.New(fault.Unsupported, "isolation %q does not exist; there is %q", r.Isolation, IsolationFull)
	}
	if r.MTU != 0 && (r.MTU < 576 || r.MTU > 65535) {
		return fault.New(fault.Invalid, "MTU %d is not from 576 to 65535", r.MTU)
	}
	return nil
}

// freePool finds a /16 that no network has.
func (m *Manager) freePool() (netip.Prefix, error) {
	for second := byte(211); second != 0; second++ {
		p := netip.PrefixFrom(netip.AddrFrom4([4]byte{10, second, 0, 0}), 16)
		if !slices.ContainsFunc(slices.Collect(maps.Values(m.networks)), func(n *state) bool { return n.Pool.Overlaps(p) }) {
			return p, nil
		}
	}
	return netip.Prefix{}, fault.New(fault.Exhausted, "no /16 from 10.211.0.0 to 10.255.0.0 is free for a network").WithHint("give a pool")
}

// RemoveNetwork removes a network that nothing is attached to.
func (m *Manager) RemoveNetwork(_ context.Context, name string) (err error) {
	if name == workload.NetworkDefault {
		return fault.New(fault.Invalid, "network %q cannot be removed", name)
	}
	var removed *state
	defer func() { err = errors.Join(err, removed.stopDNS()) }() // after mu is let go: see stopDNS
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed {
		return errClosed
	}
	n := m.networks[name]
	if n == nil {
		return fault.New(fault.NotFound, "network %q does not exist", name)
	}
	var users []string
	for e := range m.present() {
		if e.Network == name {
			users = append(users, e.Name)
		}
	}
	if slices.Sort(users); len(users) > 0 {
		return fault.New(fault.Conflict, "network %q is used by %s", name, strings.Join(users, ", ")).WithHint("remove these containers first")
	}
	for _, s := range m.segments {
		if s.Network == name {
			return fault.New(fault.Conflict, "segment %q is about network %q", s.Name, name).WithHint("remove the segment first")
		}
	}
	removed = n
	if err := m.dismantle(n); err != nil {
		return err
	}
	m.publish("network.removed", nil, fmt.Sprintf("network %s is gone", name), map[string]string{"network": name})
	return nil
}

// stopDNS ends the DNS server of a network, if there is one. The caller must not
// hold mu: an answer that is under way needs it.
func (n *state) stopDNS() error {
	if n == nil || n.dns == nil {
		return nil
	}
	return n.dns.Close()
}

// dismantle takes a network out of memory, kernel and disk, all but its DNS
// server. The caller holds mu.
func (m *Manager) dismantle(n *state) error {
	delete(m.networks, n.Name)
	errs := []error{m.replace(m.allowed), m.links.Gateways(m.gateways()), m.saveNetworks(), n.pool.Close()}
	if err := os.Remove(m.leasesFile(n.Name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}
