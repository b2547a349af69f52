package sandbox_test

import (
	"log/slog"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"tero.internal/common/workload"
	"tero.internal/runtime/sandbox"
)

// BenchmarkLaunch creates, starts, awaits and destroys a container that does
// nothing. Beside the whole it prints the median of each phase, in
// microseconds: request to exec is create plus start. The state is on the disk
// of the machine and the running state on a tmpfs, as /var/lib and /run are.
func BenchmarkLaunch(b *testing.B) {
	for name, pool := range map[string]int{"cold": 0, "pooled": 16} {
		b.Run(name, func(b *testing.B) { benchmarkLaunch(b, pool) })
	}
}

func benchmarkLaunch(b *testing.B, pool int) {
	n := openNode(b, sandbox.Config{
		StateDir: filepath.Join(b.TempDir(), "state"), RunDir: filepath.Join(tmpfs(b, "1g"), "run"), InitPath: built.init,
		CgroupParent: "tero-test-" + workload.NewID().Short(), Pool: pool, Log: slog.New(slog.DiscardHandler),
	})
	spec := n.suite().Spec(b, "true")
	ctx := b.Context()
	var phases [5][]time.Duration
	launch := func() {
		id := workload.NewID()
		at := [6]time.Time{time.Now()}
		config, err := n.Configure(spec, image())
		if err != nil {
			b.Fatal(err)
		}
		at[1] = time.Now()
		if _, err := n.Create(ctx, id, config, image()); err != nil {
			b.Fatal(err)
		}
		at[2] = time.Now()
		if err := n.Start(ctx, id, nil); err != nil {
			b.Fatal(err)
		}
		at[3] = time.Now()
		if exit, err := n.Wait(ctx, id); err != nil || exit.Code != 0 {
			b.Fatal(exit, err)
		}
		at[4] = time.Now()
		if err := n.Destroy(ctx, id); err != nil {
			b.Fatal(err)
		}
		at[5] = time.Now()
		for i := range phases {
			phases[i] = append(phases[i], at[i+1].Sub(at[i]))
		}
	}
	launch() // the first makes what later ones share
	phases = [5][]time.Duration{}
	for b.Loop() {
		launch()
	}
	for i, name := range []string{"configure", "create", "start", "exit", "destroy"} {
		slices.Sort(phases[i])
		b.ReportMetric(float64(phases[i][len(phases[i])/2].Microseconds()), name+"-us")
	}
}
