package network

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"path/filepath"
	"slices"

	"tero.internal/common/fault"
	"tero.internal/common/workload"
	"tero.internal/network-manager/internal/endpoint"
	"tero.internal/network-manager/internal/link"
	"tero.internal/network-manager/segment"
)

// recover takes up the endpoints of the journal whose interfaces live, and
// removes interfaces, leases and elements that belong to none of them. An
// interface on the node ends with the container's namespace, so that one that
// lives proves that the namespace does.
func (m *Manager) recover(ctx context.Context) error {
	j, records, err := endpoint.OpenJournal(filepath.Join(m.config.RunDir, "endpoints.journal"))
	if err != nil {
		return err
	}
	m.journal = j
	found, err := m.links.List()
	if err != nil {
		return err
	}
	var living []*Endpoint
	for _, r := range records {
		e := r.Endpoint
		// One that is doomed is not alive: a Detach had begun.
		alive := r.State == endpoint.Ready && slices.Contains(found, link.Interface{Name: e.HostInterface, Index: e.HostIndex})
		n := m.networks[e.Network]
		if !alive || n == nil || n.pool.Adopt(e.Address, e.Key().String()) != nil {
			m.config.Log.InfoContext(ctx, "removed what is left of an endpoint", slog.String("workload", e.Name), slog.String("address", e.Address.String()))
			continue
		}
		if err := m.marks.Restore(e.Identity(), e.Mark); err != nil {
			return fault.New(fault.Corrupt, "journal of endpoints: %w", err)
		}
		m.endpoints.Add(e)
		living = append(living, e)
	}
	if err := m.sweepLeases(); err != nil {
		return err
	}
	if err := m.links.Gateways(m.gateways()); err != nil {
		return err
	}
	want := segment.Compile(m.segments, m.members())
	if err := m.replace(want); err != nil {
		return err
	}
	m.allowed = want
	for _, l := range found {
		if m.endpoints.Behind(l.Index) == nil {
			if err := m.links.Doom(l.Index); err != nil {
				return fmt.Errorf("remove left interface %s: %w", l.Name, err)
			}
		}
	}
	return errors.Join(m.links.Reap(), m.journal.Rewrite(living))
}

func (m *Manager) sweepLeases() error {
	for _, n := range m.networks {
		for _, l := range n.pool.Leases() {
			e := m.endpoints.At(l.Address)
			if l.Owner != "" && (e == nil || e.Key().String() != l.Owner) {
				if err := n.pool.Release(l.Address); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// gateways lists the addresses of the node in its networks.
func (m *Manager) gateways() []netip.Addr {
	var out []netip.Addr
	for _, n := range m.networks {
		out = append(out, n.Gateway)
	}
	return out
}

// Reconcile removes the endpoints of all containers but those that live, as the
// runtime knows them. Those that were made by CNI are not the runtime's and stay.
func (m *Manager) Reconcile(ctx context.Context, alive []workload.ID) error {
	return m.detachIf(ctx, func(e *Endpoint) bool { return e.CNI == "" && !slices.Contains(alive, e.Container) })
}

// CollectCNI removes the endpoints that a CNI configuration made, but those
// that are valid, given as container and interface.
func (m *Manager) CollectCNI(ctx context.Context, cni string, valid func(container workload.ID, name string) bool) error {
	return m.detachIf(ctx, func(e *Endpoint) bool { return e.CNI != "" && e.CNI == cni && !valid(e.Container, e.Interface) })
}
