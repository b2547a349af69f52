package measure

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestInterleaveTakesTurns(t *testing.T) {
	var order []string
	contender := func(name string) Contender {
		return Contender{Name: name, Once: func(context.Context) error { order = append(order, name); return nil }}
	}
	series, err := Interleave(t.Context(), Plan{Rounds: 2, WarmUp: 1}, contender("a"), contender("b"))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"a", "b", "b", "a", "a", "b"}, order); diff != "" {
		t.Error(diff)
	}
	for _, s := range series {
		if len(s.Times) != 2 {
			t.Errorf("%s was measured %d times", s.Name, len(s.Times))
		}
	}
}

func TestInterleaveStops(t *testing.T) {
	broken := errors.New("broken")
	if _, err := Interleave(t.Context(), Plan{Rounds: 1}, Contender{Name: "x", Once: func(context.Context) error { return broken }}); !errors.Is(err, broken) {
		t.Errorf("got %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Interleave(ctx, Plan{Rounds: 1, Idle: time.Hour}, Contender{Name: "x"}); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

func TestPercentile(t *testing.T) {
	s := Series{}
	if s.Percentile(50) != 0 {
		t.Error("an empty series has a median")
	}
	for i := 10; i >= 1; i-- {
		s.Times = append(s.Times, time.Duration(i))
	}
	for p, want := range map[int]time.Duration{0: 1, 10: 1, 50: 5, 90: 9, 91: 10, 100: 10} {
		if got := s.Percentile(p); got != want {
			t.Errorf("p%d: %d, want %d", p, got, want)
		}
	}
}

func TestLine(t *testing.T) {
	ours, peer := Series{Times: []time.Duration{2 * time.Millisecond}}, Series{Times: []time.Duration{8 * time.Millisecond}}
	l := Durations("run_true_p50", ours, peer, 50, 0.30)
	if want := "BENCH name=run_true_p50 ours=2.00ms peer=8.00ms ratio=0.250 target<=0.30"; l.String() != want || !l.Met() {
		t.Errorf("%s, met %v", l, l.Met())
	}
	more := Line{Name: "starts", Ours: 2, Peer: 1, Unit: "/s", AtLeast: true, Target: 2.5}
	if want := "BENCH name=starts ours=2.00/s peer=1.00/s ratio=2.000 target>=2.50"; more.String() != want || more.Met() {
		t.Errorf("%s, met %v", more, more.Met())
	}
	size := Line{Name: "memory", Ours: 0.4, Peer: 2, Unit: "MiB", Target: 0.5, Absolute: true}
	if want := "BENCH name=memory ours=0.40MiB peer=2.00MiB ratio=0.200 target<=0.50MiB"; size.String() != want || !size.Met() {
		t.Errorf("%s, met %v", size, size.Met())
	}
	alone := Line{Name: "slot", Ours: 101, Unit: "kB", Target: 100, Absolute: true}
	if want := "BENCH name=slot ours=101.00kB target<=100.00kB"; alone.String() != want || alone.Met() {
		t.Errorf("%s, met %v", alone, alone.Met())
	}
	if (Line{Ours: 1, Target: 1}).Met() {
		t.Error("met without a peer")
	}
}

func TestTable(t *testing.T) {
	var b strings.Builder
	if err := Table(&b, "Title", []Series{{Name: "ours", Times: []time.Duration{time.Millisecond, 3 * time.Millisecond}}}); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"Title\n", "ours", "1.00 ms", "3.00 ms", "p90"} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("no %q in\n%s", want, b.String())
		}
	}
}
