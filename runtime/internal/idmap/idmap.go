// Package idmap hands out ranges of user and group ids, one a container, so
// that no two containers and no user of the host share an id.
//
// The ranges lie in 0x70000000 to 0x7ffdffff (1879048192 to 2147352575), which
// systemd's registry of ids leaves unused: above its containers, below its
// foreign ids, and far from the ranges that useradd writes to /etc/subuid.
package idmap

import (
	"fmt"
	"sync"
)

// Size is how many ids a range has: enough for every image, nobody (65534) included.
const Size = 65536

const (
	base = 0x70000000
	end  = 0x7ffe0000
	// Slots is how many ranges there are.
	Slots = (end - base) / Size
)

// Slot is the number of a range.
type Slot int

// HostID gives what id 0 of the range is outside.
func (s Slot) HostID() uint32 { return base + uint32(s)*Size } //nolint:gosec // a slot is under Slots

// SlotOf gives the range that an id outside belongs to.
func SlotOf(hostID uint32) (s Slot, ok bool) {
	if hostID < base || hostID >= end {
		return 0, false
	}
	return Slot((hostID - base) / Size), true
}

// Inside gives what an id outside is in its range; ok is false when it is in none.
func Inside(id uint32) (inside uint32, ok bool) {
	if id < base || id >= end {
		return 0, false
	}
	return (id - base) % Size, true
}

// Allocator knows which ranges are in use.
type Allocator struct {
	mu   sync.Mutex // guards used and next
	used map[Slot]bool
	next Slot // no lower slot is free
}

// New gives an allocator without ranges in use.
func New() *Allocator { return &Allocator{used: map[Slot]bool{}} }

// Mark takes a range that a record says is in use.
func (a *Allocator) Mark(s Slot) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if s < 0 || s >= Slots {
		return fmt.Errorf("id range %d is not one of 0 to %d", s, Slots-1)
	}
	if a.used[s] {
		return fmt.Errorf("id range %d is used twice", s)
	}
	a.used[s] = true
	return nil
}

// Claim takes the lowest free range; ok is false when none is left.
func (a *Allocator) Claim() (s Slot, ok bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for s = a.next; s < Slots; s++ {
		if !a.used[s] {
			a.used[s], a.next = true, s+1
			return s, true
		}
	}
	return 0, false
}

// Release gives a range back.
func (a *Allocator) Release(s Slot) {
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.used, s)
	a.next = min(a.next, s)
}
