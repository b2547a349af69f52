package conformance

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"tero.internal/common/fault"
	"tero.internal/common/workload"
	"tero.internal/runtime/sandbox"
)

// native runs bundles through TERO's driver.
type native struct {
	driver *sandbox.Native
	image  workload.Image
}

func (*native) name() string { return "TERO" }

func (n *native) run(ctx context.Context, b *bundle) (v seen, err error) {
	id := workload.NewID()
	if _, err := n.driver.Create(ctx, id, b.config, n.image); err != nil {
		return refusal(err)
	}
	defer func() { err = errors.Join(err, n.driver.Destroy(context.WithoutCancel(ctx), id)) }()
	if err := n.driver.Start(ctx, id, nil); err != nil {
		return refusal(err)
	}
	v = seen{}
	if b.hold() {
		pid, err := n.held(ctx, id)
		if err != nil {
			return nil, err
		}
		if err := v.cgroup(pid); err != nil {
			return nil, err
		}
		if err := n.driver.Signal(ctx, id, unix.SIGTERM); err != nil {
			return nil, err
		}
	}
	exit, err := n.driver.Wait(ctx, id)
	if err != nil {
		return nil, err
	}
	out, err := n.output(id)
	if err != nil {
		return nil, err
	}
	return v, v.end(exit.Code, out)
}

// refusal is a run that TERO refused: an answer when it is an error for users
// with a hint, a failure of the test otherwise.
func refusal(err error) (seen, error) {
	if kind := fault.KindOf(err); kind == fault.Internal || fault.HintOf(err) == "" {
		return nil, fmt.Errorf("not a clear refusal: %w (%v, hint %q)", err, kind, fault.HintOf(err))
	}
	return seen{"outcome": "refused", "said": err.Error()}, nil
}

// held waits until the probe has told what it saw, and gives its pid.
func (n *native) held(ctx context.Context, id workload.ID) (int, error) {
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for {
		out, err := n.output(id)
		if err != nil {
			return 0, err
		}
		if bytes.HasSuffix(out, []byte("\n")) {
			return n.driver.PID(ctx, id)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return 0, fmt.Errorf("the probe told nothing: %w", ctx.Err())
		}
	}
}

// output reads the container's log: time, stream and a tag before each piece of a line.
func (n *native) output(id workload.ID) ([]byte, error) {
	b, err := os.ReadFile(n.driver.LogPath(id))
	if err != nil {
		return nil, err
	}
	var out []byte
	for line := range strings.Lines(string(b)) {
		f := strings.SplitN(strings.TrimSuffix(line, "\n"), " ", 4)
		if len(f) != 4 || !strings.HasSuffix(line, "\n") {
			continue // being written
		}
		out = append(out, f[3]...)
		if f[2] == "F" {
			out = append(out, '\n')
		}
	}
	return out, nil
}
