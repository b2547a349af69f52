package setup

import (
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"tero.internal/runtime/internal/program"
)

// Shape is the part of a configuration that does not depend on the image, the
// command or the user: what a process can be prepared with before anybody asks
// for a container.
type Shape struct {
	Namespaces []specs.LinuxNamespace
	// Mounts are the first of the configuration's mounts, as far as they are
	// file systems on, or below, folders that every container has.
	Mounts []specs.Mount
	Sysctl map[string]string
	// ReadonlyPaths and MaskedPaths are those below Mounts.
	ReadonlyPaths, MaskedPaths []string
	// Resources are those limits of the cgroup that decide which hierarchies it
	// is in, and the rules for devices.
	Resources specs.LinuxResources
	// MountLabel is for file systems in memory, OOMScoreAdj what only the host's
	// root can set.
	MountLabel  string
	OOMScoreAdj *int
}

// ShapeOf gives the shape of a configuration.
func ShapeOf(config *specs.Spec) *Shape {
	s := &Shape{
		Namespaces: config.Linux.Namespaces, Sysctl: config.Linux.Sysctl,
		MountLabel: config.Linux.MountLabel, OOMScoreAdj: config.Process.OOMScoreAdj,
	}
	if r := config.Linux.Resources; r != nil {
		s.Resources.Devices, s.Resources.BlockIO = r.Devices, r.BlockIO
		if r.CPU != nil && r.CPU.Cpus != "" {
			s.Resources.CPU = &specs.LinuxCPU{Cpus: r.CPU.Cpus}
		}
	}
	n := slices.IndexFunc(config.Mounts, func(m specs.Mount) bool { return !stageable(&m) })
	if n < 0 {
		n = len(config.Mounts)
	}
	s.Mounts = config.Mounts[:n:n]
	s.ReadonlyPaths = slices.DeleteFunc(slices.Clone(config.Linux.ReadonlyPaths), func(p string) bool { return !s.covers(p) })
	s.MaskedPaths = slices.DeleteFunc(slices.Clone(config.Linux.MaskedPaths), func(p string) bool { return !s.covers(p) })
	return s
}

// Fits tells whether a process that was prepared for s can become a container of shape o.
func (s *Shape) Fits(o *Shape) bool { return reflect.DeepEqual(s, o) }

// Flags gives the namespaces that the process is cloned into.
func (s *Shape) Flags() uint64 { return Namespaces(s.config()) }

// Left gives the limits that are left to set when a process of the shape becomes
// a container of a configuration.
func Left(config *specs.Spec) *specs.LinuxResources {
	if config.Linux.Resources == nil {
		return nil
	}
	r := *config.Linux.Resources
	r.Devices, r.BlockIO = nil, nil
	if r.CPU != nil {
		cpu := *r.CPU
		cpu.Cpus = ""
		r.CPU = &cpu
	}
	return &r
}

// config gives a configuration with as much of the shape as programs look up.
func (s *Shape) config() *specs.Spec {
	return &specs.Spec{
		Process: &specs.Process{OOMScoreAdj: s.OOMScoreAdj},
		Linux:   &specs.Linux{Namespaces: s.Namespaces, MountLabel: s.MountLabel},
	}
}

// stageable tells whether a mount can be made before the root file system is there.
func stageable(m *specs.Mount) bool {
	switch m.Type {
	case "proc", "sysfs", "tmpfs", "devpts", "mqueue", "cgroup2":
	default:
		return false
	}
	top, _, _ := strings.Cut(strings.TrimPrefix(filepath.Clean(m.Destination), "/"), "/")
	return slices.Contains([]string{"proc", "sys", "dev", "tmp", "run"}, top)
}

// tops are the mounts that lie on no other of the shape: what is moved into the root.
func (s *Shape) tops() []string {
	var tops []string
	for i := range s.Mounts {
		if d := filepath.Clean(s.Mounts[i].Destination); !below(tops, d) {
			tops = append(tops, d)
		}
	}
	return tops
}

// covers tells whether a path lies on a mount of the shape.
func (s *Shape) covers(path string) bool { return below(s.tops(), filepath.Clean(path)) }

// below tells whether path is one of the folders, or lies below one.
func below(folders []string, path string) bool {
	return slices.ContainsFunc(folders, func(f string) bool { return path == f || strings.HasPrefix(path, f+"/") })
}

// rest gives the paths that are left for after the root file system is there.
func (s *Shape) rest(paths []string) []string {
	return slices.DeleteFunc(slices.Clone(paths), s.covers)
}

// fresh gives the shape's file systems in memory, in which mount points can be made.
func (s *Shape) fresh() []string {
	var list []string
	for i := range s.Mounts {
		if s.Mounts[i].Type == "tmpfs" {
			list = append(list, filepath.Clean(s.Mounts[i].Destination))
		}
	}
	return list
}

// stagePoint is where the stage is mounted: a folder that every host has, in a
// mount namespace that nobody else sees.
const stagePoint = "/proc"

// procPoint is where masks and parameters matter most.
const procPoint = "/proc"

// devicesPoint is the folder of the stage with the devices that containers get;
// no stageable mount has its name.
const devicesPoint = "devices"

// Prepare gives the program that prepares a process for containers of a shape.
func Prepare(s *Shape, tasks []*os.File) (*Setup, error) {
	config := s.config()
	c := &Setup{config: config, root: program.S(slotStage)}
	c.joinCgroups(tasks)
	c.oomScore(config.Process)
	if HasNamespace(config, specs.CgroupNamespace) {
		c.unshareCgroup()
	}
	c.becomeRoot()
	if HasNamespace(config, specs.NetworkNamespace) {
		c.loopback()
	}
	c.makeStage()
	if err := c.mounts(s.Mounts, []string{"/"}, nil, nil); err != nil {
		return nil, err
	}
	c.sysctls(s.Sysctl)
	c.restrict(s.ReadonlyPaths, s.MaskedPaths)
	c.leaveHost()
	return c, nil
}

// leaveHost makes the stage the only file system there is.
func (c *Setup) leaveHost() {
	c.Step("leave the host's file systems")
	c.Call(unix.SYS_FCHDIR, program.S(slotStage))
	c.Call(unix.SYS_PIVOT_ROOT, c.String("."), c.String("."))
	c.Call(unix.SYS_UMOUNT2, c.String("."), program.I(unix.MNT_DETACH))
	c.Call(unix.SYS_CHDIR, c.String("/"))
}

// makeStage makes the mounts private and mounts the stage.
func (c *Setup) makeStage() {
	c.Step("make a stage for mounts")
	c.Call(unix.SYS_UMASK, program.I(0))
	c.Call(unix.SYS_MOUNT, program.I(0), c.String("/"), program.I(0), program.I(unix.MS_REC|unix.MS_PRIVATE), program.I(0))
	c.fileSystem("tmpfs", "stage", options{
		data: []string{"size=64k", "mode=700"},
		set:  unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV | unix.MOUNT_ATTR_NOEXEC,
	})
	c.Call(unix.SYS_MOVE_MOUNT, program.S(slotMount), c.String(""), cwd(), c.String(stagePoint), program.I(unix.MOVE_MOUNT_F_EMPTY_PATH))
	c.closeSlot(slotMount)
	c.Call(unix.SYS_OPENAT, cwd(), c.String(stagePoint), program.I(unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC), program.I(0)).Out(slotStage)
	c.stageDevices()
}

// stageDevices puts the host's devices on the stage.
func (c *Setup) stageDevices() {
	c.Call(unix.SYS_MKDIRAT, program.S(slotStage), c.String(devicesPoint), program.I(0o700))
	create := program.I(unix.O_CREAT | unix.O_EXCL | unix.O_WRONLY | unix.O_CLOEXEC | unix.O_NOFOLLOW)
	for _, d := range devices() {
		c.Call(unix.SYS_OPENAT, program.S(slotStage), c.String(devicesPoint+"/"+d.name), create, program.I(0o600)).Out(slotTarget)
		c.clone(cwd(), filepath.Join("/dev", d.name), unix.MOUNT_ATTR_NOSUID|unix.MOUNT_ATTR_NOEXEC)
		c.moveTo(program.S(slotMount))
		c.closeSlot(slotMount)
	}
}

// attachRoot mounts the root file system over the stage.
func (c *Setup) attachRoot() {
	c.Step("mount the root file system")
	c.Call(unix.SYS_MOVE_MOUNT, c.root, c.String(""), program.S(slotStage), c.String(""),
		program.I(unix.MOVE_MOUNT_F_EMPTY_PATH|unix.MOVE_MOUNT_T_EMPTY_PATH))
}

// moveStaged moves the prepared mounts into the root file system. What masks and
// devices lie on must be where it seems to be: an image whose /proc, /sys or /dev
// is a link is refused (CVE-2019-19921, CVE-2023-27561). /proc is the last, after
// the mounts that the configuration adds: one whose path leads there by a link of
// the image is covered by it, or finds no folder to lie on.
func (c *Setup) moveStaged(s *Shape, last bool) {
	for _, top := range s.tops() {
		if (top == procPoint) != last {
			continue
		}
		c.Step(StepMount + top)
		var resolve uint64
		if ofSandbox(top) {
			resolve = unix.RESOLVE_NO_SYMLINKS
		}
		c.inRoot(top, unix.O_PATH, slotTarget, resolve)
		c.Call(unix.SYS_OPENAT, program.S(slotStage), c.String(Inside(top)), program.I(unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC), program.I(0)).Out(slotMount)
		c.moveTo(program.S(slotMount))
		c.closeSlot(slotMount)
	}
}
