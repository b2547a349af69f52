package sandbox

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"tero.internal/common/workload"
	"tero.internal/runtime/internal/idmap"
	"tero.internal/runtime/internal/keeperclient"
	"tero.internal/runtime/internal/protocol"
	"tero.internal/runtime/internal/rootfs"
	"tero.internal/runtime/keeper"
)

// Destroy kills what is left of the container and removes everything. It may be
// called again after it failed or was killed half-way: the record goes last.
func (n *Native) Destroy(ctx context.Context, id workload.ID) error {
	if err := n.remove(ctx, id, func() error { return os.RemoveAll(n.folder(id)) }); err != nil {
		return err
	}
	if n.Volumes != nil {
		n.Volumes.Release(id)
	}
	return nil
}

// End kills what is left of the container and removes it, but for its folder
// with the log and the writable layer, which the next Create of the same
// container goes on with, and Destroy removes. With the layer stays its range of
// user ids, which its files belong to. Like Destroy, it may be called again.
func (n *Native) End(ctx context.Context, id workload.ID) error {
	return n.remove(ctx, id, func() error { return n.clearFolder(id) })
}

// remove ends the container and removes its folders: the one on disk as clear
// does, then the running one.
func (n *Native) remove(ctx context.Context, id workload.ID, clear func() error) error {
	if id.Validate() != nil {
		return nil //nolint:nilerr // no container has such an id
	}
	r, err := n.loadRecord(id)
	if err != nil {
		return err
	}
	slot, kept := n.keptSlot(id)
	if r != nil {
		slot, kept = r.Slot, true
	}
	n.ReleaseLog(id)
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
	if err := errors.Join(clear(), n.removeRunning(id)); err != nil {
		return fmt.Errorf("remove the folders of container %s: %w", id.Short(), err)
	}
	if _, still := n.keptSlot(id); kept && !still {
		n.ids.Release(slot)
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

// clearFolder removes from the container's folder what belongs to one run.
func (n *Native) clearFolder(id workload.ID) error {
	for _, name := range []string{keeper.ExitFile, configFile, pointsDir} {
		if err := os.RemoveAll(filepath.Join(n.folder(id), name)); err != nil {
			return err
		}
	}
	return nil
}

// removeRunning removes the container's running folder, the record last.
func (n *Native) removeRunning(id workload.ID) error {
	for _, name := range rootfs.EtcFiles() {
		if err := os.Remove(filepath.Join(n.running(id), filepath.Base(name))); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return os.RemoveAll(n.running(id))
}

// keptSlot gives the id range that the files of the container's writable layer
// belong to, if it has one. The container may give files away within its range,
// but is nowhere near the folder that is asked here.
func (n *Native) keptSlot(id workload.ID) (idmap.Slot, bool) {
	var st unix.Stat_t
	if err := unix.Lstat(filepath.Join(n.folder(id), layerDir, rootfs.WorkDir), &st); err != nil {
		return 0, false
	}
	return idmap.SlotOf(st.Uid)
}
