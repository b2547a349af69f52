package network

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"iter"
	"maps"
	"os"
	"regexp"

	"golang.org/x/sys/unix"

	"tero.internal/common/fault"
	"tero.internal/common/undo"
	"tero.internal/common/workload"
	"tero.internal/network-manager/internal/endpoint"
	"tero.internal/network-manager/internal/nft"
)

// Attach makes one interface of a container, with policy in the kernel before
// it is up. On an error nothing of it is left; when taking it back failed, too,
// Detach or the next Open can finish that.
func (m *Manager) Attach(ctx context.Context, a workload.Attachment) (workload.Endpoint, error) {
	ns, err := openNamespace(a.NetNS)
	if err != nil {
		return workload.Endpoint{}, err
	}
	defer ns.Close()
	e, err := m.AttachFile(ctx, a, ns, "")
	if err != nil {
		return workload.Endpoint{}, err
	}
	return e.Workload(), nil
}

// AttachFile is Attach with the network namespace as an open file; cni is the
// name of the CNI configuration that asks, if one does.
func (m *Manager) AttachFile(ctx context.Context, a workload.Attachment, ns *os.File, cni string) (_ Endpoint, err error) {
	inode, err := m.checkAttachment(a, ns)
	if err != nil {
		return Endpoint{}, err
	}
	k := endpoint.Key{Container: a.Container, Interface: a.Interface}
	release, err := m.acquire(ctx, k)
	if err != nil {
		return Endpoint{}, err
	}
	defer release()
	var done undo.Stack
	defer func() {
		if err != nil {
			err = errors.Join(err, done.Run(ctx))
		}
	}()

	n, err := m.vacant(a, k)
	if err != nil {
		return Endpoint{}, err
	}
	address, err := n.pool.Lease(k.String())
	if err != nil {
		return Endpoint{}, err
	}
	done.Push("lease", func(context.Context) error { return n.pool.Release(address) })

	e := endpoint.New(a, address, n.Gateway, n.MTU, m.config.InterfacePrefix)
	e.NamespaceInode, e.CNI = inode, cni
	if err := m.journal.Write(endpoint.Making, e); err != nil {
		return Endpoint{}, err
	}
	done.Push("journal", func(context.Context) error { return m.journal.Write(endpoint.Gone, e) })

	if e.HostIndex, err = m.createPair(ns, e); err != nil {
		return Endpoint{}, err
	}
	done.Push("interface", func(context.Context) error { return m.links.Remove(e.HostInterface) })

	if err := m.enlist(e); err != nil {
		return Endpoint{}, err
	}
	done.Keep() // what follows is undone like a detachment, which Detach can finish if it fails
	done.Push("endpoint", func(context.Context) error {
		return m.withdraw(e, func() error { return m.links.Remove(e.HostInterface) })
	})

	if err := ctx.Err(); err != nil {
		return Endpoint{}, fmt.Errorf("attach %s: %w", a.Name, err)
	}
	if err := m.links.Up(ns, e.HostIndex, e.Pair()); err != nil {
		return Endpoint{}, err
	}
	if err := m.journal.Write(endpoint.Ready, e); err != nil {
		return Endpoint{}, err
	}
	done.Keep()
	m.publish("endpoint.attached", e, fmt.Sprintf("%s is on network %s as %s", e.Name, e.Network, e.Address),
		map[string]string{"network": e.Network, "address": e.Address.String(), "host_interface": e.HostInterface})
	return *e, nil
}

// vacant gives the network for a new endpoint, if there is none yet.
func (m *Manager) vacant(a workload.Attachment, k endpoint.Key) (*state, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed {
		return nil, errClosed
	}
	n := m.networks[a.Network]
	if n == nil {
		return nil, fault.New(fault.NotFound, "network %q does not exist", a.Network).WithHint("create it, or use network %q", workload.NetworkDefault)
	}
	if old := m.endpoints.Get(k); old != nil {
		return nil, fault.New(fault.Exists, "container %s has interface %s on network %s already", a.Container, a.Interface, old.Network)
	}
	if old := m.leaving[k]; old != nil {
		return nil, fault.New(fault.Exists, "interface %s of container %s on network %s was not removed whole", a.Interface, a.Container, old.Network).
			WithHint("detach the container again")
	}
	return n, nil
}

// createPair makes the interfaces. One of the same name in the container may
// still wait for its removal.
func (m *Manager) createPair(ns *os.File, e *Endpoint) (int, error) {
	index, err := m.links.Create(ns, e.Pair())
	if errors.Is(err, unix.EEXIST) {
		if err := m.links.Reap(); err != nil {
			return 0, err
		}
		index, err = m.links.Create(ns, e.Pair())
	}
	if errors.Is(err, unix.EEXIST) {
		return 0, fault.New(fault.Exists, "the container has an interface %s already: %w", e.Interface, err)
	}
	return index, err
}

// enlist makes e known and lets it do what the segments allow.
func (m *Manager) enlist(e *Endpoint) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed {
		return errClosed
	}
	if m.networks[e.Network] == nil {
		return fault.New(fault.Conflict, "network %q was removed meanwhile", e.Network)
	}
	e.Mark = m.marks.Take(e.Identity())
	m.endpoints.Add(e)
	if err := m.enforce(nft.Change{AddEndpoints: []nft.Endpoint{e.Element()}}); err != nil {
		m.endpoints.Remove(e)
		m.marks.Drop(e.Identity())
		return err
	}
	return nil
}

// delist takes all that e may do out of the kernel. On an error e stays known,
// and attached as far as anyone can tell. It is nil for one that is leaving.
func (m *Manager) delist(e *Endpoint) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed {
		return errClosed
	}
	if m.leaving[e.Key()] == e {
		return nil
	}
	m.endpoints.Remove(e)
	if err := m.enforce(nft.Change{RemoveEndpoints: []nft.Endpoint{e.Element()}}); err != nil {
		m.endpoints.Add(e)
		return err
	}
	m.marks.Drop(e.Identity())
	m.leaving[e.Key()] = e
	return nil
}

// withdraw takes e out of the kernel, gives its address back and forgets it, in
// this order: what failed can be tried again, and what was done already is then
// nothing to do. The caller has acquired e.
func (m *Manager) withdraw(e *Endpoint, unlink func() error) error {
	// From here on nothing of it can send or receive, whatever fails below.
	if err := m.delist(e); err != nil {
		return err
	}
	if err := unlink(); err != nil {
		return err
	}
	m.mu.Lock()
	n := m.networks[e.Network]
	m.mu.Unlock()
	if n != nil {
		if err := n.pool.Release(e.Address); err != nil {
			return err
		}
	}
	if err := m.journal.Write(endpoint.Gone, e); err != nil {
		return err
	}
	m.mu.Lock()
	delete(m.leaving, e.Key())
	m.mu.Unlock()
	return nil
}

// present gives the endpoints that are attached or leaving. The caller holds mu.
func (m *Manager) present() iter.Seq[*Endpoint] {
	return func(yield func(*Endpoint) bool) {
		for _, all := range []iter.Seq[*Endpoint]{m.endpoints.All(), maps.Values(m.leaving)} {
			for e := range all {
				if !yield(e) {
					return
				}
			}
		}
	}
}

// Detach removes the interfaces of a container and gives its addresses back.
// It is nil for one that is not attached.
func (m *Manager) Detach(ctx context.Context, container workload.ID) error {
	return m.detachIf(ctx, func(e *Endpoint) bool { return e.Container == container && e.CNI == "" })
}

// DetachInterface removes one interface of a container; it is nil for one that
// is not there.
func (m *Manager) DetachInterface(ctx context.Context, container workload.ID, name string) error {
	return m.detach(ctx, endpoint.Key{Container: container, Interface: name})
}

// detachIf removes the endpoints that match, all of them whatever fails.
func (m *Manager) detachIf(ctx context.Context, match func(*Endpoint) bool) error {
	var keys []endpoint.Key
	m.mu.Lock()
	for e := range m.present() {
		if match(e) {
			keys = append(keys, e.Key())
		}
	}
	m.mu.Unlock()
	var errs []error
	for _, k := range keys {
		errs = append(errs, m.detach(ctx, k))
	}
	return errors.Join(errs...)
}

func (m *Manager) detach(ctx context.Context, k endpoint.Key) error {
	release, err := m.acquire(ctx, k)
	if err != nil {
		return err
	}
	defer release()
	m.mu.Lock()
	e := cmp.Or(m.endpoints.Get(k), m.leaving[k])
	m.mu.Unlock()
	if e == nil {
		return nil
	}
	if err := m.withdraw(e, func() error { return m.doom(e) }); err != nil {
		return fmt.Errorf("detach %s from network %s: %w", e.Name, e.Network, err)
	}
	m.publish("endpoint.detached", e, fmt.Sprintf("%s left network %s", e.Name, e.Network), map[string]string{"network": e.Network, "address": e.Address.String()})
	return nil
}

// doom lets the reaper remove the interface of e.
func (m *Manager) doom(e *Endpoint) error {
	if err := m.links.Doom(e.HostIndex); err != nil {
		return err
	}
	select {
	case m.doomed <- struct{}{}:
	default:
	}
	return nil
}

// Check tells what of an endpoint is not as Attach made it.
func (m *Manager) Check(_ context.Context, container workload.ID, name string, ns *os.File) error {
	e, err := m.Endpoint(container, name)
	if err != nil {
		return err
	}
	inode, err := namespaceInode(ns)
	if err != nil {
		return err
	}
	if inode != e.NamespaceInode {
		return fault.New(fault.Conflict, "container %s is in another network namespace than it was attached in", container)
	}
	if err := m.links.Verify(ns, e.HostIndex, e.Pair()); err != nil {
		return fault.New(fault.Conflict, "%w", err).WithHint("attach the container anew")
	}
	return nil
}

var interfacePattern = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_.-]{0,14}$`)

func (m *Manager) checkAttachment(a workload.Attachment, ns *os.File) (inode uint64, err error) {
	switch {
	case a.Container == "":
		return 0, fault.New(fault.Invalid, "no container given to attach")
	case a.Name == "":
		return 0, fault.New(fault.Invalid, "container %s has no name to attach it by", a.Container)
	case !interfacePattern.MatchString(a.Interface):
		return 0, fault.New(fault.Invalid, "interface name %q is not 1 to 15 of letters, digits, -, _ and .", a.Interface)
	}
	var fs unix.Statfs_t
	if err := unix.Fstatfs(int(ns.Fd()), &fs); err != nil {
		return 0, fmt.Errorf("network namespace: %w", err)
	}
	if fs.Type != unix.NSFS_MAGIC {
		return 0, fault.New(fault.Invalid, "%s is not a network namespace", ns.Name())
	}
	inode, err = namespaceInode(ns)
	if err == nil && inode == m.namespace {
		return 0, fault.New(fault.Invalid, "the container shares the node's network namespace")
	}
	return inode, err
}

func namespaceInode(ns *os.File) (uint64, error) {
	var st unix.Stat_t
	if err := unix.Fstat(int(ns.Fd()), &st); err != nil {
		return 0, fmt.Errorf("network namespace: %w", err)
	}
	return st.Ino, nil
}

func openNamespace(path string) (*os.File, error) {
	f, err := os.Open(path) //nolint:gosec // the runtime's own path; checkAttachment refuses what is no namespace
	if err != nil {
		return nil, fault.New(fault.NotFound, "network namespace %s: %w", path, err)
	}
	return f, nil
}
