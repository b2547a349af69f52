// Package prepared makes processes that wait to become containers, and keeps some
// ready: namespaces, ids, a cgroup, folders and mounts are there before anybody
// asks for a container. Nothing of any image has run in them.
package prepared

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"tero.internal/common/fault"
	"tero.internal/common/undo"
	"tero.internal/common/workload"
	"tero.internal/runtime/internal/cgroup"
	"tero.internal/runtime/internal/idmap"
	"tero.internal/runtime/internal/protocol"
	"tero.internal/runtime/internal/rootfs"
	"tero.internal/runtime/internal/setup"
)

// Dir has the folders of prepared sandboxes, in StateDir and in RunDir.
const Dir = "prepared"

// Maker makes prepared sandboxes.
type Maker struct {
	StateDir, RunDir string
	// Prefix begins the names of all sandboxes, see Prefix.
	Prefix string
	// Files are made, empty, in a sandbox's folder on disk, which will need them:
	// a disk's file system looks for a free inode for some time.
	Files  []string
	Tree   *cgroup.Tree
	IDs    *idmap.Allocator
	Keeper Keeper
}

// Prefix gives what the names of the cgroups of one state directory begin
// with, so that nodes which share a parent leave each other's alone.
func Prefix(stateDir string) string {
	sum := sha256.Sum256([]byte(filepath.Clean(stateDir)))
	return hex.EncodeToString(sum[:4]) + "-"
}

// Sandbox is a process that waits to become a container of a shape. It becomes
// at most one.
type Sandbox struct {
	Record Record
	// PID is the process, in the host's numbers.
	PID int
	// NetNS is a path to its network namespace, a descriptor of the keeper's;
	// UserNS its user namespace.
	NetNS  string
	UserNS *os.File

	shape   *setup.Shape
	process *os.File // a pidfd
	keeper  int      // the keeper's pid
	// lent says that the range of ids is not to be given back with the sandbox.
	lent bool
	// running and folder are where its folders are now.
	running, folder string
}

// Close closes its files.
func (p *Sandbox) Close() {
	for _, f := range []*os.File{p.process, p.UserNS} {
		if f != nil {
			_ = f.Close()
		}
	}
}

// alive tells whether the process can still become a container.
func (p *Sandbox) alive(keeper int) bool {
	if p.keeper != keeper {
		return false
	}
	raw, err := p.process.SyscallConn()
	if err != nil {
		return false
	}
	ended := 1
	_ = raw.Control(func(fd uintptr) {
		ended, err = unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 0) //nolint:gosec // a descriptor
	})
	return err == nil && ended == 0
}

// Make prepares a process, with a certain range of ids that the caller has, or
// with a free one. On an error nothing is left.
func (m *Maker) Make(ctx context.Context, shape *setup.Shape, ids *idmap.Slot) (_ *Sandbox, err error) {
	var done undo.Stack
	defer func() {
		if err != nil {
			err = errors.Join(err, done.Run(ctx))
		}
	}()
	name := m.Prefix + workload.NewID().Short()
	p := &Sandbox{
		shape: shape, Record: Record{Name: name, Cgroup: *m.Tree.Plan(name, &shape.Resources)}, lent: ids != nil,
		running: filepath.Join(m.RunDir, Dir, name), folder: filepath.Join(m.StateDir, Dir, name),
	}
	if p.lent {
		p.Record.Slot = *ids
	} else {
		slot, ok := m.IDs.Claim()
		if !ok {
			return nil, fault.New(fault.Exhausted, "all %d ranges of user ids are in use", idmap.Slots).WithHint("remove containers")
		}
		done.Push("claim ids", func(context.Context) error { m.IDs.Release(slot); return nil })
		p.Record.Slot = slot
	}
	if err := p.makeFolders(m.Files, &done); err != nil {
		return nil, err
	}
	if err := m.Tree.Create(ctx, &p.Record.Cgroup, &shape.Resources); err != nil {
		return nil, cgroup.Explain(err)
	}
	done.Push("make cgroup", p.Record.Cgroup.Remove)
	if err := m.clone(ctx, p); err != nil {
		p.Close()
		return nil, err
	}
	return p, nil
}

// makeFolders makes the folders, and first of all the record of what will be made.
func (p *Sandbox) makeFolders(files []string, done *undo.Stack) error {
	done.Push("make folders", func(context.Context) error { return errors.Join(os.RemoveAll(p.folder), removeRunning(p.running)) })
	if err := os.Mkdir(p.running, 0o700); err != nil {
		return ExplainDisk(err)
	}
	if err := p.Record.write(p.running); err != nil {
		return ExplainDisk(err)
	}
	if err := os.Mkdir(p.folder, 0o700); err != nil {
		return ExplainDisk(err)
	}
	for _, name := range files {
		f, err := os.OpenFile(filepath.Join(p.folder, name), os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600) //nolint:gosec // a folder of ours
		if err != nil {
			return ExplainDisk(err)
		}
		if err := f.Close(); err != nil {
			return ExplainDisk(err)
		}
	}
	for _, name := range rootfs.EtcFiles() {
		if err := makeEtc(filepath.Join(p.running, filepath.Base(name)), int(p.Record.Slot.HostID())); err != nil {
			return ExplainDisk(err)
		}
	}
	return nil
}

// makeEtc makes a file that the container's root owns and anybody in it may
// read. It is not seen through an id map: tmpfs lacks them before Linux 6.3.
func makeEtc(path string, owner int) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644) //nolint:gosec // as said above
	if err != nil {
		return err
	}
	return errors.Join(f.Chmod(0o644), f.Chown(owner, owner), f.Close())
}

// clone makes the process.
func (m *Maker) clone(ctx context.Context, p *Sandbox) error {
	group, err := p.Record.Cgroup.Open()
	if err != nil {
		return err
	}
	defer group.Close()
	c, err := setup.Prepare(p.shape, group.Tasks)
	if err != nil {
		return err
	}
	defer c.Close()
	req := &protocol.Request{
		Op: protocol.OpPrepare, ID: p.Record.Name, HostID: p.Record.Slot.HostID(), Size: idmap.Size,
		CloneFlags: p.shape.Flags(), Folder: protocol.None, OOM: protocol.None, Cgroup: protocol.None,
	}
	var extra []*os.File
	add := func(f *os.File, index *int32) {
		if f != nil {
			*index = int32(len(c.Files()) + 1 + len(extra)) //nolint:gosec // an index
			extra = append(extra, f)
		}
	}
	add(group.V2, &req.Cgroup)
	add(group.OOM, &req.OOM)
	reply, userNS, err := Run(ctx, m.Keeper, req, c, extra...)
	if err != nil {
		return Explain(err, c.Steps(), nil, &specs.Spec{Process: &specs.Process{Args: []string{""}}})
	}
	p.PID, p.UserNS = int(reply.PID), userNS
	if err := m.takeUp(ctx, p); err != nil {
		return errors.Join(fmt.Errorf("take up the prepared process: %w", err), m.Forget(context.WithoutCancel(ctx), "", p.Record.Name))
	}
	p.NetNS = fmt.Sprintf("/proc/%d/fd/%d", p.keeper, reply.Number)
	return nil
}

// takeUp notes which process it is, and whose.
func (m *Maker) takeUp(ctx context.Context, p *Sandbox) (err error) {
	if p.UserNS == nil {
		return errors.New("the keeper sent no user namespace")
	}
	if p.keeper, err = m.Keeper.PID(ctx); err != nil {
		return err
	}
	fd, err := unix.PidfdOpen(p.PID, 0)
	if err != nil {
		return err
	}
	p.process = os.NewFile(uintptr(fd), "pidfd")
	return nil
}

// Name moves the sandbox's folders to the places of the container that it
// becomes; the error is EEXIST when there is something. The record is there
// first, so that who removes the container can always find it. With again, the
// folder on disk is that of an earlier run.
func (p *Sandbox) Name(running, folder string, again bool) error {
	if err := rename(p.running, running); err != nil {
		return err
	}
	var err error
	if again {
		err = os.RemoveAll(p.folder)
	} else {
		err = rename(p.folder, folder)
	}
	if err != nil {
		return errors.Join(err, rename(running, p.running))
	}
	p.running, p.folder = running, folder
	return nil
}

// rename renames, never over something that is there.
func rename(from, to string) error {
	return unix.Renameat2(unix.AT_FDCWD, from, unix.AT_FDCWD, to, unix.RENAME_NOREPLACE)
}

// Discard removes a prepared sandbox that has no container's name.
func (m *Maker) Discard(ctx context.Context, p *Sandbox) error {
	p.Close()
	if err := m.Remove(ctx, "", &p.Record, p.running, func() error { return os.RemoveAll(p.folder) }); err != nil {
		return fmt.Errorf("discard a prepared sandbox: %w", err)
	}
	if !p.lent {
		m.IDs.Release(p.Record.Slot)
	}
	return nil
}

// DiscardLeft removes what an earlier process of this node had prepared.
func (m *Maker) DiscardLeft(ctx context.Context) error {
	names := map[string]bool{}
	for _, top := range []string{m.RunDir, m.StateDir} {
		entries, err := os.ReadDir(filepath.Join(top, Dir))
		if err != nil {
			return fmt.Errorf("list prepared sandboxes: %w", err)
		}
		for _, e := range entries {
			names[e.Name()] = true
		}
	}
	for name := range names {
		running := filepath.Join(m.RunDir, Dir, name)
		r, err := ReadRecord(running)
		if err != nil {
			return err
		}
		if err := m.Remove(ctx, "", r, running, func() error { return os.RemoveAll(filepath.Join(m.StateDir, Dir, name)) }); err != nil {
			return fmt.Errorf("discard a prepared sandbox: %w", err)
		}
	}
	return nil
}
