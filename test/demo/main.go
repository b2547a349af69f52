// The demo shows TERO's whole path on this machine, and fails unless every
// expectation holds: a node comes up, signed images run, measured and
// identified; what is not allowed is refused and says why; the evidence is
// checked by a verifier that has only public material; nothing is left behind.
//
// It needs root and no network. Its node lives in a state directory, a network
// namespace, an nftables table and a cgroup of its own.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"tero.internal/test/testnode"
)

func main() {
	bin := flag.String("bin", "bin", "folder with the built binaries")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, *bin); err != nil {
		fmt.Fprintf(os.Stderr, "\ndemo: FAILED: %v\n", err)
		os.Exit(1)
	}
}

// run plays the scenario on a node of its own and always clears up after it.
func run(ctx context.Context, bin string) (err error) {
	started := time.Now()
	if os.Getuid() != 0 {
		return fmt.Errorf("the demo needs root: it makes namespaces, cgroups and firewall rules")
	}
	bin, err = filepath.Abs(bin)
	if err != nil {
		return err
	}
	n := testnode.New(bin, "demo", "--address=127.0.0.1:7443")
	if err := n.Clear(ctx); err != nil {
		return fmt.Errorf("clear up after an earlier demo: %w", err)
	}
	defer func() {
		if e := n.Clear(context.WithoutCancel(ctx)); e != nil && err == nil {
			err = e
		}
	}()
	if err := n.MakeNetNS(ctx); err != nil {
		return err
	}
	s := &scenario{node: n}
	for i, step := range s.steps() {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		fmt.Printf("\n%d. %s\n", i+1, step.title)
		t := time.Now()
		if err := step.play(ctx); err != nil {
			fmt.Printf("\n--- flows ---\n%s--- the node's log ---\n%s----------------------\n", n.Tero(ctx, "flows").Stdout, n.Log())
			return fmt.Errorf("step %d (%s): %w", i+1, step.title, err)
		}
		fmt.Printf("   (%.2f s)\n", time.Since(t).Seconds())
	}
	left, err := n.Left(ctx)
	if err != nil {
		return err
	}
	if len(left) > 0 {
		return fmt.Errorf("left behind: %s", strings.Join(left, "; "))
	}
	fmt.Printf("\nEvery expectation held; nothing is left behind. %.1f s in all.\n", time.Since(started).Seconds())
	return nil
}
