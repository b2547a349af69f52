package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"text/tabwriter"

	runtimev1 "tero.internal/api/runtime/v1"
	"tero.internal/test/bench/measure"
	"tero.internal/test/testnode"
)

// The targets: memory of TERO's own for an idle container, and of a prepared
// sandbox in the pool.
const (
	memoryMiB = 0.5
	slotKB    = 100
)

const mib = 1 << 20

// peerContainers is how many containers each peer has: enough for pages that its
// processes share to be shared.
const peerContainers = 50

// usage is the memory of one contender.
type usage struct {
	name       string
	containers int
	bytes      float64 // a container
}

// memory measures what an idle container costs beside its own processes: for TERO
// everything there is (terod, its keeper, prepared sandboxes), for the peers only
// the process that stays with each container, conmon and containerd's shim, without
// Podman, which has no daemon, and without containerd, which has.
func memory(ctx context.Context, bin string, _ int) (_ []measure.Line, err error) {
	dir, err := os.MkdirTemp("", "tero-bench-")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	if err := os.Chmod(dir, 0o755); err != nil {
		return nil, err
	}
	program, err := buildIdle(ctx, dir)
	if err != nil {
		return nil, err
	}
	slot, ours, err := oursIdle(ctx, bin, program)
	if err != nil {
		return nil, err
	}
	theirs, err := theirsIdle(ctx, dir, program)
	if err != nil {
		return nil, err
	}
	if err := table(append(ours, theirs...)); err != nil {
		return nil, err
	}
	lines := []measure.Line{{Name: "pool_slot_memory", Unit: "kB", Ours: slot / 1000, Target: slotKB, Absolute: true}}
	for _, us := range ours {
		for _, peer := range theirs {
			lines = append(lines, measure.Line{
				Name: fmt.Sprintf("idle_memory_%d_%s", us.containers, peer.name), Unit: "MiB",
				Ours: us.bytes / mib, Peer: peer.bytes / mib, Target: memoryMiB, Absolute: true,
			})
		}
	}
	return lines, nil
}

// table writes the figures for people.
func table(all []usage) error {
	fmt.Println("Memory for an idle container, beside its own processes (proportional set size;")
	fmt.Println("tero: terod, keeper and pool divided by the containers; peers: the one process a container has)")
	t := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprint(t, "\tcontainers\tMiB a container\t\n")
	for _, u := range all {
		fmt.Fprintf(t, "  %s\t%d\t%.3f\t\n", u.name, u.containers, u.bytes/mib)
	}
	return t.Flush()
}

// oursIdle measures a node with a pool, with 100 and with 500 containers, and
// the mean of its prepared sandboxes before.
func oursIdle(ctx context.Context, bin, program string) (slot float64, all []usage, err error) {
	n, err := startNode(ctx, bin, program, pooled)
	if err != nil {
		return 0, nil, err
	}
	defer func() { err = errors.Join(err, n.end(ctx)) }()
	if slot, err = slotMemory(ctx, n); err != nil {
		return 0, nil, err
	}
	running := 0
	for _, count := range []int{100, 500} {
		if err := n.idle(ctx, running, count); err != nil {
			return 0, nil, err
		}
		running = count
		bytes, err := n.Memory()
		if err != nil {
			return 0, nil, err
		}
		all = append(all, usage{"tero", count, float64(bytes) / float64(count)})
	}
	return slot, all, nil
}

// slotMemory gives the mean of the prepared sandboxes, when all are there.
func slotMemory(ctx context.Context, n *node) (mean float64, err error) {
	if err := testnode.WaitFor(ctx, func() (bool, string) {
		ready := len(n.Prepared())
		return ready == pooled, fmt.Sprintf("%d of %d sandboxes are prepared", ready, pooled)
	}); err != nil {
		return 0, err
	}
	for _, pid := range n.Prepared() {
		bytes, err := testnode.PSS(pid)
		if err != nil {
			return 0, err
		}
		mean += float64(bytes) / pooled
	}
	return mean, nil
}

// idle launches containers until there are count.
func (n *node) idle(ctx context.Context, from, count int) error {
	next := make(chan int)
	errs := make([]error, count)
	var group sync.WaitGroup
	for range parallelStarts {
		group.Go(func() {
			for i := range next {
				_, errs[i] = n.client.Runtime.Run(ctx, &runtimev1.RunRequest{Spec: &runtimev1.ContainerSpec{
					Name: fmt.Sprintf("idle-%d", i), Image: "true:v1", Network: "none",
				}})
			}
		})
	}
	for i := from; i < count; i++ {
		next <- i
	}
	close(next)
	group.Wait()
	return errors.Join(errs...)
}

// buildIdle builds a program that does nothing until it is killed.
func buildIdle(ctx context.Context, dir string) (string, error) {
	source, program := filepath.Join(dir, "idle.c"), filepath.Join(dir, "idle")
	if err := os.WriteFile(source, []byte("#include <unistd.h>\nint main(void) { for (;;) pause(); }\n"), 0o600); err != nil {
		return "", err
	}
	if out, err := exec.CommandContext(ctx, "gcc", "-static", "-O2", "-s", "-o", program, source).CombinedOutput(); err != nil {
		return "", fmt.Errorf("gcc: %w: %s", err, out)
	}
	return program, nil
}
