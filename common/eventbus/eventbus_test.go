package eventbus_test

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"tero.internal/common/eventbus"
)

func TestEachSubscriberGetsAllInOrder(t *testing.T) {
	var b eventbus.Bus
	b.Publish(eventbus.Event{Type: "before"})
	first, second := b.Subscribe(), b.Subscribe()
	defer first.Close()
	defer second.Close()
	b.Publish(eventbus.Event{Type: "one"})
	b.Publish(eventbus.Event{Type: "two"})
	for _, s := range []*eventbus.Subscription{first, second} {
		for _, want := range []string{"one", "two"} {
			e, missed, err := s.Next(t.Context())
			if err != nil || missed != 0 || e.Type != want || e.Time.IsZero() {
				t.Errorf("Next = %+v, %d, %v; want %s", e, missed, err, want)
			}
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, _, err := first.Next(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("Next with an ended context: %v", err)
	}
}

func TestSlowReaderLosesTheOldestAndIsTold(t *testing.T) {
	var b eventbus.Bus
	s := b.Subscribe()
	defer s.Close()
	const published = 2000
	for i := range published {
		b.Publish(eventbus.Event{Type: fmt.Sprint(i)})
	}
	e, missed, err := s.Next(t.Context())
	if err != nil || missed == 0 || e.Type != fmt.Sprint(missed) {
		t.Errorf("Next = %s with %d missed, %v; want the oldest that is left", e.Type, missed, err)
	}
	for i := missed + 1; i < published; i++ {
		if e, missed, err = s.Next(t.Context()); err != nil || missed != 0 || e.Type != fmt.Sprint(i) {
			t.Fatalf("Next = %s with %d missed, %v; want %d", e.Type, missed, err, i)
		}
	}
}
