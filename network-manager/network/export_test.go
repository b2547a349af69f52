package network

import (
	"errors"
	"testing"

	"tero.internal/network-manager/internal/endpoint"
	"tero.internal/network-manager/internal/nft"
)

// ErrBroken is what a broken part of a manager says.
var ErrBroken = errors.New("broken")

// brokenTable is a table that nothing can be changed in.
type brokenTable struct{ table }

func (brokenTable) Apply(nft.Change) error   { return ErrBroken }
func (brokenTable) Replace(nft.Change) error { return ErrBroken }

// tiringTable is whole for one change, then calls tired and is broken.
type tiringTable struct {
	table
	tired func()
	done  bool
}

func (t *tiringTable) Apply(c nft.Change) error {
	if t.done {
		return ErrBroken
	}
	t.done = true
	defer t.tired()
	return t.table.Apply(c)
}

func (t *tiringTable) Replace(nft.Change) error { return ErrBroken }

// TireTable lets all changes of policy but the next fail until mend. It calls
// tired after that one.
func (m *Manager) TireTable(tired func()) (mend func()) {
	return m.swapTable(func(whole table) table { return &tiringTable{table: whole, tired: tired} })
}

// deafTable changes but hears an error.
type deafTable struct{ brokenTable }

func (t deafTable) Apply(c nft.Change) error { return errors.Join(ErrBroken, t.table.Apply(c)) }

// DeafenTable lets all changes of policy reach the kernel, and fail, until mend.
func (m *Manager) DeafenTable() (mend func()) {
	return m.swapTable(func(whole table) table { return deafTable{brokenTable{whole}} })
}

// BreakTable lets all changes of policy fail until mend.
func (m *Manager) BreakTable() (mend func()) {
	return m.swapTable(func(whole table) table { return brokenTable{whole} })
}

func (m *Manager) swapTable(by func(table) table) (mend func()) {
	m.mu.Lock()
	defer m.mu.Unlock()
	whole := m.table
	m.table = by(whole)
	return func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		m.table = whole
	}
}

// BreakJournal lets no record be written until mend. No endpoint may come or go meanwhile.
func (m *Manager) BreakJournal(t *testing.T) (mend func()) {
	t.Helper()
	broken, _, err := endpoint.OpenJournal(t.TempDir() + "/journal") // not ready for Write
	if err != nil {
		t.Fatal(err)
	}
	whole := m.journal
	m.journal = broken
	return func() { m.journal = whole }
}
