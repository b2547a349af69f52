package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"tero.internal/test/bench/measure"
	"tero.internal/test/testnode"
)

// startTarget is the most of crun's time that a whole "tero run" may take.
const startTarget = 0.30

// sporadic is the pause before a start in the sporadic mode: long enough that
// the kernel's grace periods are no longer under way.
const sporadic = 30 * time.Millisecond

// launch measures whole commands, from fork to exit: "tero run --rm" of a signed
// image of a static true against "crun run" of the same program under the same
// configuration, both without a network; with the default one as a third.
func launch(ctx context.Context, bin string, rounds int) (_ []measure.Line, err error) {
	n := testnode.New(bin, "bench")
	if err := n.Clear(ctx); err != nil {
		return nil, fmt.Errorf("clear up after an earlier run: %w", err)
	}
	dir, err := os.MkdirTemp("", "tero-bench-")
	if err != nil {
		return nil, err
	}
	defer func() {
		clean := context.WithoutCancel(ctx)
		err = errors.Join(err, n.Clear(clean), os.RemoveAll(dir))
	}()
	if err := os.Chmod(dir, 0o755); err != nil {
		return nil, err
	}
	if err := startNode(ctx, n); err != nil {
		return nil, err
	}
	peer, err := newCrun(dir, filepath.Join(n.WorkDir(), "root", "true"))
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, peer.close()) }()

	contenders := []measure.Contender{
		{Name: "tero run --rm --network none", Once: teroRun(n, "none")},
		{Name: "crun run", Prepare: func(context.Context) error { return peer.prepare() }, Once: peer.run},
		{Name: "tero run --rm (default network)", Once: teroRun(n, "default")},
	}
	var lines []measure.Line
	for _, mode := range []struct {
		name, title string
		idle        time.Duration
	}{
		{"run_true_p50", "Whole start and end of a static true, back to back", 0},
		{"run_true_sporadic_p50", fmt.Sprintf("The same, sporadic (%v idle before each)", sporadic), sporadic},
	} {
		series, err := measure.Interleave(ctx, measure.Plan{Rounds: rounds, WarmUp: 3, Idle: mode.idle}, contenders...)
		if err != nil {
			return nil, err
		}
		if err := measure.Table(os.Stdout, mode.title, series); err != nil {
			return nil, err
		}
		lines = append(lines, measure.Durations(mode.name, series[0], series[1], 50, startTarget))
	}
	return lines, nil
}

// teroRun runs the image to its end.
func teroRun(n *testnode.Node, network string) func(context.Context) error {
	return func(ctx context.Context) error {
		if r := n.Tero(ctx, "run", "--rm", "--network", network, "true:v1"); r.Code != 0 {
			return fmt.Errorf("tero run ended with code %d: %s", r.Code, r.Stderr)
		}
		return nil
	}
}

// startNode starts the node with a signed image of a static true.
func startNode(ctx context.Context, n *testnode.Node) error {
	if err := n.MakeNetNS(ctx); err != nil {
		return err
	}
	if err := n.Start(ctx); err != nil {
		return err
	}
	build := exec.CommandContext(ctx, "go", "build", "-trimpath", "-o", filepath.Join(n.WorkDir(), "root", "true"), "tero.internal/examples/true")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return fmt.Errorf("go build: %w: %s", err, out)
	}
	tero := func(args ...string) error {
		if r := n.Tero(ctx, args...); r.Code != 0 {
			return fmt.Errorf("tero %v: %s", args, r.Stderr)
		}
		return nil
	}
	if err := tero("image", "keygen", "--plain", "--prefix", "bench"); err != nil {
		return err
	}
	if err := tero("image", "build", "-t", "true:v1", "--layout", "images", "--entrypoint", "/true", "root"); err != nil {
		return err
	}
	if err := tero("image", "sign", "--key", "bench.key", "--layout", "images", "true:v1"); err != nil {
		return err
	}
	trust := filepath.Join(n.StateDir(), "trust", "images")
	if err := os.MkdirAll(trust, 0o700); err != nil {
		return err
	}
	key, err := os.ReadFile(filepath.Join(n.WorkDir(), "bench.pub"))
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(trust, "bench.pub"), key, 0o600); err != nil {
		return err
	}
	return tero("image", "import", "images")
}
