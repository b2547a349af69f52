package cgroup

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"
)

// ErrNoFreezer says that a host has no cgroup v2 hierarchy. Every kernel since
// 5.2 freezes there, hybrid hosts included, so that v1's freezer, whose frozen
// processes not even SIGKILL ends, has no part in this.
var ErrNoFreezer = errors.New("no cgroup v2 hierarchy is mounted")

// Freeze stops every process of the cgroup, and waits until all stand still. On
// an error, such as the end of ctx, none is stopped.
func (g *Group) Freeze(ctx context.Context) (err error) {
	if g.V2 == "" {
		return ErrNoFreezer
	}
	if err := write(g.V2, "cgroup.freeze", "1"); err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, g.Thaw())
		}
	}()
	for pause := firstPause; ; pause = min(2*pause, lastPause) {
		events, err := read(g.V2, "cgroup.events")
		if err != nil {
			return fmt.Errorf("freeze cgroup: %w", err)
		}
		if strings.Contains("\n"+events+"\n", "\nfrozen 1\n") {
			return nil
		}
		select {
		case <-ctx.Done(): // a process in uninterruptible sleep does not freeze
			return fmt.Errorf("freeze cgroup %s: %w", g.V2, ctx.Err())
		case <-time.After(pause):
		}
	}
}

// Thaw lets the processes go on; it is nil for a cgroup that is not frozen.
func (g *Group) Thaw() error {
	if g.V2 == "" {
		return nil
	}
	return write(g.V2, "cgroup.freeze", "0")
}

// Frozen tells whether the cgroup was frozen.
func (g *Group) Frozen() (bool, error) {
	if g.V2 == "" {
		return false, nil
	}
	s, err := read(g.V2, "cgroup.freeze")
	return s == "1", err
}
