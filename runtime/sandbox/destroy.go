package sandbox

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"tero.internal/common/workload"
	"tero.internal/runtime/internal/keeperclient"
	"tero.internal/runtime/internal/protocol"
	"tero.internal/runtime/internal/rootfs"
)

// Destroy kills what is left of the container and removes everything. It may be
// called again after it failed or was killed half-way: the record goes last.
func (n *Native) Destroy(ctx context.Context, id workload.ID) error {
	if id.Validate() != nil {
		return nil //nolint:nilerr // no container has such an id
	}
	r, err := n.loadRecord(id)
	if err != nil {
		return err
	}
	group := n.group(id, r)
	if err := group.Kill(); err != nil {
		return fmt.Errorf("kill container %s: %w", id.Short(), err)
	}
	if err := n.forget(ctx, id); err != nil {
		return fmt.Errorf("end container %s: %w", id.Short(), err)
	}
	n.mu.Lock()
	if m := n.made[id]; m != nil {
		_ = m.root.Close()
		delete(n.made, id)
	}
	n.mu.Unlock()
	if err := group.Remove(ctx); err != nil {
		return err
	}
	if err := n.removeFolders(id); err != nil {
		return fmt.Errorf("remove the folders of container %s: %w", id.Short(), err)
	}
	if r != nil {
		n.ids.Release(r.Slot)
	}
	return nil
}

// forget makes the keeper kill and forget the container.
func (n *Native) forget(ctx context.Context, id workload.ID) error {
	const pause = 2 * time.Millisecond
	for {
		_, _, err := n.call(ctx, &protocol.Request{Op: protocol.OpForget, ID: string(id)})
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

// removeFolders removes the container's folders, the record last.
func (n *Native) removeFolders(id workload.ID) error {
	if err := os.RemoveAll(n.folder(id)); err != nil {
		return err
	}
	for _, name := range rootfs.EtcFiles() {
		if err := os.Remove(filepath.Join(n.running(id), filepath.Base(name))); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return os.RemoveAll(n.running(id))
}
