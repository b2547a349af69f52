package prepared

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"tero.internal/runtime/internal/keeperclient"
	"tero.internal/runtime/internal/protocol"
	"tero.internal/runtime/internal/rootfs"
)

// Remove removes the container id of the record r, which may be nil, or the
// prepared sandbox when id is "". The record, in the folder running, goes last.
func (m *Maker) Remove(ctx context.Context, id string, r *Record, running string, clear func() error) error {
	name := ""
	if r != nil {
		name = r.Name
		if err := r.Cgroup.Kill(); err != nil {
			return err
		}
	}
	if err := m.Forget(ctx, id, name); err != nil {
		return err
	}
	if r != nil {
		if err := r.Cgroup.Remove(ctx); err != nil {
			return err
		}
	}
	if err := errors.Join(clear(), removeRunning(running)); err != nil {
		return fmt.Errorf("remove its folders: %w", err)
	}
	return nil
}

// Forget makes the keeper kill and forget the container, or the prepared sandbox.
func (m *Maker) Forget(ctx context.Context, id, name string) error {
	const pause = 2 * time.Millisecond
	for {
		_, _, err := m.Keeper.Call(ctx, &protocol.Request{Op: protocol.OpForget, ID: id, From: name})
		switch keeperclient.Code(err) {
		case protocol.Unknown:
			return nil
		case protocol.WrongPhase: // it is being cloned; its cgroup was killed, so not for long
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-time.After(pause):
				continue
			}
		}
		if errors.Is(err, keeperclient.ErrLost) { // nobody is left to know it
			return nil
		}
		return err
	}
}

// removeRunning removes a running folder, the record last.
func removeRunning(running string) error {
	for _, name := range rootfs.EtcFiles() {
		if err := os.Remove(filepath.Join(running, filepath.Base(name))); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return os.RemoveAll(running)
}
