package setup

import (
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"sync"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"tero.internal/runtime/internal/landlock"
	"tero.internal/runtime/internal/program"
	"tero.internal/runtime/internal/protocol"
	"tero.internal/runtime/internal/rootfs"
	"tero.internal/runtime/internal/seccomp"
)

// Options say what a container is made of.
type Options struct {
	Config *specs.Spec
	// Shape is what the process was prepared for; Config must fit it.
	Shape *Shape
	// Root is the root file system, mounted nowhere yet.
	Root *os.File
	// UserNS is a user namespace with the container's id map.
	UserNS *os.File
	// Mounts are mounts that are mounted nowhere yet, with all their attributes,
	// by the destinations of the configuration's.
	Mounts map[string]*os.File
	// Etc is the folder with the container's own rootfs.EtcFiles, owned by its root.
	Etc string
	// Limits are the resource limits.
	Limits []protocol.Rlimit
}

// Container gives the program that makes a prepared process a container and
// executes its payload.
func (f *Filters) Container(o Options) (_ *Setup, err error) {
	c := &Setup{config: o.Config, limits: o.Limits}
	defer func() {
		if err != nil {
			c.Close()
		}
	}()
	if err = c.compile(f); err != nil {
		return nil, err
	}
	p := o.Config.Process
	if err = c.openProc(p); err != nil {
		return nil, err
	}
	c.fenced = landlock.Rules(o.Config, f.landlockABI())
	c.root = program.F(c.Send(o.Root))
	c.hostname()
	c.attachRoot()
	c.moveStaged(o.Shape, false)
	if err := c.mounts(o.Config.Mounts[len(o.Shape.Mounts):], o.Shape.fresh(), o.UserNS, o.Mounts); err != nil {
		return nil, err
	}
	c.moveStaged(o.Shape, true)
	for _, name := range rootfs.EtcFiles() {
		if err := c.bindFile(filepath.Join(o.Etc, filepath.Base(name)), name); err != nil {
			return nil, err
		}
	}
	c.restrict(o.Shape.rest(o.Config.Linux.ReadonlyPaths), o.Shape.rest(o.Config.Linux.MaskedPaths))
	if p.Terminal {
		c.makeConsole()
	}
	c.enter()
	if p.Terminal {
		c.terminal(p)
		c.console()
	}
	return c, c.finish(p)
}

// Process gives the program that joins a running container of this
// configuration and executes a further process.
func (f *Filters) Process(config *specs.Spec, p *specs.Process, tasks []*os.File, limits []protocol.Rlimit) (*Setup, error) {
	joined := *config
	joined.Process = p
	c := &Setup{config: &joined, limits: limits, fenced: landlock.Rules(config, f.landlockABI())}
	if err := c.compile(f); err != nil {
		return nil, err
	}
	if err := c.openProc(p); err != nil {
		c.Close()
		return nil, err
	}
	c.joinCgroups(tasks)
	c.oomScore(p)
	c.Step("join the namespaces of the container")
	namespaces := Namespaces(config)
	if HasNamespace(config, specs.CgroupNamespace) {
		namespaces |= unix.CLONE_NEWCGROUP
	}
	c.Call(unix.SYS_SETNS, program.O(program.OwnInit), program.I(namespaces))
	c.becomeRoot()
	if p.Terminal {
		c.terminal(p)
	}
	return c, c.finish(p)
}

// finish is what every program that executes a payload ends with, inside the
// container's root.
func (c *Setup) finish(p *specs.Process) error {
	c.stdio(p.Terminal)
	if p.Terminal {
		c.sendTerminal()
	}
	if err := c.confine(p); err != nil {
		return err
	}
	c.exec(p)
	return nil
}

// Namespaces gives the namespaces that the process is cloned into. The cgroup
// namespace is made later, from inside the cgroup.
func Namespaces(config *specs.Spec) uint64 {
	flags := map[specs.LinuxNamespaceType]uint64{
		specs.UserNamespace: unix.CLONE_NEWUSER, specs.PIDNamespace: unix.CLONE_NEWPID, specs.MountNamespace: unix.CLONE_NEWNS,
		specs.NetworkNamespace: unix.CLONE_NEWNET, specs.IPCNamespace: unix.CLONE_NEWIPC, specs.UTSNamespace: unix.CLONE_NEWUTS,
	}
	var all uint64
	for _, ns := range config.Linux.Namespaces {
		all |= flags[ns.Type]
	}
	return all
}

// HasNamespace tells whether the process gets a namespace of its own.
func HasNamespace(config *specs.Spec, t specs.LinuxNamespaceType) bool {
	return slices.ContainsFunc(config.Linux.Namespaces, func(ns specs.LinuxNamespace) bool { return ns.Type == t })
}

// Filters makes programs; it keeps compiled seccomp profiles: compiling takes longer than comparing.
type Filters struct {
	mu   sync.Mutex // guards list
	list []compiled

	once sync.Once // guards abi
	abi  int       // of Landlock
}

type compiled struct {
	profile *specs.LinuxSeccomp
	filter  []unix.SockFilter
}

// keptFilters is how many profiles are kept; nodes use one or two.
const keptFilters = 8

// compile compiles the configuration's profile.
func (c *Setup) compile(f *Filters) (err error) {
	if c.filterFlags, err = filterFlags(c.config.Linux.Seccomp); err != nil {
		return err
	}
	c.filter, err = f.compile(c.config.Linux.Seccomp)
	return err
}

func (f *Filters) compile(profile *specs.LinuxSeccomp) ([]unix.SockFilter, error) {
	if profile == nil {
		return nil, nil
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, c := range f.list {
		if reflect.DeepEqual(c.profile, profile) {
			return c.filter, nil
		}
	}
	filter, err := seccomp.Compile(profile)
	if err != nil {
		return nil, err
	}
	if len(f.list) == keptFilters {
		f.list = slices.Delete(f.list, 0, 1)
	}
	f.list = append(f.list, compiled{profile, filter})
	return filter, nil
}
