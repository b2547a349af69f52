package sandbox

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"tero.internal/common/workload"
	"tero.internal/runtime/internal/idmap"
	"tero.internal/runtime/internal/rootfs"
	"tero.internal/runtime/keeper"
)

// Destroy kills what is left of the container and removes everything. It may be
// called again after it failed or was killed half-way: the record goes last.
func (n *Native) Destroy(ctx context.Context, id workload.ID) error {
	if err := n.end(ctx, id, func() error { return os.RemoveAll(n.folder(id)) }); err != nil {
		return err
	}
	n.ReleaseLog(id)
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
	return n.end(ctx, id, func() error { return n.clearFolder(id) })
}

// end ends the container and removes its folders: the one on disk as clear
// does, then the running one.
func (n *Native) end(ctx context.Context, id workload.ID, clear func() error) error {
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
	n.mu.Lock()
	m := n.made[id]
	delete(n.made, id)
	n.mu.Unlock()
	if m != nil {
		m.close()
	}
	if err := n.maker.Remove(ctx, string(id), r, n.running(id), clear); err != nil {
		return fmt.Errorf("end container %s: %w", id.Short(), err)
	}
	if _, still := n.keptSlot(id); kept && !still {
		n.ids.Release(slot)
	}
	return nil
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
