package cgroup

import (
	"context"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// TestLimitsHold makes a real cgroup with every kind of limit and reads them
// back, whichever hierarchies the controllers are on: on v2 each has to be passed
// down from the root first.
func TestLimitsHold(t *testing.T) {
	tree, err := Open("tero-test-limits/nested")
	if err != nil {
		t.Fatal(err)
	}
	ctx := context.WithoutCancel(t.Context())
	t.Cleanup(func() {
		if err := tree.Remove(ctx); err != nil {
			t.Error(err)
		}
		outer, err := Open("tero-test-limits")
		if err != nil {
			t.Fatal(err)
		}
		if err := outer.Remove(ctx); err != nil {
			t.Error(err)
		}
	})
	quota, period, limit, swap, pids := int64(50_000), uint64(100_000), int64(64<<20), int64(80<<20), int64(10)
	limits := &specs.LinuxResources{
		CPU: &specs.LinuxCPU{Quota: &quota, Period: &period}, Memory: &specs.LinuxMemory{Limit: &limit, Swap: &swap},
		Pids: &specs.LinuxPids{Limit: &pids},
	}
	g := tree.Plan("one", limits)
	if err := tree.Create(ctx, g, limits); err != nil {
		t.Fatal(err)
	}
	var want, got []string
	for _, dir := range g.Dirs {
		for _, s := range settings(tree.of(dir), limits) {
			value, err := read(dir, s.file)
			if err != nil && s.optional {
				continue // v1 without accounting of swap
			}
			if err != nil {
				t.Fatal(err)
			}
			want, got = append(want, s.file+" "+s.value), append(got, s.file+" "+value)
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	for _, c := range []string{"cpu", "memory", "pids"} {
		if !slices.ContainsFunc(tree.hierarchies, func(h hierarchy) bool { return h.has(c) }) {
			t.Errorf("no hierarchy has the %s controller", c)
		}
	}
	if g.OOM == "" {
		t.Error("nothing counts kills for lack of memory")
	}
	if err := g.Remove(ctx); err != nil {
		t.Error(err)
	}
}
