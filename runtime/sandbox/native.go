package sandbox

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"tero.internal/common/fault"
	"tero.internal/common/workload"
	"tero.internal/runtime/internal/cgroup"
	"tero.internal/runtime/internal/crilog"
	"tero.internal/runtime/internal/idmap"
	"tero.internal/runtime/internal/keeperclient"
	"tero.internal/runtime/internal/protocol"
	"tero.internal/runtime/internal/rootfs"
	"tero.internal/runtime/internal/setup"
)

// Native makes sandboxes of Linux namespaces. Its methods may be called at the
// same time; those for one container are the caller's to order.
type Native struct {
	Config
	tree     *cgroup.Tree
	ids      *idmap.Allocator
	scaffold *rootfs.Scaffold
	filters  setup.Filters
	holds    crilog.Holds
	maxFiles unix.Rlimit // this process's own limit of open files, as the keeper's

	mu     sync.Mutex // guards what follows
	keeper *keeperclient.Client
	closed bool
	// child is the keeper's pid when this process is its parent, else 0.
	child int
	// userNS holds a user namespace for each id range that was used so far.
	userNS map[idmap.Slot]*os.File
	// made are the containers that this process created and did not start yet.
	made map[workload.ID]*made
}

// made is what Start needs of a Create in the same process.
type made struct {
	config *specs.Spec
	steps  []string
	root   *os.File
	argv   []string
	path   []string
}

// OpenNative takes up the sandboxes of StateDir. It connects to the keeper of
// RunDir, or starts one. Sandboxes whose keeper is gone have lost the only
// process that could tell how they end, and their output: they are killed, and
// exited with code 137, marked as lost. A kernel, or a file system under StateDir,
// that containers cannot work on is refused here and not at the first launch.
func OpenNative(ctx context.Context, c Config) (*Native, error) {
	n := &Native{Config: c, ids: idmap.New(), userNS: map[idmap.Slot]*os.File{}, made: map[workload.ID]*made{}}
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &n.maxFiles); err != nil {
		return nil, os.NewSyscallError("getrlimit", err)
	}
	for _, dir := range []string{filepath.Join(n.StateDir, containersDir), filepath.Join(n.RunDir, containersDir)} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return nil, fault.New(fault.Unavailable, "cannot make the state directory: %w", err).
				WithHint("choose a writable one")
		}
	}
	err := errors.Join(setup.CheckCalls(), setup.CheckDevices())
	if err != nil {
		return nil, err
	}
	if n.scaffold, err = rootfs.OpenScaffold(filepath.Join(n.StateDir, "rootfs")); err != nil {
		return nil, err
	}
	if n.tree, err = cgroup.Open(n.CgroupParent); err != nil {
		return nil, fault.New(fault.Unsupported, "cannot use cgroups: %w", err).
			WithHint("run as root, with cgroup v1 or v2 mounted under /sys/fs/cgroup")
	}
	if err := n.takeUp(); err != nil {
		return nil, err
	}
	if _, err := n.client(ctx); err != nil {
		return nil, err
	}
	if ids, err := n.containers(); err != nil || len(ids) > 0 { // which prove that it works
		return n, err
	}
	if err := n.tryRoot(ctx); err != nil {
		if ended := n.Shutdown(context.WithoutCancel(ctx)); ended != nil {
			n.Log.WarnContext(ctx, "keeper left running", slog.Any("error", ended))
		}
		return nil, err
	}
	return n, nil
}

// tryRoot makes a root file system without an image, seen through an id map: an
// overlay over mapped layers is what kernels, and file systems, got last.
func (n *Native) tryRoot(ctx context.Context) error {
	slot, _ := n.ids.Claim() // there is no container yet
	defer n.ids.Release(slot)
	userNS, err := n.userNamespace(ctx, slot)
	if err != nil {
		return err
	}
	root, err := n.scaffold.Mount(rootfs.Options{UserNS: userNS})
	if err != nil {
		return fault.New(fault.Unsupported, "cannot make root file systems from layers in %s: %w", n.StateDir, err).
			WithHint("keep the state on ext4, xfs, btrfs or (from Linux 6.3) tmpfs; %s", setup.KernelHint)
	}
	return root.Close()
}

// takeUp marks the id ranges of the containers on disk as used.
func (n *Native) takeUp() error {
	ids, err := n.containers()
	if err != nil {
		return err
	}
	for _, id := range ids {
		r, err := n.loadRecord(id)
		if err != nil {
			return fault.New(fault.Corrupt, "cannot read the record of container %s: %w", id.Short(), err)
		}
		slot, kept := n.keptSlot(id)
		if r != nil {
			slot, kept = r.Slot, true
		}
		if !kept {
			continue
		}
		if err := n.ids.Mark(slot); err != nil {
			return fault.New(fault.Corrupt, "the record of container %s: %w", id.Short(), err)
		}
	}
	return nil
}

// client gives the connection to the keeper. When it was lost, it connects
// again, to a new keeper if need be.
func (n *Native) client(ctx context.Context) (*keeperclient.Client, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.closed {
		return nil, fault.New(fault.Unavailable, "the sandbox driver is closed")
	}
	if n.keeper != nil && n.keeper.Alive() {
		return n.keeper, nil
	}
	if n.keeper != nil {
		n.keeper.Close()
		n.keeper = nil
		n.Log.WarnContext(ctx, "connection to the keeper lost")
	}
	c, started, err := keeperclient.Connect(ctx, n.RunDir, n.InitPath)
	if err != nil {
		return nil, err
	}
	if started != 0 {
		n.Log.InfoContext(ctx, "keeper started", slog.Int("pid", started))
		n.reap(started)
		if err := n.endOrphans(ctx); err != nil {
			c.Close()
			return nil, err
		}
	}
	n.keeper = c
	return c, nil
}

// endOrphans kills the containers that were left by a keeper that is gone, and
// records that their exit was lost.
func (n *Native) endOrphans(ctx context.Context) error {
	ids, err := n.containers()
	if err != nil {
		return err
	}
	for _, id := range ids {
		exit, err := n.loadExit(id)
		if err != nil {
			return err
		}
		r, err := n.loadRecord(id)
		if err != nil {
			return err
		}
		if exit != nil || r == nil && n.ended(id) {
			continue
		}
		if err := n.group(id, r).Kill(); err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, unix.ENODEV) {
			return err
		}
		if _, err := os.Stat(n.folder(id)); errors.Is(err, fs.ErrNotExist) { // left at the first step of Create or the last of Destroy
			continue
		}
		lost := Exit{Code: 128 + int(unix.SIGKILL), Signal: unix.SIGKILL, Lost: true, At: time.Now().UTC()}
		if err := n.writeExit(id, lost); err != nil {
			return err
		}
		n.Log.WarnContext(ctx, "container lost with its keeper", slog.String("container", string(id)))
	}
	return nil
}

// reap takes note that pid is a child of this process. The caller holds mu.
func (n *Native) reap(pid int) {
	if n.child != 0 {
		_, _ = unix.Wait4(n.child, nil, unix.WNOHANG, nil)
	}
	n.child = pid
}

// call sends a request to the keeper.
func (n *Native) call(ctx context.Context, req *protocol.Request, files ...*os.File) (*protocol.Reply, *os.File, error) {
	c, err := n.client(ctx)
	if err != nil {
		return nil, nil, err
	}
	reply, file, err := c.Call(ctx, req, files)
	if errors.Is(err, keeperclient.ErrLost) {
		err = fault.New(fault.Unavailable, "the keeper of the containers was lost: %w", err).
			WithHint("its containers have ended; see %s", filepath.Join(n.RunDir, keeperclient.LogFile))
	}
	return reply, file, err
}

// List gives every sandbox that exists.
func (n *Native) List(ctx context.Context) ([]Status, error) {
	known, err := n.listKept(ctx)
	if err != nil {
		return nil, err
	}
	ids, err := n.containers()
	if err != nil {
		return nil, err
	}
	for _, id := range ids {
		s, ok := known[id]
		if !ok {
			s = Status{ID: id, Phase: Created}
			if _, err := os.Lstat(n.running(id)); errors.Is(err, fs.ErrNotExist) && n.ended(id) {
				s.Phase = Ended
			}
		}
		if s.Exit == nil {
			exit, err := n.loadExit(id)
			if err != nil {
				return nil, err
			}
			if exit != nil {
				s.Phase, s.PID, s.Exit = Exited, 0, exit
			}
		}
		known[id] = s
	}
	return slices.SortedFunc(maps.Values(known), func(a, b Status) int { return strings.Compare(string(a.ID), string(b.ID)) }), nil
}

// listKept gives what the keeper knows.
func (n *Native) listKept(ctx context.Context) (map[workload.ID]Status, error) {
	reply, _, err := n.call(ctx, &protocol.Request{Op: protocol.OpList})
	if err != nil {
		return nil, err
	}
	known := map[workload.ID]Status{}
	for _, k := range reply.Statuses {
		s := Status{ID: workload.ID(k.ID), PID: int(k.PID)}
		switch k.Phase {
		case protocol.Created:
			s.Phase = Created
		case protocol.Running:
			s.Phase = Running
		case protocol.Exited:
			x := exitOf(k.Exit)
			s.Phase, s.Exit = Exited, &x
		}
		known[s.ID] = s
	}
	return known, nil
}

func exitOf(x protocol.Exit) Exit {
	return Exit{Code: int(x.Code), Signal: unix.Signal(x.Signal), OOMKilled: x.OOM, At: time.Unix(0, x.At).UTC()}
}

// Close drops the connection to the keeper. Containers run on.
func (n *Native) Close() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.closed {
		return nil
	}
	n.closed = true
	if n.keeper != nil {
		n.keeper.Close()
		n.keeper = nil
	}
	for _, f := range n.userNS {
		_ = f.Close()
	}
	for _, m := range n.made {
		_ = m.root.Close()
	}
	n.holds.Close()
	n.scaffold.Close()
	return nil
}

// Forget lets go of a composed image (workload.Image.Erofs) that was removed,
// whose file takes space on disk until then. Its containers are not touched.
func (n *Native) Forget(path string) { n.scaffold.Forget(path) }

// Shutdown ends the keeper and removes the cgroup parent, then closes. It
// refuses while there are sandboxes.
func (n *Native) Shutdown(ctx context.Context) error {
	ids, err := n.containers()
	if err != nil {
		return err
	}
	busy := fault.New(fault.Conflict, "there are containers").WithHint("remove them with \"tero rm -f\" first")
	if len(ids) > 0 {
		return busy
	}
	c, err := n.client(ctx)
	if err != nil {
		return err
	}
	if _, _, err := c.Call(ctx, &protocol.Request{Op: protocol.OpShutdown}, nil); err != nil {
		if keeperclient.Code(err) == protocol.WrongPhase {
			return busy
		}
		return fmt.Errorf("end the keeper: %w", err)
	}
	select {
	case <-c.Done():
	case <-ctx.Done():
		return fmt.Errorf("end the keeper: %w", ctx.Err())
	}
	n.mu.Lock()
	child := n.child
	n.child = 0
	n.mu.Unlock()
	if child != 0 {
		if err := keeperclient.IgnoringEINTR(func() error { _, err := unix.Wait4(child, nil, 0, nil); return err }); err != nil && !errors.Is(err, unix.ECHILD) {
			return fmt.Errorf("end the keeper: %w", err)
		}
	}
	for _, name := range []string{keeperclient.SocketFile, keeperclient.LockFile, containersDir} {
		if err := os.Remove(filepath.Join(n.RunDir, name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("end the keeper: %w", err)
		}
	}
	return errors.Join(n.tree.Remove(ctx), n.Close())
}
