package flow_test

import (
	"context"
	"net/netip"
	"testing"
	"time"

	"tero.internal/network-manager/flow"
)

func attempt(port uint16, at time.Time) flow.Flow {
	return flow.Flow{
		First: at, From: "client", To: "web", FromAddress: netip.MustParseAddr("10.0.0.1"), ToAddress: netip.MustParseAddr("10.0.0.2"),
		Protocol: "tcp", Port: port, Rule: flow.RuleDefaultDeny,
	}
}

func TestEqualAttemptsAreOneFlow(t *testing.T) {
	var l flow.Log
	start := time.Now()
	for i := range 5 {
		f, isNew := l.Add(attempt(80, start.Add(time.Duration(i)*100*time.Millisecond)))
		if isNew != (i == 0) || f.Packets != uint64(i+1) || f.Sequence != 1 {
			t.Errorf("packet %d: %+v, new %v", i, f, isNew)
		}
	}
	if f, isNew := l.Add(attempt(81, start)); !isNew || f.Sequence != 2 {
		t.Errorf("another port: %+v, new %v", f, isNew)
	}
	if f, isNew := l.Add(attempt(80, start.Add(time.Minute))); !isNew || f.Sequence != 3 {
		t.Errorf("a minute later: %+v, new %v", f, isNew)
	}
	if got := l.List(2, nil); len(got) != 2 || got[0].Sequence != 2 || got[1].Sequence != 3 {
		t.Errorf("list: %+v", got)
	}
}

func TestMemoryIsBounded(t *testing.T) {
	var l flow.Log
	start := time.Now()
	for i := range 10000 {
		l.Add(attempt(uint16(i), start))
	}
	got := l.List(0, nil)
	if len(got) != 4096 || got[0].Sequence != 10000-4095 || got[4095].Sequence != 10000 {
		t.Errorf("%d flows, from %d", len(got), got[0].Sequence)
	}
}

func TestWatch(t *testing.T) {
	var l flow.Log
	start := time.Now()
	l.Add(attempt(1, start))
	w := l.Watch(10, func(f *flow.Flow) bool { return f.Port < 5000 })
	defer w.Close()
	l.Add(attempt(6000, start))
	l.Add(attempt(2, start))
	l.Add(attempt(2, start.Add(100*time.Millisecond))) // not told yet
	l.Add(attempt(2, start.Add(2*time.Second)))        // told with the count
	for _, want := range []struct {
		port    uint16
		packets uint64
	}{{1, 1}, {2, 1}, {2, 3}} {
		f, missed, err := w.Next(t.Context())
		if err != nil || missed != 0 || f.Port != want.port || f.Packets != want.packets {
			t.Errorf("%+v missed %d %v, want %+v", f, missed, err, want)
		}
	}
	for i := range 2000 {
		l.Add(attempt(uint16(i+10), start))
	}
	if f, missed, err := w.Next(t.Context()); err != nil || missed != 2000-1024 || f.Port != 10+2000-1024 {
		t.Errorf("slow reader: port %d, missed %d, %v", f.Port, missed, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	w2 := l.Watch(0, nil)
	defer w2.Close()
	cancel()
	if _, _, err := w2.Next(ctx); err == nil {
		t.Error("Next did not end with its context")
	}
}
