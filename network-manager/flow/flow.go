// Package flow remembers who talked to whom, or tried to, and why it was
// refused. It keeps the newest flows in memory and hands them to watchers.
package flow

import (
	"context"
	"net/netip"
	"sync"
	"time"
)

// The rules that refuse where no segment is named.
const (
	RuleDefaultDeny = "default-deny"  // no segment allows it
	RuleSpoofed     = "spoofed"       // the sender used an address that is not its own
	RuleHostGuard   = "host-guard"    // to the node itself
	RuleRevoked     = "reply-revoked" // a reply in a flow that no segment allows any more
	RuleIPv6        = "ipv6"          // the network has no IPv6
	RuleDNS         = "dns-policy"    // a name that the asker may not reach
)

// Flow is one conversation or attempt. Equal ones in quick succession are one
// flow with a count.
type Flow struct {
	// Sequence numbers flows from 1 without gaps.
	Sequence    uint64    `json:"sequence"`
	First, Last time.Time `json:"-"`
	// From and To are names of workloads, or addresses where none is known.
	From        string     `json:"from"`
	To          string     `json:"to"`
	FromAddress netip.Addr `json:"fromAddress"`
	ToAddress   netip.Addr `json:"toAddress"`
	// FromContainer and ToContainer are IDs of containers, where known.
	FromContainer string `json:"fromContainer,omitempty"`
	ToContainer   string `json:"toContainer,omitempty"`
	Network       string `json:"network,omitempty"`
	Protocol      string `json:"protocol"`
	Port          uint16 `json:"port,omitempty"`
	Allowed       bool   `json:"allowed"`
	// Rule is the segment that allows it, or one of the rules above.
	Rule   string `json:"rule"`
	Reason string `json:"reason"`
	// Query is the name that was asked for, with RuleDNS.
	Query   string `json:"query,omitempty"`
	Packets uint64 `json:"packets"`
}

// key is what makes flows equal.
type key struct {
	from, to netip.Addr
	protocol string
	port     uint16
	allowed  bool
	rule     string
	query    string
}

func (f *Flow) key() key {
	return key{f.FromAddress, f.ToAddress, f.Protocol, f.Port, f.Allowed, f.Rule, f.Query}
}

// window is how long equal packets count as one flow. A flow that goes on is
// told again to watchers each retell.
const (
	window = 10 * time.Second
	retell = time.Second
	kept   = 4096
	behind = 1024
)

// Log is the flows in memory. The zero value is ready; its methods may be
// called concurrently.
type Log struct {
	mu       sync.Mutex // guards all below
	ring     []*entry   // oldest first from start
	start    int
	sequence uint64
	recent   map[key]*entry
	watchers map[*Watch]struct{}
}

type entry struct {
	flow Flow
	told time.Time
}

// Add counts one packet of f. It tells whether f is new rather than one more
// packet of a flow that is known.
func (l *Log) Add(f Flow) (Flow, bool) {
	if f.First.IsZero() {
		f.First = time.Now()
	}
	f.Last, f.Packets = f.First, 1
	l.mu.Lock()
	defer l.mu.Unlock()
	k := f.key()
	if e := l.recent[k]; e != nil && f.Last.Sub(e.flow.Last) < window {
		e.flow.Packets++
		e.flow.Last = f.Last
		if f.Last.Sub(e.told) >= retell {
			l.tell(e)
		}
		return e.flow, false
	}
	l.sequence++
	f.Sequence = l.sequence
	e := &entry{flow: f}
	l.keep(k, e)
	l.tell(e)
	return f, true
}

func (l *Log) keep(k key, e *entry) {
	if l.recent == nil {
		l.recent = map[key]*entry{}
	}
	if len(l.ring) < kept {
		l.ring = append(l.ring, e)
	} else {
		old := l.ring[l.start]
		if ok := old.flow.key(); l.recent[ok] == old {
			delete(l.recent, ok)
		}
		l.ring[l.start] = e
		l.start = (l.start + 1) % kept
	}
	l.recent[k] = e
}

func (l *Log) tell(e *entry) {
	e.told = e.flow.Last
	for w := range l.watchers {
		w.push(e.flow)
	}
}

// List gives the newest flows that match, oldest first; all when limit is 0.
func (l *Log) List(limit int, match func(*Flow) bool) []Flow {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.list(limit, match)
}

func (l *Log) list(limit int, match func(*Flow) bool) []Flow {
	var out []Flow
	for i := range l.ring {
		if f := &l.ring[(l.start+i)%len(l.ring)].flow; match == nil || match(f) {
			out = append(out, *f)
		}
	}
	if limit > 0 && len(out) > limit {
		out = out[len(out)-limit:]
	}
	return out
}

// Watch is one reader's queue. Close it.
type Watch struct {
	log   *Log
	match func(*Flow) bool
	ready chan struct{}

	mu     sync.Mutex // guards queue and missed
	queue  []Flow
	missed uint64
}

// Watch gives a queue of the flows that match: the newest recent ones, then
// each as it is seen, and again when its count has grown.
func (l *Log) Watch(recent int, match func(*Flow) bool) *Watch {
	w := &Watch{log: l, match: match, ready: make(chan struct{}, 1)}
	l.mu.Lock()
	defer l.mu.Unlock()
	if recent > 0 {
		for _, f := range l.list(min(recent, behind), match) {
			w.push(f)
		}
	}
	if l.watchers == nil {
		l.watchers = map[*Watch]struct{}{}
	}
	l.watchers[w] = struct{}{}
	return w
}

func (w *Watch) push(f Flow) {
	if w.match != nil && !w.match(&f) {
		return
	}
	w.mu.Lock()
	if len(w.queue) == behind {
		w.queue = append(w.queue[:0], w.queue[1:]...)
		w.missed++
	}
	w.queue = append(w.queue, f)
	w.mu.Unlock()
	select {
	case w.ready <- struct{}{}:
	default:
	}
}

// Next waits for a flow; missed is how many were lost before it. The error is ctx's.
func (w *Watch) Next(ctx context.Context) (f Flow, missed uint64, err error) {
	for {
		w.mu.Lock()
		if len(w.queue) > 0 {
			f, w.queue = w.queue[0], w.queue[1:]
			missed, w.missed = w.missed, 0
			w.mu.Unlock()
			return f, missed, nil
		}
		w.mu.Unlock()
		select {
		case <-w.ready:
		case <-ctx.Done():
			return Flow{}, 0, ctx.Err()
		}
	}
}

// Close ends the watch.
func (w *Watch) Close() {
	w.log.mu.Lock()
	defer w.log.mu.Unlock()
	delete(w.log.watchers, w)
}
