// Package mark gives numbers to identities, because the kernel matches numbers.
package mark

import "fmt"

// First leaves 0, which is "unknown", and some for later.
const First = 0x1000

// Marks are the numbers in use. A number is never given to a second identity
// while the process runs, so that nothing stale in the kernel can speak for
// somebody new. It is for one goroutine at a time.
type Marks struct {
	byIdentity map[string]*mark
	next       uint32
}

type mark struct {
	number uint32
	users  int
}

// New gives marks of which none is in use.
func New() *Marks { return &Marks{byIdentity: map[string]*mark{}, next: First} }

// Take gives an identity its number and counts one more use of it.
func (m *Marks) Take(identity string) uint32 {
	k := m.byIdentity[identity]
	if k == nil {
		k = &mark{number: m.next}
		m.next++
		m.byIdentity[identity] = k
	}
	k.users++
	return k.number
}

// Restore counts one more use of an identity that had its number before a
// restart. Two numbers for one identity are an error.
func (m *Marks) Restore(identity string, number uint32) error {
	k := m.byIdentity[identity]
	if k == nil {
		k = &mark{number: number}
		m.byIdentity[identity] = k
	}
	if k.number != number {
		return fmt.Errorf("identity %s has mark %#x and %#x", identity, k.number, number)
	}
	k.users++
	m.next = max(m.next, number+1)
	return nil
}

// Drop ends one use.
func (m *Marks) Drop(identity string) {
	if k := m.byIdentity[identity]; k != nil {
		if k.users--; k.users == 0 {
			delete(m.byIdentity, identity)
		}
	}
}
