// Package ipam leases the addresses of a network. Leases are on disk before
// anybody uses them, so that a crash loses none; an address that was given back
// rests for a grace period before somebody else gets it, so that nobody's late
// packets reach a stranger.
package ipam

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"time"

	"tero.internal/common/fault"
)

// Lease is one address in somebody's hands, or resting.
type Lease struct {
	Address netip.Addr `json:"address"`
	// Owner is empty for an address that was given back.
	Owner string `json:"owner,omitempty"`
	// Freed is when it was given back, in nanoseconds since 1970.
	Freed int64 `json:"freed,omitempty"`
}

// Config describes a pool.
type Config struct {
	// Name of the network, for messages.
	Name string
	// Prefix is the IPv4 prefix; its first and last address are never leased.
	Prefix netip.Prefix
	// Reserved addresses are never leased.
	Reserved []netip.Addr
	// Grace is how long an address rests.
	Grace time.Duration
	// Path is the file of leases.
	Path string
	// Now is the clock; time.Now when nil.
	Now func() time.Time
}

// Pool leases addresses. Its methods may be called concurrently.
type Pool struct {
	config   Config
	capacity int

	mu      sync.Mutex // guards all below
	journal *journal
	// nextRewrite is how many lines there must be before a rewrite of the
	// journal that failed is tried again.
	nextRewrite int

	leases map[netip.Addr]Lease
	owned  int
	next   netip.Addr // where the search begins, so that reuse is as late as can be
}

// Open reads the leases of a pool.
func Open(c Config) (*Pool, error) {
	if c.Now == nil {
		c.Now = time.Now
	}
	c.Prefix = c.Prefix.Masked()
	if !c.Prefix.Addr().Is4() || c.Prefix.Bits() > 30 {
		return nil, fault.New(fault.Invalid, "pool %s of network %q is not an IPv4 prefix of length 30 or less", c.Prefix, c.Name).
			WithHint("give one like 10.210.0.0/16")
	}
	p := &Pool{config: c, leases: map[netip.Addr]Lease{}, capacity: 1<<(32-c.Prefix.Bits()) - 2}
	for _, r := range c.Reserved {
		if p.leasable(r) {
			p.capacity--
		}
	}
	j, old, err := openJournal(c.Path)
	if err != nil {
		return nil, err
	}
	p.journal = j
	p.next = c.Prefix.Addr().Next()
	for _, l := range old {
		if !p.usable(l.Address) {
			continue // the pool was another one
		}
		p.leases[l.Address] = l
		p.next = l.Address.Next()
	}
	p.prune()
	for _, l := range p.leases {
		if l.Owner != "" {
			p.owned++
		}
	}
	if err := p.journal.rewrite(p.sorted()); err != nil {
		_ = p.journal.close()
		return nil, err
	}
	return p, nil
}

// leasable tells whether a lies in the prefix and is not its first or last address.
func (p *Pool) leasable(a netip.Addr) bool {
	return p.config.Prefix.Contains(a) && a != p.config.Prefix.Addr() && p.config.Prefix.Contains(a.Next())
}

func (p *Pool) usable(a netip.Addr) bool {
	return p.leasable(a) && !slices.Contains(p.config.Reserved, a)
}

// Lease gives owner an address that is free. It is durable when Lease returns.
func (p *Pool) Lease(owner string) (netip.Addr, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.leases) >= p.capacity {
		p.prune()
	}
	if len(p.leases) >= p.capacity {
		return netip.Addr{}, p.exhausted()
	}
	a := p.next
	for {
		if !p.config.Prefix.Contains(a) {
			a = p.config.Prefix.Addr()
		}
		if p.usable(a) && p.free(a) {
			break
		}
		a = a.Next()
	}
	if err := p.record(Lease{Address: a, Owner: owner}, true); err != nil {
		return netip.Addr{}, err
	}
	p.owned++
	p.next = a.Next()
	return a, nil
}

// Adopt makes sure that owner has a, which it uses already.
func (p *Pool) Adopt(a netip.Addr, owner string) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	l := p.leases[a]
	if l.Owner == owner {
		return nil
	}
	if l.Owner != "" || !p.usable(a) {
		return fault.New(fault.Conflict, "address %s of network %q is not free for %s", a, p.config.Name, owner)
	}
	if err := p.record(Lease{Address: a, Owner: owner}, true); err != nil {
		return err
	}
	p.owned++
	return nil
}

func (p *Pool) exhausted() error {
	resting := len(p.leases) - p.owned
	return fault.New(fault.Exhausted, "pool %s of network %q has no free address: %d of %d are leased, %d rest for %s after use",
		p.config.Prefix, p.config.Name, p.owned, p.capacity, resting, p.config.Grace).
		WithHint("remove containers that are not needed, or create a network with a larger pool")
}

// Release gives an address back; it rests from now on. One that is not leased
// is no error.
func (p *Pool) Release(a netip.Addr) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.leases[a].Owner == "" {
		return nil
	}
	// Not synced: after a crash the address is leased still, until the sweep
	// finds that nothing uses it.
	if err := p.record(Lease{Address: a, Freed: p.config.Now().UnixNano()}, false); err != nil {
		return err
	}
	p.owned--
	return nil
}

// crowded is how many lines more than two for each lease the file may have
// before it is written anew.
const crowded = 4096

func (p *Pool) record(l Lease, durable bool) error {
	if err := p.journal.append(l, durable); err != nil {
		return err
	}
	p.leases[l.Address] = l
	if p.journal.lines > 2*len(p.leases)+crowded && p.journal.lines >= p.nextRewrite {
		if err := p.journal.rewrite(p.sorted()); err != nil {
			// The lease is recorded all the same. Try again when the disk has had some time.
			p.nextRewrite = p.journal.lines + crowded
		}
	}
	return nil
}

// free tells whether nobody has a and it has rested.
func (p *Pool) free(a netip.Addr) bool {
	l, ok := p.leases[a]
	return !ok || l.Owner == "" && p.rested(l)
}

// rested also holds for times to come: the clock was set back.
func (p *Pool) rested(l Lease) bool {
	age := p.config.Now().Sub(time.Unix(0, l.Freed))
	return age >= p.config.Grace || age < 0
}

// prune forgets what has rested.
func (p *Pool) prune() {
	maps.DeleteFunc(p.leases, func(_ netip.Addr, l Lease) bool { return l.Owner == "" && p.rested(l) })
}

// Leases lists the leases, resting ones too, sorted by address.
func (p *Pool) Leases() []Lease {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.sorted()
}

func (p *Pool) sorted() []Lease {
	return slices.SortedFunc(maps.Values(p.leases), func(a, b Lease) int { return a.Address.Compare(b.Address) })
}

// Available is nil when an address is free, else the error that Lease would give.
func (p *Pool) Available() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.leases) >= p.capacity {
		p.prune()
	}
	if len(p.leases) >= p.capacity {
		return p.exhausted()
	}
	return nil
}

// Len tells how many addresses are not free, without those that have rested.
func (p *Pool) Len() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.prune()
	return len(p.leases)
}

// Close closes the file.
func (p *Pool) Close() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if err := p.journal.close(); err != nil {
		return fmt.Errorf("leases of network %q: %w", p.config.Name, err)
	}
	return nil
}
