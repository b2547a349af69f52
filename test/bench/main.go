// Bench measures TERO beside its peers, in interleaved runs, and prints for
// each figure a table for people and a line for programs. It needs root, the
// built binaries and the peers, and leaves nothing behind.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"tero.internal/test/bench/measure"
)

// target is one benchmark.
type target struct {
	name string
	// run prints tables and gives the lines.
	run func(ctx context.Context, bin string, rounds int) ([]measure.Line, error)
}

// targets are all benchmarks, in the order in which they run.
func targets() []target {
	return []target{{"runtime", runtimes}, {"memory", memory}}
}

func main() {
	bin := flag.String("bin", "bin", "folder with the built binaries")
	rounds := flag.Int("rounds", 50, "how many times each contender is measured")
	strict := flag.Bool("strict", false, "fail when a target is missed")
	only := flag.String("only", "", "comma-separated names of the benchmarks to run; all when empty")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	missed, err := run(ctx, *bin, *rounds, *only)
	stop()
	if err == nil && *strict && missed > 0 {
		err = fmt.Errorf("%d targets are missed", missed)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// run runs the chosen benchmarks and counts the targets that were missed.
func run(ctx context.Context, bin string, rounds int, only string) (missed int, err error) {
	if os.Getuid() != 0 {
		return 0, fmt.Errorf("the benchmarks need root: they make namespaces and cgroups")
	}
	if bin, err = filepath.Abs(bin); err != nil {
		return 0, err
	}
	if rounds < 1 {
		return 0, fmt.Errorf("-rounds %d: measure at least once", rounds)
	}
	chosen := targets()
	if only != "" {
		names := strings.Split(only, ",")
		for _, n := range names {
			if !slices.ContainsFunc(chosen, func(t target) bool { return t.name == n }) {
				return 0, fmt.Errorf("-only: there is no benchmark %q", n)
			}
		}
		chosen = slices.DeleteFunc(chosen, func(t target) bool { return !slices.Contains(names, t.name) })
	}
	for _, t := range chosen {
		lines, err := t.run(ctx, bin, rounds)
		if err != nil {
			return missed, fmt.Errorf("%s: %w", t.name, err)
		}
		for _, l := range lines {
			fmt.Fprintln(os.Stdout, l)
			if !l.Met() {
				missed++
			}
		}
	}
	return missed, nil
}
