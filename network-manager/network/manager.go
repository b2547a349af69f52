// Package network is the Network Manager: it connects containers to networks
// so that each can reach only what a segment allows, and remembers who tried
// what. One Manager owns all state; the daemon and quantum-api each host one.
//
// The journey of Attach, each step undone when a later one fails:
//
//	lease (on disk) ─▶ journal "making" ─▶ veth, down ─▶ nft elements
//	─▶ veth up ─▶ journal "ready"
//
// so that no packet can pass before its policy is in the kernel, and a crash at
// any point leaves something that the next Open finds and removes.
package network

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"tero.internal/common/atomicfile"
	"tero.internal/common/eventbus"
	"tero.internal/common/fault"
	"tero.internal/common/workload"
	"tero.internal/network-manager/dns"
	"tero.internal/network-manager/flow"
	"tero.internal/network-manager/internal/endpoint"
	"tero.internal/network-manager/internal/link"
	"tero.internal/network-manager/internal/mark"
	"tero.internal/network-manager/internal/nflog"
	"tero.internal/network-manager/internal/nft"
	"tero.internal/network-manager/ipam"
	"tero.internal/network-manager/segment"
)

// Domain ends the names that the networks' DNS servers answer for.
const Domain = endpoint.Domain

// Endpoint is one interface of one container.
type Endpoint = endpoint.Endpoint

// Manager manages the networks of one node. Its methods may be called concurrently.
type Manager struct {
	config Config
	lock   *os.File
	// namespace is the inode of the network namespace that the manager works in.
	namespace uint64
	links     *link.Links
	table     table
	packets   *nflog.Reader
	journal   *endpoint.Journal
	flows     flow.Log

	background sync.WaitGroup // the goroutines that Close waits for
	stop       chan struct{}
	doomed     chan struct{} // tells the reaper that there is work

	busyMu sync.Mutex // guards busy
	busy   map[endpoint.Key]chan struct{}

	mu        sync.Mutex // guards all below, and the order of changes to table
	closed    bool
	networks  map[string]*state
	endpoints *endpoint.Register
	marks     *mark.Marks
	segments  []segment.Segment
	// leaving are endpoints that have no policy in the kernel any more, but an
	// interface, a lease or a record.
	leaving map[endpoint.Key]*Endpoint
	allowed map[segment.Entry][]string // what the kernel's allow set holds
	// unsure is true when the kernel may not hold what it should, because a
	// change failed half-way.
	unsure bool
}

// table is what the manager needs of an nft.Table.
type table interface {
	Apply(c nft.Change) error
	Replace(c nft.Change) error
	Delete() error
	Close() error
}

// state is a network at work.
type state struct {
	Network
	pool *ipam.Pool
	dns  *dns.Server
}

// Open starts a manager in the network namespace of this process. It takes up
// the endpoints that an earlier one left and that live still, and removes all
// traces of the others.
func Open(ctx context.Context, c Config) (_ *Manager, err error) {
	if c, err = c.complete(); err != nil {
		return nil, err
	}
	m := &Manager{
		config: c, stop: make(chan struct{}), doomed: make(chan struct{}, 1), busy: map[endpoint.Key]chan struct{}{},
		networks: map[string]*state{}, endpoints: endpoint.NewRegister(), marks: mark.New(), leaving: map[endpoint.Key]*Endpoint{}, allowed: map[segment.Entry][]string{},
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, m.Close())
		}
	}()
	for _, dir := range []string{c.StateDir, c.RunDir} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return nil, fmt.Errorf("network manager: %w", err)
		}
	}
	if m.lock, err = lockFile(filepath.Join(c.StateDir, "lock")); err != nil {
		return nil, err
	}
	if err := atomicfile.Sweep(c.StateDir, c.RunDir); err != nil {
		return nil, fmt.Errorf("network manager: %w", err)
	}
	own, err := openNamespace("/proc/thread-self/ns/net")
	if err != nil {
		return nil, err
	}
	defer own.Close()
	if m.namespace, err = namespaceInode(own); err != nil {
		return nil, err
	}
	if m.links, err = link.Open(c.group(), c.InterfacePrefix); err != nil {
		return nil, err
	}
	t, err := nft.Open(nft.Config{Name: c.Table, Group: c.group(), LogGroup: c.logGroup()})
	if err != nil {
		return nil, err
	}
	m.table = t
	if m.packets, err = nflog.Open(c.logGroup()); err != nil {
		if errors.Is(err, unix.EPERM) { // the group is the table's, and only one process can read it: all there is before Linux 6.9
			return nil, fault.New(fault.Exists, "nftables table inet %s is used by another process: %w", c.Table, err).
				WithHint("end the other node on this machine, or give this one a table of its own")
		}
		return nil, err
	}
	if err := m.load(); err != nil {
		return nil, err
	}
	if err := m.recover(ctx); err != nil {
		return nil, err
	}
	if err := m.serveDNS(ctx); err != nil {
		return nil, err
	}
	m.background.Go(func() { m.collect(context.WithoutCancel(ctx)) })
	m.background.Go(func() { m.reap(context.WithoutCancel(ctx)) })
	return m, nil
}

// lockFile makes sure that no other process uses the same state.
func lockFile(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|unix.O_CLOEXEC, 0o600) //nolint:gosec // the manager's own file
	if err != nil {
		return nil, fmt.Errorf("network manager: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		_ = f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, fault.New(fault.Exists, "another network manager uses %s", filepath.Dir(path)).
				WithHint("end it first, or give this one a state folder of its own")
		}
		return nil, fmt.Errorf("lock %s: %w", path, err)
	}
	return f, nil
}

// Close ends the manager. Containers stay connected and policy stays in force;
// the next Open takes them up. Closing twice does nothing.
func (m *Manager) Close() error {
	m.mu.Lock()
	if m.closed {
		m.mu.Unlock()
		return nil
	}
	m.closed = true
	networks := m.networks
	m.mu.Unlock()
	close(m.stop)
	var errs []error
	for _, n := range networks {
		if n.dns != nil {
			errs = append(errs, n.dns.Close())
		}
	}
	if m.packets != nil {
		errs = append(errs, m.packets.Close())
	}
	m.background.Wait()
	if m.links != nil {
		errs = append(errs, m.links.Reap())
		m.links.Close()
	}
	if m.table != nil {
		errs = append(errs, m.table.Close())
	}
	for _, n := range networks {
		if n.pool != nil {
			errs = append(errs, n.pool.Close())
		}
	}
	if m.journal != nil {
		errs = append(errs, m.journal.Close())
	}
	if m.lock != nil {
		errs = append(errs, m.lock.Close())
	}
	return errors.Join(errs...)
}

// Down disconnects every container, takes everything out of the kernel and
// ends the manager. Networks and segments stay on disk.
func (m *Manager) Down(ctx context.Context) error {
	errs := []error{m.detachIf(ctx, func(*Endpoint) bool { return true })}
	m.mu.Lock()
	if m.closed {
		m.mu.Unlock()
		return nil
	}
	errs = append(errs, m.links.Reap(), m.table.Delete(), m.links.Gateways(nil))
	m.mu.Unlock()
	errs = append(errs, m.Close())
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("take the network down: %w", err)
	}
	return nil
}

// reap removes the interfaces of detached endpoints, many at a time.
func (m *Manager) reap(ctx context.Context) {
	for {
		select {
		case <-m.stop:
			return
		case <-m.doomed:
		}
		t := time.NewTimer(10 * time.Millisecond) // gather some more
		select {
		case <-m.stop: // Close reaps
			t.Stop()
			return
		case <-t.C:
		}
		if err := m.links.Reap(); err != nil {
			m.config.Log.WarnContext(ctx, "interfaces were not removed", slog.String("error", err.Error()))
		}
	}
}

// acquire makes the caller the only one that works on an endpoint.
func (m *Manager) acquire(ctx context.Context, k endpoint.Key) (release func(), err error) {
	for {
		m.busyMu.Lock()
		other := m.busy[k]
		if other == nil {
			mine := make(chan struct{})
			m.busy[k] = mine
			m.busyMu.Unlock()
			return func() {
				m.busyMu.Lock()
				delete(m.busy, k)
				m.busyMu.Unlock()
				close(mine)
			}, nil
		}
		m.busyMu.Unlock()
		select {
		case <-other:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

func (m *Manager) publish(kind string, e *Endpoint, message string, attributes map[string]string) {
	ev := eventbus.Event{Type: kind, Message: message, Attributes: attributes}
	if e != nil {
		ev.Name = e.Name
		if e.CNI == "" {
			ev.Container = e.Container
		}
	}
	m.config.Bus.Publish(ev)
}

// CNISocket is where the CNI socket of this manager belongs.
func (m *Manager) CNISocket() string { return filepath.Join(m.config.RunDir, "cni.sock") }

var errClosed = fault.New(fault.Unavailable, "the network manager is shutting down")

// Endpoints lists the endpoints of a network, of all when it is empty, sorted
// by network and address.
func (m *Manager) Endpoints(network string) []Endpoint {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.endpoints.List(network)
}

// Endpoint gives one interface of a container.
func (m *Manager) Endpoint(container workload.ID, name string) (Endpoint, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	e := m.endpoints.Get(endpoint.Key{Container: container, Interface: name})
	if e == nil {
		return Endpoint{}, fault.New(fault.NotFound, "container %s has no interface %s on a network", container, name)
	}
	return *e, nil
}
