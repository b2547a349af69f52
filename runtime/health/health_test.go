package health_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"tero.internal/common/workload"
	"tero.internal/runtime/health"
)

// script plays the results of a container's checks.
type script struct {
	results []func(ctx context.Context) (int, []byte, error)
	at      []time.Duration // of each check since the start
	began   time.Time
}

func (s *script) probe(ctx context.Context, _ []string) (int, []byte, error) {
	s.at = append(s.at, time.Since(s.began))
	if len(s.results) == 0 {
		return 0, nil, nil
	}
	f := s.results[0]
	s.results = s.results[1:]
	return f(ctx)
}

func code(n int) func(context.Context) (int, []byte, error) {
	return func(context.Context) (int, []byte, error) { return n, fmt.Appendf(nil, "code %d", n), nil }
}

func hang(ctx context.Context) (int, []byte, error) {
	<-ctx.Done()
	return health.CodeFailed, []byte("so far"), ctx.Err()
}

func skip(context.Context) (int, []byte, error) { return 0, nil, health.ErrSkip }

func broken(context.Context) (int, []byte, error) { return 0, nil, errors.New("no such command") }

func TestMonitor(t *testing.T) {
	base := workload.Health{
		Command: []string{"/check"}, Interval: 10 * time.Second, Timeout: 2 * time.Second, StartInterval: 5 * time.Second, Retries: 2,
	}
	patient := base
	patient.StartPeriod = 12 * time.Second
	type result = func(context.Context) (int, []byte, error)
	for name, c := range map[string]struct {
		config  workload.Health
		before  health.Status
		results []result
		after   time.Duration
		at      []int // seconds
		changes []health.Status
		last    string // of the last output
	}{
		"healthy":                    {base, "", []result{code(0), code(0)}, 21 * time.Second, []int{10, 20}, []health.Status{health.Healthy}, "code 0"},
		"one failure is forgiven":    {base, "", []result{code(0), code(1), code(0)}, 31 * time.Second, []int{10, 20, 30}, []health.Status{health.Healthy}, "code 0"},
		"two are not":                {base, "", []result{code(0), code(1), code(1), code(1)}, 41 * time.Second, []int{10, 20, 30, 40}, []health.Status{health.Healthy, health.Unhealthy}, "code 1"},
		"and back":                   {base, "", []result{code(1), code(1), code(0)}, 31 * time.Second, []int{10, 20, 30}, []health.Status{health.Unhealthy, health.Healthy}, "code 0"},
		"a hanging check":            {base, "", []result{hang, hang}, 25 * time.Second, []int{10, 22}, []health.Status{health.Unhealthy}, "the check did not end in 2s\nso far"},
		"a command that is not":      {base, "", []result{broken, broken}, 21 * time.Second, []int{10, 20}, []health.Status{health.Unhealthy}, "no such command"},
		"paused":                     {base, "", []result{code(1), skip, skip, code(1)}, 41 * time.Second, []int{10, 20, 30, 40}, []health.Status{health.Unhealthy}, "code 1"},
		"start period":               {patient, "", []result{code(1), code(1), code(1), code(1)}, 34 * time.Second, []int{5, 10, 15, 25}, []health.Status{health.Unhealthy}, "code 1"},
		"success in it":              {patient, "", []result{code(1), code(0), code(1), code(1)}, 31 * time.Second, []int{5, 10, 20, 30}, []health.Status{health.Healthy, health.Unhealthy}, "code 1"},
		"known before":               {base, health.Healthy, []result{code(0)}, 11 * time.Second, []int{10}, nil, "code 0"},
		"known, and no start period": {patient, health.Unhealthy, []result{code(0)}, 11 * time.Second, []int{10}, []health.Status{health.Healthy}, "code 0"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := &script{results: c.results, began: time.Now()}
				var changes []health.Status
				m := &health.Monitor{
					Config: c.config, Probe: s.probe, Started: time.Now(), Before: c.before,
					Changed: func(_ context.Context, status health.Status, _ health.Check) { changes = append(changes, status) },
				}
				want := health.Starting
				if c.before != "" {
					want = c.before
				}
				if got := m.State().Status; got != want {
					t.Errorf("at first %s, want %s", got, want)
				}
				ctx, cancel := context.WithCancel(t.Context())
				done := make(chan struct{})
				go func() { m.Run(ctx); close(done) }()
				time.Sleep(c.after)
				synctest.Wait()
				cancel()
				<-done
				var at []int
				for _, d := range s.at[:min(len(s.at), len(c.at))] {
					at = append(at, int(d/time.Second))
				}
				if diff := cmp.Diff(c.at, at); diff != "" {
					t.Errorf("checks at (-want +got):\n%s", diff)
				}
				if diff := cmp.Diff(c.changes, changes); diff != "" {
					t.Errorf("changes (-want +got):\n%s", diff)
				}
				log := m.State().Log
				if len(log) == 0 || log[len(log)-1].Output != c.last {
					t.Errorf("log %+v, want %q last", log, c.last)
				}
			})
		})
	}
}

func TestWhatIsKeptIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := 0
		m := &health.Monitor{
			Config: workload.Health{Interval: time.Second, Timeout: time.Second, StartInterval: time.Second, Retries: 1},
			Probe: func(context.Context, []string) (int, []byte, error) {
				n++
				return n, []byte(strings.Repeat("x", health.MaxOutput-1) + "\u00e9 and more"), nil
			},
			Changed: func(context.Context, health.Status, health.Check) {},
		}
		ctx, cancel := context.WithTimeout(t.Context(), 20500*time.Millisecond)
		defer cancel()
		m.Run(ctx)
		log := m.State().Log
		if len(log) != health.Kept || log[health.Kept-1].Code != 20 || m.State().Failing != 20 {
			t.Errorf("%d checks kept, the last with code %d", len(log), log[len(log)-1].Code)
		}
		if out := log[0].Output; len(out) > health.MaxOutput+2 || !strings.HasSuffix(out, "x\uFFFD") {
			t.Errorf("%d bytes kept, ending in %q", len(out), out[len(out)-5:])
		}
	})
}
