package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"sync"
	"time"

	"tero.internal/test/bench/measure"
)

// sporadic is the pause before a start in the sporadic mode: long enough that
// the kernel's grace periods are no longer under way.
const sporadic = 30 * time.Millisecond

// The targets, as parts of what crun takes.
const (
	requestCold, requestPooled = 0.12, 0.04
	commandCold, commandPooled = 0.30, 0.22
	commandPodman              = 0.08
	parallelCrun, parallelRunc = 2.5, 4.0
)

// pooled is how many sandboxes the second node keeps ready.
const pooled = 16

// newestCrun names a newer crun than Debian's, where the machine has one.
const newestCrun = "TERO_BENCH_CRUN"

// scene is what the runtime's benchmarks work with: a node that prepares nothing,
// one with a pool, and the peers.
type scene struct {
	cold, pool *node
	peers      *peers
}

// withScene makes a scene, and removes it.
func withScene(ctx context.Context, bin string, run func(*scene) ([]measure.Line, error)) (_ []measure.Line, err error) {
	dir, err := os.MkdirTemp("", "tero-bench-")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	if err := os.Chmod(dir, 0o755); err != nil {
		return nil, err
	}
	program, err := buildTrue(ctx, dir)
	if err != nil {
		return nil, err
	}
	var s scene
	if s.cold, err = startNode(ctx, bin, program, 0); err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, s.cold.end(ctx)) }()
	if s.pool, err = startNode(ctx, bin, program, pooled); err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, s.pool.end(ctx)) }()
	if s.peers, err = newPeers(dir, program, parallelStarts); err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, s.peers.close()) }()
	return run(&s)
}

// runtimes measures starts: from a request at the node's socket to the exec, and
// whole commands from fork to exit, beside whole commands of the peers.
func runtimes(ctx context.Context, bin string, rounds int) ([]measure.Line, error) {
	return withScene(ctx, bin, func(s *scene) ([]measure.Line, error) {
		lines, err := s.starts(ctx, rounds)
		if err != nil {
			return nil, err
		}
		more, err := s.parallel(ctx, rounds)
		return append(lines, more...), err
	})
}

func (s *scene) starts(ctx context.Context, rounds int) ([]measure.Line, error) {
	contenders := []measure.Contender{
		{Name: "request to exec, cold", Prepare: s.cold.settle, Timed: s.cold.request},
		{Name: "request to exec, pooled", Prepare: s.pool.settle, Timed: s.pool.request},
		{Name: "tero run --rm, cold", Prepare: s.cold.settle, Once: s.cold.command},
		{Name: "tero run --rm, pooled", Prepare: s.pool.settle, Once: s.pool.command},
		s.peer("crun"), s.peer("runc"),
	}
	if newest := os.Getenv(newestCrun); newest != "" {
		c := s.peer(newest)
		c.Name = "newest crun run"
		contenders = append(contenders, c)
	}
	if _, err := exec.LookPath("podman"); err == nil {
		contenders = append(contenders, measure.Contender{Name: "podman run --rm", Once: s.peers.podman})
	}
	var lines []measure.Line
	for _, mode := range []struct {
		suffix, title string
		idle          time.Duration
	}{
		{"", "Start of a static true, back to back", 0},
		{"_sporadic", fmt.Sprintf("The same, sporadic (%v idle before each)", sporadic), sporadic},
	} {
		series, err := measure.Interleave(ctx, measure.Plan{Rounds: rounds, WarmUp: 3, Idle: mode.idle}, contenders...)
		if err != nil {
			return nil, err
		}
		if err := measure.Table(os.Stdout, mode.title, series); err != nil {
			return nil, err
		}
		crun := series[4]
		lines = append(lines,
			measure.Durations("start_cold"+mode.suffix, series[0], crun, 50, requestCold),
			measure.Durations("start_pooled"+mode.suffix, series[1], crun, 50, requestPooled),
			measure.Durations("run_cold"+mode.suffix, series[2], crun, 50, commandCold),
			measure.Durations("run_pooled"+mode.suffix, series[3], crun, 50, commandPooled))
		if last := series[len(series)-1]; last.Name == "podman run --rm" {
			lines = append(lines, measure.Durations("run_podman"+mode.suffix, series[3], last, 50, commandPodman))
		}
	}
	return lines, nil
}

// peer measures whole starts of an OCI runtime.
func (s *scene) peer(runtime string) measure.Contender {
	var next *start
	return measure.Contender{
		Name:    runtime + " run",
		Prepare: func(context.Context) (err error) { next, err = s.peers.prepare(runtime); return err },
		Once:    func(ctx context.Context) error { return s.peers.run(ctx, next) },
	}
}

// parallelStarts is how many starts are under way at a time.
const parallelStarts = 8

// parallel measures how many whole starts and ends a second there are, eight at
// a time: in turns of the contenders, so that a machine's mood meets them alike.
func (s *scene) parallel(ctx context.Context, rounds int) ([]measure.Line, error) {
	batch := max(2*parallelStarts, rounds)
	tero := func(n *node) func(context.Context, int) error {
		return func(ctx context.Context, _ int) error { return n.command(ctx) }
	}
	var prepared []*start
	oci := func(ctx context.Context, i int) error { return s.peers.run(ctx, prepared[i]) }
	prepare := func(runtime string) func(context.Context) error {
		return func(context.Context) error {
			prepared = make([]*start, batch)
			var err error
			for i := range prepared {
				if prepared[i], err = s.peers.prepare(runtime); err != nil {
					return err
				}
			}
			return nil
		}
	}
	contenders := []measure.Contender{
		{Name: "tero run --rm, 8 at a time", Prepare: s.pool.settle, Once: eight(batch, tero(s.pool))},
		{Name: "crun run, 8 at a time", Prepare: prepare("crun"), Once: eight(batch, oci)},
		{Name: "runc run, 8 at a time", Prepare: prepare("runc"), Once: eight(batch, oci)},
	}
	series, err := measure.Interleave(ctx, measure.Plan{Rounds: 5, WarmUp: 1}, contenders...)
	if err != nil {
		return nil, err
	}
	if err := measure.Table(os.Stdout, fmt.Sprintf("%d starts and ends, eight at a time", batch), series); err != nil {
		return nil, err
	}
	rate := func(s measure.Series) float64 { return float64(batch) / s.Percentile(50).Seconds() }
	line := func(name string, peer measure.Series, target float64) measure.Line {
		return measure.Line{Name: name, Unit: "/s", Ours: rate(series[0]), Peer: rate(peer), AtLeast: true, Target: target}
	}
	return []measure.Line{line("parallel_crun", series[1], parallelCrun), line("parallel_runc", series[2], parallelRunc)}, nil
}

// eight runs count starts, eight at a time.
func eight(count int, once func(ctx context.Context, i int) error) func(context.Context) error {
	return func(ctx context.Context) error {
		var group sync.WaitGroup
		errs := make([]error, count)
		next := make(chan int)
		for range parallelStarts {
			group.Go(func() {
				for i := range next {
					errs[i] = once(ctx, i)
				}
			})
		}
		for i := range count {
			next <- i
		}
		close(next)
		group.Wait()
		return errors.Join(errs...)
	}
}
