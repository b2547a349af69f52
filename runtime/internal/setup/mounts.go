package setup

import (
	"os"
	"path/filepath"
	"slices"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"tero.internal/common/fault"
	"tero.internal/runtime/internal/program"
	"tero.internal/runtime/internal/rootfs"
	"tero.internal/runtime/ociconfig"
)

// device is a node of the host's /dev that every container gets.
type device struct {
	name         string
	major, minor uint32
}

func devices() []device {
	return []device{{"null", 1, 3}, {"zero", 1, 5}, {"full", 1, 7}, {"random", 1, 8}, {"urandom", 1, 9}, {"tty", 5, 0}}
}

// The commands of fsconfig(2).
const (
	fsconfigFlag   = 0
	fsconfigString = 1
	fsconfigCreate = 6
)

// inRoot opens a path inside the container's root, whatever links are there;
// resolve adds to how it is looked up.
func (c *Setup) inRoot(path string, flags uint64, slot int, resolve ...uint64) *program.Last {
	all := uint64(unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS)
	for _, r := range resolve {
		all |= r
	}
	how := c.Words(flags|unix.O_CLOEXEC, 0, all)
	return c.Call(unix.SYS_OPENAT2, c.root, c.String(Inside(path)), how, program.I(24)).Out(slot)
}

// Inside gives a container's path relative to its root.
func Inside(path string) string {
	return "." + filepath.Join("/", path)
}

// moveTo mounts a mount that is nowhere onto the target slot, and closes the latter.
func (c *Setup) moveTo(mount program.Arg) {
	c.Call(unix.SYS_MOVE_MOUNT, mount, c.String(""), program.S(slotTarget), c.String(""),
		program.I(unix.MOVE_MOUNT_F_EMPTY_PATH|unix.MOVE_MOUNT_T_EMPTY_PATH))
	c.closeSlot(slotTarget)
}

// mounts mounts a list. fresh are mounts that are there already, in which mount
// points can be made; ready are those that the caller has prepared, by destination.
func (c *Setup) mounts(list []specs.Mount, fresh []string, userNS *os.File, ready map[string]*os.File) error {
	for i := range list {
		m := &list[i]
		c.Step(StepMount + m.Destination)
		o, err := parseOptions(m)
		if err != nil {
			return err
		}
		if ofSandbox(m.Destination) {
			o.links = unix.RESOLVE_NO_SYMLINKS
		}
		if err := c.makePoint(m.Destination, fresh, ready[m.Destination], o.links); err != nil {
			return err
		}
		switch m.Type {
		case "proc", "sysfs", "tmpfs", "devpts", "mqueue", "cgroup2":
			if label := c.config.Linux.MountLabel; label != "" && (m.Type == "tmpfs" || m.Type == "devpts") {
				o.data = append(o.data, "context="+label)
			}
			c.inRoot(m.Destination, unix.O_PATH, slotTarget, o.links)
			c.fileSystem(m.Type, m.Source, o)
			c.moveTo(program.S(slotMount))
			c.closeSlot(slotMount)
		case "bind", "none", "", ociconfig.TypeVolume:
			if err := c.bind(m, o, userNS, ready[m.Destination]); err != nil {
				return err
			}
			if o.own {
				fresh = append(fresh, filepath.Clean(m.Destination))
			}
		default:
			return fault.New(fault.Unsupported, "mount %s: file system type %q cannot be mounted in a container", m.Destination, m.Type).
				WithHint("mount it on the host, and bind it")
		}
		if m.Type == "tmpfs" {
			fresh = append(fresh, filepath.Clean(m.Destination))
			if filepath.Clean(m.Destination) == "/dev" {
				c.fillDev()
			}
		}
	}
	return nil
}

// ofSandbox tells whether a mount point must be what it is called: an image with
// a link there could have masks and kernel parameters go elsewhere.
func ofSandbox(destination string) bool {
	first, _, _ := strings.Cut(strings.TrimPrefix(filepath.Clean(destination), "/"), "/")
	return slices.Contains([]string{"proc", "sys", "dev"}, first)
}

// makePoint makes a mount point below a mount that was made before: for a file
// when what is mounted is no folder. On a mount that is read-only it must be there.
func (c *Setup) makePoint(destination string, fresh []string, ready *os.File, resolve uint64) error {
	dir := filepath.Clean(destination)
	var missing []string
	for ; !slices.Contains(fresh, dir); dir = filepath.Dir(dir) {
		if dir == "/" {
			return nil // on the root file system, which has it already
		}
		missing = append(missing, dir)
	}
	file, err := notFolder(ready)
	if err != nil {
		return err
	}
	for i, m := range slices.Backward(missing) {
		c.inRoot(filepath.Dir(m), unix.O_PATH|unix.O_DIRECTORY, slotFolder, resolve)
		if file && i == 0 {
			c.Call(unix.SYS_MKNODAT, program.S(slotFolder), c.String(filepath.Base(m)), program.I(unix.S_IFREG|0o644), program.I(0)).Tolerate(unix.EEXIST, unix.EROFS)
		} else {
			c.Call(unix.SYS_MKDIRAT, program.S(slotFolder), c.String(filepath.Base(m)), program.I(0o755)).Tolerate(unix.EEXIST, unix.EROFS)
		}
		c.closeSlot(slotFolder)
	}
	return nil
}

// notFolder tells whether a mount has a file as its root.
func notFolder(mount *os.File) (bool, error) {
	if mount == nil {
		return false, nil
	}
	st, err := mount.Stat()
	if err != nil {
		return false, err
	}
	return !st.IsDir(), nil
}

// fileSystem leaves a new file system in slotMount.
func (c *Setup) fileSystem(kind, source string, o options) {
	c.Call(unix.SYS_FSOPEN, c.String(kind), program.I(unix.FSOPEN_CLOEXEC)).Out(slotContext)
	set := func(command int, key, value program.Arg) {
		c.Call(unix.SYS_FSCONFIG, program.S(slotContext), program.I(command), key, value, program.I(0))
	}
	if source != "" {
		set(fsconfigString, c.String("source"), c.String(source))
	}
	for _, d := range o.data {
		if key, value, ok := strings.Cut(d, "="); ok {
			set(fsconfigString, c.String(key), c.String(value))
		} else {
			set(fsconfigFlag, c.String(d), program.I(0))
		}
	}
	set(fsconfigCreate, program.I(0), program.I(0))
	c.Call(unix.SYS_FSMOUNT, program.S(slotContext), program.I(unix.FSMOUNT_CLOEXEC), program.I(o.set)).Out(slotMount)
	c.closeSlot(slotContext)
}

// bind mounts a file or folder of the host.
func (c *Setup) bind(m *specs.Mount, o options, userNS, ready *os.File) error {
	if ready != nil {
		mount := c.Send(ready)
		c.inRoot(m.Destination, unix.O_PATH, slotTarget, o.links)
		c.moveTo(program.F(mount))
		return nil
	}
	if m.Type == ociconfig.TypeVolume {
		return fault.New(fault.Unsupported, "mount %s: there are no volumes here", m.Destination)
	}
	if !o.idmap {
		userNS = nil
	}
	fd, err := rootfs.Clone(m.Source, userNS, o.set)
	if err != nil {
		return fault.New(fault.Invalid, "mount %s on %s: %w", m.Source, m.Destination, err).
			WithHint("does the source exist?")
	}
	mount := c.SendOwn(os.NewFile(uintptr(fd), m.Source))
	c.inRoot(m.Destination, unix.O_PATH, slotTarget)
	c.moveTo(program.F(mount))
	return nil
}

// bindFile mounts one of the container's own files.
func (c *Setup) bindFile(path, destination string) error {
	const attributes = unix.MOUNT_ATTR_RDONLY | unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV | unix.MOUNT_ATTR_NOEXEC
	fd, err := rootfs.Clone(path, nil, attributes)
	if err != nil {
		return err
	}
	mount := c.SendOwn(os.NewFile(uintptr(fd), path))
	c.Step("mount " + destination)
	c.inRoot(destination, unix.O_PATH, slotTarget)
	c.moveTo(program.F(mount))
	return nil
}

// fillDev puts the devices and links of the OCI specification into a new /dev.
func (c *Setup) fillDev() {
	c.Step("fill /dev")
	c.inRoot("/dev", unix.O_PATH|unix.O_DIRECTORY, slotFolder)
	create := program.I(unix.O_CREAT | unix.O_EXCL | unix.O_WRONLY | unix.O_CLOEXEC | unix.O_NOFOLLOW)
	for _, d := range devices() {
		c.Call(unix.SYS_OPENAT, program.S(slotFolder), c.String(d.name), create, program.I(0o666)).Out(slotTarget)
		c.cloneDevice(d.name, unix.MOUNT_ATTR_NOSUID|unix.MOUNT_ATTR_NOEXEC)
		c.moveTo(program.S(slotMount))
		c.closeSlot(slotMount)
	}
	for _, l := range [][2]string{
		{"/proc/self/fd", "fd"},
		{"/proc/self/fd/0", "stdin"},
		{"/proc/self/fd/1", "stdout"},
		{"/proc/self/fd/2", "stderr"},
		{"pts/ptmx", "ptmx"},
	} {
		c.Call(unix.SYS_SYMLINKAT, c.String(l[0]), program.S(slotFolder), c.String(l[1]))
	}
	c.closeSlot(slotFolder)
}

// cloneDevice leaves a copy of one of the stage's devices in slotMount, with
// further attributes.
func (c *Setup) cloneDevice(name string, attributes uint64) {
	c.clone(program.S(slotStage), devicesPoint+"/"+name, attributes)
}

func (c *Setup) clone(dir program.Arg, path string, attributes uint64) {
	c.Call(unix.SYS_OPEN_TREE, dir, c.String(path), program.I(unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)).Out(slotMount)
	c.Call(unix.SYS_MOUNT_SETATTR, program.S(slotMount), c.String(""), program.I(unix.AT_EMPTY_PATH), c.Words(attributes, 0, 0, 0), program.I(32))
}

// makeConsole makes the file that console mounts over.
func (c *Setup) makeConsole() {
	c.Step("make /dev/console")
	c.inRoot("/dev", unix.O_PATH|unix.O_DIRECTORY, slotFolder)
	create := program.I(unix.O_CREAT | unix.O_EXCL | unix.O_WRONLY | unix.O_CLOEXEC | unix.O_NOFOLLOW)
	c.Call(unix.SYS_OPENAT, program.S(slotFolder), c.String("console"), create, program.I(0o600)).Out(slotTarget)
	c.closeSlot(slotTarget)
	c.closeSlot(slotFolder)
}

// console makes the terminal's slave /dev/console.
func (c *Setup) console() {
	c.Step("mount /dev/console")
	c.Call(unix.SYS_OPENAT, cwd(), c.String("/dev/console"), program.I(unix.O_PATH|unix.O_CLOEXEC|unix.O_NOFOLLOW), program.I(0)).Out(slotTarget)
	c.clone(cwd(), "/dev/pts/0", unix.MOUNT_ATTR_NOSUID|unix.MOUNT_ATTR_NOEXEC)
	c.moveTo(program.S(slotMount))
	c.closeSlot(slotMount)
}

// restrict hides the masked paths and write-protects the read-only ones.
func (c *Setup) restrict(readonly, masked []string) {
	for _, p := range readonly {
		c.Step("make " + p + " read-only")
		missing := c.inRoot(p, unix.O_PATH, slotTarget).Tolerate(unix.ENOENT)
		c.Call(unix.SYS_OPEN_TREE, program.S(slotTarget), c.String(""),
			program.I(unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_EMPTY_PATH|unix.AT_RECURSIVE)).Out(slotMount)
		attributes := c.Words(unix.MOUNT_ATTR_RDONLY, 0, 0, 0)
		c.Call(unix.SYS_MOUNT_SETATTR, program.S(slotMount), c.String(""), program.I(unix.AT_EMPTY_PATH|unix.AT_RECURSIVE), attributes, program.I(32))
		c.moveTo(program.S(slotMount))
		c.closeSlot(slotMount)
		missing.Land()
	}
	for _, p := range masked {
		c.Step("mask " + p)
		missing := c.inRoot(p, unix.O_PATH, slotTarget).Tolerate(unix.ENOENT)
		file := c.inRoot(p, unix.O_PATH|unix.O_DIRECTORY, slotFolder).Tolerate(unix.ENOTDIR)
		c.closeSlot(slotFolder)
		c.fileSystem("tmpfs", "tmpfs", options{
			data: []string{"size=4k"},
			set:  unix.MOUNT_ATTR_RDONLY | unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV | unix.MOUNT_ATTR_NOEXEC,
		})
		mounted := c.Skip()
		file.Land()
		c.cloneDevice("null", unix.MOUNT_ATTR_RDONLY|unix.MOUNT_ATTR_NOSUID|unix.MOUNT_ATTR_NOEXEC)
		mounted.Land()
		c.moveTo(program.S(slotMount))
		c.closeSlot(slotMount)
		missing.Land()
	}
}

// sysctls sets kernel parameters of the container's namespaces, through its own
// /proc and without following links.
func (c *Setup) sysctls(values map[string]string) {
	for _, name := range sortedKeys(values) {
		c.Step("set the kernel parameter " + name)
		path := Inside("/proc/sys/" + strings.ReplaceAll(name, ".", "/"))
		how := c.Words(unix.O_WRONLY|unix.O_CLOEXEC, 0, unix.RESOLVE_BENEATH|unix.RESOLVE_NO_SYMLINKS)
		c.Call(unix.SYS_OPENAT2, c.root, c.String(path), how, program.I(24)).Out(slotContext)
		c.Call(unix.SYS_WRITE, program.S(slotContext), c.String(values[name]), program.I(len(values[name])))
		c.closeSlot(slotContext)
	}
}

func sortedKeys(m map[string]string) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

// options are the options of a mount, apart by what takes them.
type options struct {
	set   uint64 // MOUNT_ATTR_*
	clear uint64 // MOUNT_ATTR_*
	idmap bool
	own   bool     // somebody asked for it, see ociconfig.OptionOwn
	links uint64   // RESOLVE_NO_SYMLINKS when the mount point must be no link
	data  []string // for the file system
}

// Attributes gives the attributes of mount_setattr(2) to set and clear on a
// bind mount or volume, and whether its ids are to be mapped.
func Attributes(m *specs.Mount) (set, clear uint64, idmap bool, err error) {
	bind := *m
	bind.Type = "bind"
	o, err := parseOptions(&bind)
	return o.set, o.clear, o.idmap, err
}

// parseOptions reads mount options as mount(8) and the OCI specification name them.
func parseOptions(m *specs.Mount) (options, error) {
	attributes := map[string]uint64{
		"ro": unix.MOUNT_ATTR_RDONLY, "nosuid": unix.MOUNT_ATTR_NOSUID, "nodev": unix.MOUNT_ATTR_NODEV,
		"noexec": unix.MOUNT_ATTR_NOEXEC, "noatime": unix.MOUNT_ATTR_NOATIME, "strictatime": unix.MOUNT_ATTR_STRICTATIME,
		"nodiratime": unix.MOUNT_ATTR_NODIRATIME, "nosymfollow": unix.MOUNT_ATTR_NOSYMFOLLOW,
	}
	// What is the default here, or has no meaning in a container's own namespace.
	ignored := []string{
		"rw", "suid", "exec", "relatime", "atime", "bind", "private", "rprivate", "slave", "rslave",
		"newinstance", "defaults",
	}
	var o options
	for _, name := range m.Options {
		bit, known := attributes[name]
		switch {
		case known:
			o.set |= bit
		case slices.Contains(ignored, name):
		case name == "dev":
			o.clear |= unix.MOUNT_ATTR_NODEV
		case name == "idmap", name == "ridmap":
			o.idmap = true
		case name == ociconfig.OptionOwn:
			o.own, o.links = true, unix.RESOLVE_NO_SYMLINKS
		case m.Type == "bind" || m.Type == "none" || m.Type == "" || m.Type == ociconfig.TypeVolume:
			return o, fault.New(fault.Unsupported, "mount %s: option %q is not known", m.Destination, name)
		default:
			o.data = append(o.data, name)
		}
	}
	return o, nil
}

// CheckDevices makes sure that the nodes that containers get are what they should be.
func CheckDevices() error {
	for _, d := range devices() {
		var st unix.Stat_t
		path := filepath.Join("/dev", d.name)
		if err := unix.Lstat(path, &st); err != nil {
			return fault.New(fault.Unsupported, "the host has no %s: %w", path, err)
		}
		if st.Mode&unix.S_IFMT != unix.S_IFCHR || st.Rdev != unix.Mkdev(d.major, d.minor) {
			return fault.New(fault.Unsupported, "the host's %s is not the character device %d:%d", path, d.major, d.minor)
		}
	}
	return nil
}
