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
	"tero.internal/runtime/internal/grant"
	"tero.internal/runtime/internal/idmap"
	"tero.internal/runtime/internal/keeperclient"
	"tero.internal/runtime/internal/prepared"
	"tero.internal/runtime/internal/protocol"
	"tero.internal/runtime/internal/rootfs"
	"tero.internal/runtime/internal/setup"
	"tero.internal/runtime/keeper"
	"tero.internal/runtime/ociconfig"
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
	// made are the containers that this process created and did not start yet.
	made  map[workload.ID]*made
	maker prepared.Maker
	pool  *prepared.Pool
}

// made is what Start needs of a Create in the same process.
type made struct {
	prepared *prepared.Sandbox
	config   *specs.Spec
	root     *os.File
	granted  *grant.Granted
	setup    *setup.Setup
	limits   []protocol.Rlimit
}

func (m *made) close() {
	m.prepared.Close()
	if m.setup != nil {
		m.setup.Close()
	}
	if m.root != nil {
		_ = m.root.Close()
	}
	if m.granted != nil {
		m.granted.Close()
	}
}

// OpenNative takes up the sandboxes of StateDir. It connects to the keeper of
// RunDir, or starts one. Sandboxes whose keeper is gone have lost the only
// process that could tell how they end, and their output: they are killed, and
// exited with code 137, marked as lost. A kernel, or a file system under StateDir,
// that containers cannot work on is refused here and not at the first launch.
func OpenNative(ctx context.Context, c Config) (*Native, error) {
	n := &Native{Config: c, ids: idmap.New(), made: map[workload.ID]*made{}}
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &n.maxFiles); err != nil {
		return nil, os.NewSyscallError("getrlimit", err)
	}
	if err := n.makeDirs(); err != nil {
		return nil, err
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
	n.maker = prepared.Maker{
		StateDir: n.StateDir, RunDir: n.RunDir, Prefix: prepared.Prefix(n.StateDir), Tree: n.tree, IDs: n.ids, Keeper: (*keeperOf)(n),
		Files: []string{keeper.LogFile, keeper.ExitDraft, configFile},
	}
	if err := n.takeUp(); err != nil {
		return nil, err
	}
	if _, err := n.client(ctx); err != nil {
		return nil, err
	}
	if err := n.maker.DiscardLeft(ctx); err != nil {
		return nil, err
	}
	shape, err := commonShape()
	if err != nil {
		return nil, err
	}
	n.pool = prepared.Open(&n.maker, n.Pool, shape, n.Log)      //nolint:contextcheck // the filling ends with Close, not with ctx
	if ids, err := n.containers(); err != nil || len(ids) > 0 { // which prove that it works
		return n, err
	}
	if err := n.tryRoot(ctx, shape); err != nil {
		if ended := n.Shutdown(context.WithoutCancel(ctx)); ended != nil {
			n.Log.WarnContext(ctx, "keeper left running", slog.Any("error", ended))
		}
		return nil, err
	}
	return n, nil
}

// tryRoot makes a root file system without an image, seen through the id map of
// a prepared sandbox: an overlay over mapped layers is what kernels, and file
// systems, got last.
func (n *Native) tryRoot(ctx context.Context, shape *setup.Shape) error {
	p, err := n.pool.Take(ctx, shape)
	if err != nil {
		return err
	}
	root, err := n.scaffold.Mount(rootfs.Options{UserNS: p.UserNS})
	if err == nil {
		err = root.Close()
	} else {
		err = fault.New(fault.Unsupported, "cannot make root file systems from layers in %s: %w", n.StateDir, err).
			WithHint("keep the state on ext4, xfs, btrfs or (from Linux 6.3) tmpfs; %s", setup.KernelHint)
	}
	return errors.Join(err, n.maker.Discard(ctx, p))
}

// makeDirs makes the folders of the folders of containers and prepared sandboxes.
func (n *Native) makeDirs() error {
	for _, top := range []string{n.StateDir, n.RunDir} {
		for _, dir := range []string{containersDir, prepared.Dir} {
			if err := os.MkdirAll(filepath.Join(top, dir), 0o700); err != nil {
				return fault.New(fault.Unavailable, "cannot make the state directory: %w", err).
					WithHint("choose a writable one")
			}
		}
	}
	return nil
}

// commonShape is that of a container for which nobody asked anything.
func commonShape() (*setup.Shape, error) {
	config, err := ociconfig.Build(workload.Spec{
		Name: "any", Image: "any", Args: []string{"any"}, Network: workload.NetworkNone,
	}, workload.Image{})
	if err != nil {
		return nil, fmt.Errorf("the default configuration: %w", err)
	}
	return setup.ShapeOf(config), nil
}

// keeperOf is the keeper, to who prepares sandboxes.
type keeperOf Native

// Call sends a request.
func (k *keeperOf) Call(ctx context.Context, req *protocol.Request, files ...*os.File) (*protocol.Reply, *os.File, error) {
	return (*Native)(k).call(ctx, req, files...)
}

// PID gives the keeper that answers now.
func (k *keeperOf) PID(ctx context.Context) (int, error) {
	c, err := (*Native)(k).client(ctx)
	if err != nil {
		return 0, err
	}
	return c.PID, nil
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
	if err := n.makeDirs(); err != nil { // RunDir may have been removed
		return err
	}
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
		if r != nil {
			if err := r.Cgroup.Kill(); err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, unix.ENODEV) {
				return err
			}
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
	return n.endStrays(ctx)
}

// endStrays removes the cgroups that no record knows, with their processes: the
// records of a run of the machine are gone when somebody removed RunDir.
func (n *Native) endStrays(ctx context.Context) error {
	known := map[string]bool{}
	for _, dir := range []string{containersDir, prepared.Dir} {
		entries, err := os.ReadDir(filepath.Join(n.RunDir, dir))
		if err != nil {
			return fmt.Errorf("list containers: %w", err)
		}
		for _, e := range entries {
			if r, err := prepared.ReadRecord(filepath.Join(n.RunDir, dir, e.Name())); err != nil {
				return err
			} else if r != nil {
				known[r.Name] = true
			}
		}
	}
	names, err := n.tree.Names(n.maker.Prefix)
	if err != nil {
		return err
	}
	for _, name := range names {
		if known[name] {
			continue
		}
		n.Log.WarnContext(ctx, "cgroup without a record removed", slog.String("cgroup", name))
		group := n.tree.Plan(name, nil)
		if err := errors.Join(group.Kill(), group.Remove(ctx)); err != nil {
			return err
		}
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
	known, err := n.listKept(ctx, "")
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
			s = Status{ID: id, Phase: Created, PID: n.preparedPID(id)}
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

// preparedPID gives the process of a container that was not started yet; 0 when
// this process did not create it.
func (n *Native) preparedPID(id workload.ID) int {
	n.mu.Lock()
	defer n.mu.Unlock()
	if m := n.made[id]; m != nil {
		return m.prepared.PID
	}
	return 0
}

// listKept gives what the keeper knows; of one container only, unless id is empty.
func (n *Native) listKept(ctx context.Context, id workload.ID) (map[workload.ID]Status, error) {
	reply, _, err := n.call(ctx, &protocol.Request{Op: protocol.OpList, ID: string(id)})
	if err != nil {
		return nil, err
	}
	known := map[workload.ID]Status{}
	for _, k := range reply.Statuses {
		s := Status{ID: workload.ID(k.ID), PID: int(k.PID)}
		switch k.Phase {
		case protocol.Prepared: // in its start, or not a container yet
			s.Phase = Created
		case protocol.Running:
			s.Phase = Running
		case protocol.Exited:
			x := exitOf(k.Exit)
			s.Phase, s.Exit = Exited, &x
		}
		if s.ID.Validate() == nil {
			known[s.ID] = s
		}
	}
	return known, nil
}

func exitOf(x protocol.Exit) Exit {
	return Exit{Code: int(x.Code), Signal: unix.Signal(x.Signal), OOMKilled: x.OOM, At: time.Unix(0, x.At).UTC()}
}

// Close drops the connection to the keeper. Containers run on.
func (n *Native) Close() error {
	n.pool.Close()
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
	for _, m := range n.made {
		m.close()
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
	if err := n.pool.Empty(ctx); err != nil {
		return err
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
	for _, name := range []string{keeperclient.SocketFile, keeperclient.LockFile, containersDir, prepared.Dir} {
		if err := os.Remove(filepath.Join(n.RunDir, name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("end the keeper: %w", err)
		}
	}
	return errors.Join(n.tree.Remove(ctx), n.Close())
}
