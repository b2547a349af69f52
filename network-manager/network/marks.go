package network

import (
	"encoding/json"
	"maps"
	"slices"
)

// marks gives numbers to identities. A number is never given to a second
// identity while the manager runs, so that nothing stale in the kernel can
// speak for somebody new.
type marks struct {
	byIdentity map[string]*mark
	next       uint32
}

type mark struct {
	number uint32
	users  int
}

// firstMark leaves 0, which is "unknown", and some for later.
const firstMark = 0x1000

func newMarks() marks { return marks{byIdentity: map[string]*mark{}, next: firstMark} }

// identity joins all that segments can select by, and the SPIFFE ID.
func identity(e *Endpoint) string {
	pairs := []string{e.Network, e.Name, e.SPIFFEID}
	for _, k := range slices.Sorted(maps.Keys(e.Labels)) {
		pairs = append(pairs, k, e.Labels[k])
	}
	b, _ := json.Marshal(pairs) // strings always encode
	return string(b)
}

// take gives e's identity its number.
func (m *marks) take(e *Endpoint) uint32 {
	id := identity(e)
	k := m.byIdentity[id]
	if k == nil {
		k = &mark{number: m.next}
		m.next++
		m.byIdentity[id] = k
	}
	k.users++
	return k.number
}

// restore notes the number that e had before a restart.
func (m *marks) restore(e *Endpoint) {
	id := identity(e)
	k := m.byIdentity[id]
	if k == nil {
		k = &mark{number: e.Mark}
		m.byIdentity[id] = k
	}
	k.users++
	m.next = max(m.next, e.Mark+1)
}

// drop ends one use of e's identity.
func (m *marks) drop(e *Endpoint) {
	id := identity(e)
	if k := m.byIdentity[id]; k != nil {
		if k.users--; k.users == 0 {
			delete(m.byIdentity, id)
		}
	}
}
