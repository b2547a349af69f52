package grant

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"tero.internal/common/fault"
	"tero.internal/common/undo"
	"tero.internal/common/workload"
	"tero.internal/runtime/internal/idmap"
	"tero.internal/runtime/internal/setup"
	"tero.internal/runtime/ociconfig"
	"tero.internal/runtime/volume"
)

// Volumes keeps named volumes (volume.Store).
type Volumes interface {
	// Use holds a volume for a container until Release and gives the folder with
	// its files. A volume that does not exist is made, for owner. undo takes the
	// hold back, unless the container had it before.
	Use(ctx context.Context, name string, container workload.ID, owner volume.Owner) (path string, undo func(), err error)
	// Release ends every hold of a container.
	Release(container workload.ID)
	// Give makes the files of a volume belong to the ids that begin at hostID.
	Give(ctx context.Context, name string, container workload.ID, hostID uint32) error
}

// Node is what containers can be given.
type Node struct {
	// Protected are folders and sockets of TERO's own, see Source.
	Protected []string
	// Volumes may be nil: then there are none.
	Volumes Volumes
}

// Device looks at a device of the node.
func (Node) Device(path string) (*specs.LinuxDevice, error) { return Device(path) }

// Container is for whom things are opened.
type Container struct {
	ID     workload.ID
	Config *specs.Spec
	// Slot are its user ids, and UserNS a user namespace with them.
	Slot   idmap.Slot
	UserNS *os.File
	// Folder is one of its own, that nobody else reaches and that is removed with it.
	Folder string
}

// Granted is what a container is given of the node, by mount points.
type Granted struct {
	node Node
	c    Container
	// sources are what bind mounts show, open but not read.
	sources map[string]*os.File
	// Mounts are ready to be mounted, once Prepare was called.
	Mounts map[string]*os.File
}

// Close closes all files.
func (g *Granted) Close() {
	for _, files := range []map[string]*os.File{g.sources, g.Mounts} {
		for _, f := range files {
			_ = f.Close()
		}
	}
}

// File tells whether a mount shows a file, not a folder.
func (g *Granted) File(m *specs.Mount) bool {
	f := g.sources[m.Destination]
	if f == nil {
		return false
	}
	st, err := f.Stat()
	return err == nil && !st.IsDir()
}

// Open opens the sources of bind mounts and makes the nodes of devices.
func (n Node) Open(c Container) (_ *Granted, err error) {
	g := &Granted{node: n, c: c, sources: map[string]*os.File{}, Mounts: map[string]*os.File{}}
	defer func() {
		if err != nil {
			g.Close()
		}
	}()
	for i := range c.Config.Mounts {
		m := &c.Config.Mounts[i]
		if m.Type != "bind" {
			continue
		}
		var f *os.File
		if d := deviceAt(c.Config, m.Destination); d != nil {
			f, err = c.openDevice(m.Source, d, i)
		} else if f, err = Source(m.Source, n.Protected); err != nil {
			err = fault.New(fault.KindOf(err), "mount on %s: %w", m.Destination, err)
		}
		if err != nil {
			return nil, err
		}
		g.sources[m.Destination] = f
	}
	return g, nil
}

func deviceAt(config *specs.Spec, path string) *specs.LinuxDevice {
	for i := range config.Linux.Devices {
		if config.Linux.Devices[i].Path == path {
			return &config.Linux.Devices[i]
		}
	}
	return nil
}

// openDevice makes the node of a device that must still be the one that was decided on.
func (c *Container) openDevice(source string, want *specs.LinuxDevice, number int) (*os.File, error) {
	now, err := Device(source)
	if err != nil {
		return nil, err
	}
	if now.Type != want.Type || now.Major != want.Major || now.Minor != want.Minor {
		return nil, fault.New(fault.Conflict, "%s is another device than when the launch was decided on: %s %d:%d, not %s %d:%d",
			source, now.Type, now.Major, now.Minor, want.Type, want.Major, want.Minor)
	}
	return MakeNode(filepath.Join(c.Folder, "device-"+strconv.Itoa(number)), want, c.Slot.HostID(), idmap.Size)
}

// Prepare makes the mounts of what was opened, and of volumes. root is the
// container's root file system; done gets what gives volumes back.
func (g *Granted) Prepare(ctx context.Context, root *os.File, done *undo.Stack) error {
	for i := range g.c.Config.Mounts {
		m := &g.c.Config.Mounts[i]
		var mount *os.File
		var err error
		switch {
		case m.Type == ociconfig.TypeVolume:
			mount, err = g.volume(ctx, m, root, done)
		case g.sources[m.Destination] != nil:
			mount, err = bind(g.sources[m.Destination], m, g.c.UserNS)
		default:
			continue
		}
		if err != nil {
			return err
		}
		g.Mounts[m.Destination] = mount
	}
	return nil
}

// bind makes a bind mount. Without a map of ids the container could read
// at most what anybody may, and would own nothing: that is refused, for it is
// seldom what was meant.
func bind(f *os.File, m *specs.Mount, userNS *os.File) (*os.File, error) {
	set, clear, mapped, err := setup.Attributes(m)
	if err != nil {
		return nil, err
	}
	if !mapped {
		userNS = nil
	}
	mount, err := Mount(f, set, clear, userNS)
	if _, ok := errors.AsType[*NoMapError](err); ok {
		return nil, fault.New(fault.Unsupported, "mount %s on %s: %w", m.Source, m.Destination, err).
			WithHint("copy it into a volume, or to a file system that can: ext4, xfs, btrfs, or tmpfs since Linux 6.3")
	}
	if err != nil {
		return nil, fault.New(fault.Invalid, "mount %s on %s: %w", m.Source, m.Destination, err)
	}
	return mount, nil
}

// volume makes the mount of a volume. Where ids cannot be mapped its files are
// made to belong to the container's own.
func (g *Granted) volume(ctx context.Context, m *specs.Mount, root *os.File, done *undo.Stack) (*os.File, error) {
	volumes := g.node.Volumes
	if volumes == nil {
		return nil, fault.New(fault.Unsupported, "volume %q: there are no volumes here", m.Source)
	}
	path, release, err := volumes.Use(ctx, m.Source, g.c.ID, ownerOf(root, m.Destination, g.c.Slot))
	if err != nil {
		return nil, err
	}
	done.Push("hold volume", func(context.Context) error { release(); return nil })
	f, err := openFolder(path)
	if err != nil {
		return nil, fmt.Errorf("open volume %s: %w", m.Source, err)
	}
	defer func() { _ = f.Close() }()
	set, clear, _, err := setup.Attributes(m)
	if err != nil {
		return nil, err
	}
	mount, err := Mount(f, set, clear, g.c.UserNS)
	if _, ok := errors.AsType[*NoMapError](err); ok {
		if err := volumes.Give(ctx, m.Source, g.c.ID, g.c.Slot.HostID()); err != nil {
			return nil, err
		}
		return Mount(f, set, clear, nil)
	}
	if err != nil {
		return nil, err
	}
	given, err := belongsToContainer(f)
	if given { // it was once where ids could not be mapped
		err = volumes.Give(ctx, m.Source, g.c.ID, 0)
	}
	if err != nil {
		_ = mount.Close()
		return nil, err
	}
	return mount, nil
}

func openFolder(path string) (*os.File, error) {
	fd, err := unix.Open(path, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0)
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), path), nil
}

func belongsToContainer(f *os.File) (bool, error) {
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return false, fmt.Errorf("stat %s: %w", f.Name(), err)
	}
	_, ok := idmap.Inside(st.Uid)
	return ok, nil
}

// ownerOf gives the owner and mode of the folder that the image has at a mount
// point, for a volume that is made for it: so the image's user can write there.
func ownerOf(root *os.File, destination string, slot idmap.Slot) volume.Owner {
	owner := volume.Owner{Mode: 0o755}
	fd, err := unix.Openat2(int(root.Fd()), setup.Inside(destination), &unix.OpenHow{
		Flags: unix.O_PATH | unix.O_DIRECTORY | unix.O_CLOEXEC, Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_SYMLINKS,
	})
	if err != nil {
		return owner // below another mount, or not to be mounted on, which the set-up tells
	}
	defer func() { _ = unix.Close(fd) }()
	var st unix.Stat_t
	if unix.Fstat(fd, &st) != nil {
		return owner
	}
	owner.Mode = st.Mode & 0o1777
	if id := st.Uid - slot.HostID(); id < idmap.Size {
		owner.UID = id
	}
	if id := st.Gid - slot.HostID(); id < idmap.Size {
		owner.GID = id
	}
	return owner
}
