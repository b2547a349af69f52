package sandbox

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"tero.internal/common/fault"
	"tero.internal/common/undo"
	"tero.internal/common/workload"
	"tero.internal/runtime/internal/cgroup"
	"tero.internal/runtime/internal/grant"
	"tero.internal/runtime/internal/idmap"
	"tero.internal/runtime/internal/prepared"
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

// Configure gives the OCI runtime configuration that Create will apply.
func (n *Native) Configure(spec workload.Spec, image workload.Image) (*specs.Spec, error) {
	if err := n.Capabilities().Check(spec); err != nil {
		return nil, err
	}
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
	shape := setup.ShapeOf(config)
	p, again, err := n.obtain(ctx, id, shape)
	if err != nil {
		return "", err
	}
	var done undo.Stack
	defer func() {
		if err != nil {
			err = errors.Join(err, done.Run(ctx))
		}
	}()
	done.Push("name sandbox", func(ctx context.Context) error {
		if again { // what an earlier run left stays
			return n.End(ctx, id)
		}
		return n.Destroy(ctx, id)
	})
	m := &made{prepared: p, config: config}
	done.Push("open files", func(context.Context) error { m.close(); return nil })
	// What only Exec needs is written beside the rest.
	var side sync.WaitGroup
	var sideErr error
	side.Go(func() {
		sideErr = prepared.ExplainDisk(writeJSON(filepath.Join(n.folder(id), configFile), description{config, image, image.Layers}))
	})
	err = n.make(ctx, id, m, shape, image, &done)
	side.Wait()
	if err = errors.Join(err, sideErr); err != nil {
		return "", err
	}
	n.mu.Lock()
	n.made[id] = m
	n.mu.Unlock()
	return p.NetNS, nil
}

// obtain gives a prepared sandbox that is the container's by name; again is true
// when the container's folder is there since an earlier run, see End.
func (n *Native) obtain(ctx context.Context, id workload.ID, shape *setup.Shape) (p *prepared.Sandbox, again bool, err error) {
	if slot, kept := n.keptSlot(id); kept { // the writable layer's files belong to these ids
		p, err = n.maker.Make(ctx, shape, &slot)
	} else {
		p, err = n.pool.Take(ctx, shape)
	}
	if err != nil {
		return nil, false, err
	}
	if again, err = n.name(p, id); err != nil {
		return nil, false, errors.Join(err, n.maker.Discard(context.WithoutCancel(ctx), p))
	}
	return p, again, nil
}

// name gives a prepared sandbox the container's name.
func (n *Native) name(p *prepared.Sandbox, id workload.ID) (again bool, err error) {
	if _, err := os.Lstat(n.folder(id)); err == nil {
		again = n.ended(id)
	}
	err = p.Name(n.running(id), n.folder(id), again)
	switch {
	case errors.Is(err, unix.EEXIST):
		return false, fault.New(fault.Exists, "container %s exists", id.Short())
	case err != nil:
		return false, prepared.ExplainDisk(fmt.Errorf("name container %s: %w", id.Short(), err))
	}
	return again, nil
}

// make makes what is the container's own: limits, mounts, root file system, program.
func (n *Native) make(ctx context.Context, id workload.ID, m *made, shape *setup.Shape, image workload.Image, done *undo.Stack) (err error) {
	config, r, userNS := m.config, &m.prepared.Record, m.prepared.UserNS
	if err := n.tree.Limit(&r.Cgroup, setup.Left(config)); err != nil {
		return cgroup.Explain(err)
	}
	m.granted, err = grant.Node{Protected: append([]string{n.StateDir, n.RunDir}, n.Protected...), Volumes: n.Volumes}.Open(
		grant.Container{ID: id, Config: config, Slot: r.Slot, UserNS: userNS, Folder: n.running(id)})
	if err != nil {
		return err
	}
	if m.root, err = n.root(id, config, image, userNS, r.Slot, m.granted); err != nil {
		return err
	}
	if err := m.granted.Prepare(ctx, m.root, done); err != nil {
		return err
	}
	m.limits = setup.Rlimits(ctx, n.Log, n.maxFiles, config.Process)
	m.setup, err = n.filters.Container(setup.Options{
		Config: config, Shape: shape, Root: m.root, UserNS: userNS, Mounts: m.granted.Mounts, Etc: n.running(id), Limits: m.limits,
	})
	return err
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
			return nil, prepared.ExplainDisk(err)
		}
		o.Points = points
	}
	if !config.Root.Readonly {
		o.Upper, o.Durable = filepath.Join(n.folder(id), layerDir), config.Annotations[annotationDurable] == "true"
		if err := n.upper(id, o.Upper, slot); err != nil {
			return nil, prepared.ExplainDisk(err)
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
