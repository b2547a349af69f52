// Package eventbus carries facts one way, from whoever knows to whoever cares:
// never requests, never replies. A slow reader loses the oldest facts and is
// told how many; a publisher never waits.
package eventbus

import (
	"context"
	"sync"
	"time"

	"tero.internal/common/workload"
)

// Event is one fact.
type Event struct {
	Time time.Time `json:"time"`
	// Type is "module.fact" ("container.started", "flow.denied", "launch.refused").
	Type string `json:"type"`
	// Container and Name are empty for facts about no container.
	Container workload.ID `json:"container,omitempty"`
	Name      string      `json:"name,omitempty"`
	// Message is one line for people.
	Message string `json:"message"`
	// Attributes are for programs; keys are snake_case.
	Attributes map[string]string `json:"attributes,omitempty"`
}

// buffered is how many facts a reader may lag behind.
const buffered = 1024

// Bus hands each published event to every present subscriber. The zero value is ready.
type Bus struct {
	mu   sync.Mutex // guards subs
	subs map[*Subscription]struct{}
}

// Subscription is one reader's queue.
type Subscription struct {
	mu      sync.Mutex // guards queue and dropped
	queue   []Event
	dropped int
	ready   chan struct{}
	bus     *Bus
}

// Publish hands e out; a zero Time becomes now.
func (b *Bus) Publish(e Event) {
	if e.Time.IsZero() {
		e.Time = time.Now()
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	for s := range b.subs {
		s.push(e)
	}
}

// Subscribe gives a queue of all events published from now on. Close it.
func (b *Bus) Subscribe() *Subscription {
	s := &Subscription{ready: make(chan struct{}, 1), bus: b}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.subs == nil {
		b.subs = map[*Subscription]struct{}{}
	}
	b.subs[s] = struct{}{}
	return s
}

func (s *Subscription) push(e Event) {
	s.mu.Lock()
	if len(s.queue) == buffered {
		s.queue = append(s.queue[:0], s.queue[1:]...)
		s.dropped++
	}
	s.queue = append(s.queue, e)
	s.mu.Unlock()
	select {
	case s.ready <- struct{}{}:
	default:
	}
}

// Next waits for the next event; missed is how many were lost before it. The
// error is ctx's.
func (s *Subscription) Next(ctx context.Context) (e Event, missed int, err error) {
	for {
		s.mu.Lock()
		if len(s.queue) > 0 {
			e, s.queue = s.queue[0], s.queue[1:]
			missed, s.dropped = s.dropped, 0
			s.mu.Unlock()
			return e, missed, nil
		}
		s.mu.Unlock()
		select {
		case <-s.ready:
		case <-ctx.Done():
			return Event{}, 0, ctx.Err()
		}
	}
}

// Close ends the subscription.
func (s *Subscription) Close() {
	s.bus.mu.Lock()
	defer s.bus.mu.Unlock()
	delete(s.bus.subs, s)
}
