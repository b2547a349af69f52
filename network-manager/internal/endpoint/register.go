package endpoint

import (
	"cmp"
	"iter"
	"maps"
	"net/netip"
	"slices"
)

// Register is the endpoints that are attached. Its owner locks it.
type Register struct {
	byKey     map[Key]*Endpoint
	byAddress map[netip.Addr]*Endpoint
	byIndex   map[int]*Endpoint
	// departed are endpoints whose addresses rest: their last packets are read
	// from the log after they have gone.
	departed map[netip.Addr]*Endpoint
}

// NewRegister gives an empty register.
func NewRegister() *Register {
	return &Register{
		byKey: map[Key]*Endpoint{}, byAddress: map[netip.Addr]*Endpoint{}, byIndex: map[int]*Endpoint{}, departed: map[netip.Addr]*Endpoint{},
	}
}

// Add makes an endpoint known.
func (r *Register) Add(e *Endpoint) {
	r.byKey[e.Key()], r.byAddress[e.Address], r.byIndex[e.HostIndex] = e, e, e
	delete(r.departed, e.Address)
}

// maxDeparted bounds the memory of who had an address.
const maxDeparted = 4096

// Remove forgets an endpoint, all but that it had its address last.
func (r *Register) Remove(e *Endpoint) {
	delete(r.byKey, e.Key())
	delete(r.byAddress, e.Address)
	if len(r.departed) >= maxDeparted {
		clear(r.departed)
	}
	r.departed[e.Address] = e
	delete(r.byIndex, e.HostIndex)
}

// Get gives the endpoint of a name; nil for none.
func (r *Register) Get(k Key) *Endpoint { return r.byKey[k] }

// At gives who has an address now; nil for none.
func (r *Register) At(a netip.Addr) *Endpoint { return r.byAddress[a] }

// Last gives who has an address, or had it last: no address is given again
// while its last packets may still be unread.
func (r *Register) Last(a netip.Addr) *Endpoint {
	if e := r.byAddress[a]; e != nil {
		return e
	}
	return r.departed[a]
}

// Behind gives whose node's end an interface is, by index; nil for none.
func (r *Register) Behind(index int) *Endpoint { return r.byIndex[index] }

// Len counts the endpoints.
func (r *Register) Len() int { return len(r.byKey) }

// All gives the endpoints in no order.
func (r *Register) All() iter.Seq[*Endpoint] { return maps.Values(r.byKey) }

// List copies the endpoints of a network, of all when it is empty, sorted by
// network and address.
func (r *Register) List(network string) []Endpoint {
	var out []Endpoint
	for e := range r.All() {
		if network == "" || e.Network == network {
			out = append(out, *e)
		}
	}
	slices.SortFunc(out, func(a, b Endpoint) int {
		return cmp.Or(cmp.Compare(a.Network, b.Network), a.Address.Compare(b.Address))
	})
	return out
}
