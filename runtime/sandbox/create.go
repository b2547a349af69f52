package sandbox

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"tero.internal/common/fault"
	"tero.internal/common/undo"
	"tero.internal/common/workload"
	"tero.internal/runtime/internal/cgroup"
	"tero.internal/runtime/internal/grant"
	"tero.internal/runtime/internal/idmap"
	"tero.internal/runtime/internal/protocol"
	"tero.internal/runtime/internal/rootfs"
	"tero.internal/runtime/internal/setup"
	"tero.internal/runtime/ociconfig"
)

// annotationInput marks a configuration whose standard input stays open.
const annotationInput = "internal.tero.open-stdin"

// annotationDurable marks one whose writable layer must outlive the machine's run.
const annotationDurable = "internal.tero.durable"

// annotationHealth holds the argv of the health check, in JSON.
const annotationHealth = "internal.tero.health"

// The annotations that bound the log, when not to the defaults.
const (
	annotationLogBytes = "internal.tero.log-max-bytes"
	annotationLogFiles = "internal.tero.log-max-files"
)

// createTimeout bounds what the keeper does for one request.
const createTimeout = 30 * time.Second

// Configure gives the OCI runtime configuration that Create will apply.
func (n *Native) Configure(spec workload.Spec, image workload.Image) (*specs.Spec, error) {
	config, err := ociconfig.BuildOn(grant.Node{}, spec, image)
	if err != nil {
		return nil, err
	}
	annotate := func(key, value string) {
		if config.Annotations == nil {
			config.Annotations = map[string]string{}
		}
		config.Annotations[key] = value
	}
	if spec.OpenStdin {
		annotate(annotationInput, "true")
	}
	if spec.WritableRootfs && spec.Restart.AtBoot() {
		annotate(annotationDurable, "true")
	}
	if len(spec.Health.Command) > 0 { // TERO runs it inside: it is part of what is measured
		command, err := json.Marshal(spec.Health.Command)
		if err != nil {
			return nil, fmt.Errorf("encode the health check: %w", err)
		}
		annotate(annotationHealth, string(command))
	}
	if spec.Log.MaxBytes != 0 {
		annotate(annotationLogBytes, strconv.FormatInt(spec.Log.MaxBytes, 10))
	}
	if spec.Log.MaxFiles != 0 {
		annotate(annotationLogFiles, strconv.Itoa(spec.Log.MaxFiles))
	}
	return config, nil
}

// Create makes the sandbox; its process waits for Start. netns is valid until
// Destroy, also when the process has ended: the keeper holds it. On an error
// nothing is left.
func (n *Native) Create(ctx context.Context, id workload.ID, config *specs.Spec, image workload.Image) (netns string, err error) {
	if err := check(id, config, image); err != nil {
		return "", err
	}
	var done undo.Stack
	defer func() {
		if err != nil {
			err = errors.Join(err, done.Run(ctx))
		}
	}()
	slot, err := n.slot(id, &done)
	if err != nil {
		return "", err
	}
	r := &record{Slot: slot, Cgroup: *n.tree.Plan(string(id), config.Linux.Resources)}
	if err := n.makeFolders(id, r, &done); err != nil {
		return "", err
	}
	if err := n.tree.Create(ctx, &r.Cgroup, config.Linux.Resources); err != nil {
		return "", cgroup.Explain(err)
	}
	done.Push("make cgroup", r.Cgroup.Remove)
	group, err := r.Cgroup.Open()
	if err != nil {
		return "", err
	}
	defer group.Close()
	userNS, err := n.userNamespace(ctx, slot)
	if err != nil {
		return "", err
	}
	granted, err := grant.Node{Protected: append([]string{n.StateDir, n.RunDir}, n.Protected...), Volumes: n.Volumes}.Open(
		grant.Container{ID: id, Config: config, Slot: slot, UserNS: userNS, Folder: n.running(id)})
	if err != nil {
		return "", err
	}
	defer granted.Close()
	root, err := n.root(id, config, image, userNS, slot, granted)
	if err != nil {
		return "", err
	}
	if err := granted.Prepare(ctx, root, &done); err != nil {
		_ = root.Close()
		return "", err
	}
	c, err := n.filters.Container(setup.Options{
		Config: config, Tasks: group.Tasks, Root: root, UserNS: userNS, Mounts: granted.Mounts, Etc: n.running(id),
	})
	if err != nil {
		_ = root.Close()
		return "", err
	}
	defer c.Close()

	// What only Exec needs is written while the keeper works.
	var side sync.WaitGroup
	var sideErr error
	side.Go(func() {
		sideErr = explainDisk(writeJSON(filepath.Join(n.folder(id), configFile), description{config, image, image.Layers}))
	})
	reply, err := n.create(ctx, id, config, c, group, slot)
	side.Wait()
	if err == nil {
		done.Push("clone process", func(ctx context.Context) error { return n.forget(ctx, id) })
		err = sideErr
	}
	if err != nil {
		_ = root.Close()
		return "", n.explain(err, c.Steps(), nil, config)
	}
	n.mu.Lock()
	n.made[id] = &made{config: config, steps: c.Steps(), root: root, argv: config.Process.Args, path: setup.Candidates(config.Process.Args[0], config.Process.Env)}
	keeper := n.keeper.PID
	n.mu.Unlock()
	return fmt.Sprintf("/proc/%d/fd/%d", keeper, reply.Number), nil
}

// slot gives the container's range of user ids: that of the writable layer which
// an earlier run left, else a free one.
func (n *Native) slot(id workload.ID, done *undo.Stack) (idmap.Slot, error) {
	if slot, kept := n.keptSlot(id); kept {
		return slot, nil
	}
	slot, ok := n.ids.Claim()
	if !ok {
		return 0, fault.New(fault.Exhausted, "all %d ranges of user ids are in use", idmap.Slots).WithHint("remove containers")
	}
	done.Push("claim ids", func(context.Context) error { n.ids.Release(slot); return nil })
	return slot, nil
}

// check refuses what Create cannot do before it does anything.
func check(id workload.ID, config *specs.Spec, image workload.Image) error {
	if err := id.Validate(); err != nil {
		return fault.New(fault.Invalid, "%w", err)
	}
	switch {
	case config == nil || config.Process == nil || config.Linux == nil || config.Root == nil:
		return fault.New(fault.Invalid, "the configuration lacks its process, root or linux part")
	case config.Root.Path != "" && config.Root.Path != "rootfs":
		return fault.New(fault.Unsupported, "root file system %q: the native class makes its own of the image", config.Root.Path).
			WithHint("leave root.path out")
	case len(config.Process.Args) == 0:
		return fault.New(fault.Invalid, "the configuration names no command")
	case !strings.HasPrefix(config.Process.Cwd, "/"):
		return fault.New(fault.Invalid, "working directory %q is not an absolute path", config.Process.Cwd).
			WithHint("begin it with a slash")
	case len(image.Layers) == 0:
		return fault.New(fault.Invalid, "image %s has no layers", image.Reference)
	case config.Process.User.UID >= idmap.Size || config.Process.User.GID >= idmap.Size:
		return fault.New(fault.Invalid, "user %d:%d is not one of the %d ids of a container", config.Process.User.UID, config.Process.User.GID, idmap.Size).
			WithHint("choose ids under %d", idmap.Size)
	case setup.Namespaces(config)&unix.CLONE_NEWUSER == 0 || setup.Namespaces(config)&unix.CLONE_NEWNS == 0 || setup.Namespaces(config)&unix.CLONE_NEWPID == 0:
		return fault.New(fault.Unsupported, "the native class needs user, mount and pid namespaces").
			WithHint("list them in linux.namespaces")
	}
	return setup.Check(config)
}

// makeFolders makes the container's folders, and first of all the record of what
// will be made. The second may be there since an earlier run, see End.
func (n *Native) makeFolders(id workload.ID, r *record, done *undo.Stack) error {
	exists := fault.New(fault.Exists, "container %s exists", id.Short())
	switch err := os.Mkdir(n.running(id), 0o700); {
	case errors.Is(err, fs.ErrExist):
		return exists
	case err != nil:
		return explainDisk(err)
	}
	done.Push("make running folder", func(context.Context) error { return os.RemoveAll(n.running(id)) })
	if err := writeJSON(filepath.Join(n.running(id), recordFile), r); err != nil {
		return explainDisk(err)
	}
	switch err := os.Mkdir(n.folder(id), 0o700); {
	case err == nil:
		done.Push("make folder", func(context.Context) error { return os.RemoveAll(n.folder(id)) })
	case !errors.Is(err, fs.ErrExist):
		return explainDisk(err)
	case !n.ended(id):
		return exists
	default:
		done.Push("use folder again", func(context.Context) error { return n.clearFolder(id) })
	}
	for _, name := range rootfs.EtcFiles() {
		if err := makeEtc(filepath.Join(n.running(id), filepath.Base(name)), int(r.Slot.HostID())); err != nil {
			return explainDisk(err)
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

// userNamespace gives a user namespace with the ids of a slot, for mounts.
func (n *Native) userNamespace(ctx context.Context, slot idmap.Slot) (*os.File, error) {
	n.mu.Lock()
	f := n.userNS[slot]
	n.mu.Unlock()
	if f != nil {
		return f, nil
	}
	_, f, err := n.call(ctx, &protocol.Request{
		Op: protocol.OpUserNS, HostID: slot.HostID(), Size: idmap.Size,
	})
	if err == nil && f == nil {
		err = errors.New("keeper: no file in the reply")
	}
	if err != nil {
		return nil, fault.New(fault.KindOf(err), "cannot make a user namespace: %w", err).
			WithHint("is /proc/sys/user/max_user_namespaces high enough?")
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.userNS[slot] = f
	return f, nil
}

// root makes the container's root file system.
func (n *Native) root(id workload.ID, config *specs.Spec, image workload.Image, userNS *os.File, slot idmap.Slot, granted *grant.Granted) (*os.File, error) {
	o := rootfs.Options{
		Erofs: image.Erofs, Layers: image.Layers, UserNS: userNS, NoSuid: config.Process.NoNewPrivileges, Label: config.Linux.MountLabel,
	}
	points := filepath.Join(n.folder(id), pointsDir)
	for i := range config.Mounts {
		m := &config.Mounts[i]
		if n.scaffold.Covers(m.Destination) || belowTmpfs(config.Mounts[:i], m.Destination) {
			continue
		}
		if there, err := n.hasPoint(image, m, granted.File(m)); err != nil {
			return nil, explainRoot(err, image)
		} else if there {
			continue
		}
		if err := rootfs.MakePoint(points, m.Destination, granted.File(m)); err != nil {
			return nil, explainDisk(err)
		}
		o.Points = points
	}
	if !config.Root.Readonly {
		o.Upper, o.Durable = filepath.Join(n.folder(id), layerDir), config.Annotations[annotationDurable] == "true"
		if err := n.upper(id, o.Upper, slot); err != nil {
			return nil, explainDisk(err)
		}
	}
	root, err := n.scaffold.Mount(o)
	if err != nil {
		return nil, explainRoot(err, image)
	}
	return root, nil
}

// explainRoot is the fault for a root file system that cannot be made.
func explainRoot(err error, image workload.Image) error {
	damaged := []error{unix.EUCLEAN, unix.EBADMSG, unix.EINVAL, unix.EIO, unix.ENOENT}
	if image.Erofs != "" && slices.ContainsFunc(damaged, func(e error) bool { return errors.Is(err, e) }) {
		return fault.New(fault.Corrupt, "cannot make the root file system of image %s: %w", image.Reference, err).
			WithHint("remove the image and import it again")
	}
	return fault.New(fault.Unsupported, "cannot make the root file system of image %s: %w", image.Reference, err).
		WithHint("\"tero doctor\" says what this kernel lacks")
}

// hasPoint tells whether a composed image has a mount point itself, so that its
// containers need no overlay for it. Of an image in layers nobody looks: there
// the overlay has to be made in any case.
func (n *Native) hasPoint(image workload.Image, m *specs.Mount, file bool) (bool, error) {
	if image.Erofs == "" {
		return false, nil
	}
	return n.scaffold.Has(image.Erofs, m.Destination, !file)
}

// upper makes the writable layer, or makes the one of an earlier run ready.
func (n *Native) upper(id workload.ID, dir string, slot idmap.Slot) error {
	if _, kept := n.keptSlot(id); kept {
		return rootfs.ReuseUpper(dir)
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		return err
	}
	return rootfs.MakeUpper(dir, slot.HostID())
}

// belowTmpfs tells whether a mount point lies on a tmpfs that is mounted before.
func belowTmpfs(before []specs.Mount, destination string) bool {
	return slices.ContainsFunc(before, func(m specs.Mount) bool {
		return m.Type == "tmpfs" && strings.HasPrefix(filepath.Clean(destination), filepath.Clean(m.Destination)+"/")
	})
}

// create asks the keeper to clone the process that runs the program.
func (n *Native) create(ctx context.Context, id workload.ID, config *specs.Spec, c *setup.Setup, group *cgroup.Files, slot idmap.Slot) (*protocol.Reply, error) {
	req := &protocol.Request{
		Op: protocol.OpCreate, ID: string(id), HostID: slot.HostID(), Size: idmap.Size, CloneFlags: setup.Namespaces(config),
		Rlimits: setup.Rlimits(ctx, n.Log, n.maxFiles, config.Process), OOM: protocol.None, Cgroup: protocol.None,
		UID: slot.HostID() + config.Process.User.UID, GID: slot.HostID() + config.Process.User.GID,
	}
	if config.Process.Terminal {
		req.Flags |= protocol.FlagTerminal
	} else if config.Annotations[annotationInput] == "true" {
		req.Flags |= protocol.FlagInput
	}
	boundLog(req, config)
	folder, err := os.Open(n.folder(id))
	if err != nil {
		return nil, err
	}
	defer func() { _ = folder.Close() }()
	req.Folder = int32(c.Send(folder)) //nolint:gosec // an index
	if group.V2 != nil {
		req.Cgroup = int32(c.Send(group.V2)) //nolint:gosec // an index
	}
	if group.OOM != nil {
		req.OOM = int32(c.Send(group.OOM)) //nolint:gosec // an index
	}
	return n.run(ctx, req, c)
}

// run sends a request with a program.
func (n *Native) run(ctx context.Context, req *protocol.Request, c *setup.Setup) (*protocol.Reply, error) {
	reply, terminal, err := n.runTerminal(ctx, req, c)
	if terminal != nil {
		_ = terminal.Close()
	}
	return reply, err
}

func (n *Native) runTerminal(ctx context.Context, req *protocol.Request, c *setup.Setup) (*protocol.Reply, *os.File, error) {
	code, err := memfile("program", c.Program().Encode())
	if err != nil {
		return nil, nil, err
	}
	defer func() { _ = code.Close() }()
	files := slices.Clone(c.Files())
	req.Program = int32(len(files)) //nolint:gosec // an index
	files = append(files, code)
	if req.Flags&protocol.FlagStdio != 0 { // the keeper takes the last three
		stdio := files[len(c.Files())-3 : len(c.Files())]
		files = append(slices.Clone(c.Files()[:len(c.Files())-3]), code)
		req.Program = int32(len(files)) - 1 //nolint:gosec // an index
		files = append(files, stdio...)
	}
	// Not to be left half-way: the keeper's answer decides what there is.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), createTimeout)
	defer cancel()
	return n.call(ctx, req, files...)
}
