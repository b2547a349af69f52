package cgroup

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"tero.internal/common/fault"
)

// Group is the cgroup of one container: a folder in each hierarchy.
type Group struct {
	// Dirs are the folders; they can be kept in a record.
	Dirs []string
	// V2 is the one of them on cgroup v2, or "".
	V2 string
	// OOM is the file that counts kills for lack of memory, or "".
	OOM string
}

// Plan gives the cgroup that Create will make with these limits, so that a
// record of it can be written before; without limits, all that it could be.
func (t *Tree) Plan(name string, limits *specs.LinuxResources) *Group {
	g := &Group{}
	for i := range t.hierarchies {
		h := &t.hierarchies[i]
		if limits != nil && !h.wantedBy(limits) {
			continue
		}
		dir := filepath.Join(h.dir, name)
		g.Dirs = append(g.Dirs, dir)
		switch {
		case h.v2:
			g.V2 = dir
			if h.has("memory") {
				g.OOM = filepath.Join(dir, "memory.events")
			}
		case h.has("memory"):
			g.OOM = filepath.Join(dir, "memory.oom_control")
		}
	}
	return g
}

// Names gives the names of the cgroups that there are, and that begin with prefix.
func (t *Tree) Names(prefix string) ([]string, error) {
	var names []string
	for _, h := range t.hierarchies {
		entries, err := os.ReadDir(h.dir)
		if err != nil {
			return nil, fmt.Errorf("list cgroups: %w", err)
		}
		for _, e := range entries {
			if e.IsDir() && strings.HasPrefix(e.Name(), prefix) {
				names = append(names, e.Name())
			}
		}
	}
	slices.Sort(names)
	return slices.Compact(names), nil
}

// Create makes a planned cgroup with limits. On an error nothing is left.
func (t *Tree) Create(ctx context.Context, g *Group, limits *specs.LinuxResources) (err error) {
	defer func() {
		if err != nil {
			err = errors.Join(err, g.Remove(context.WithoutCancel(ctx)))
		}
	}()
	for _, dir := range g.Dirs {
		h := t.of(dir)
		if h == nil {
			return fmt.Errorf("make cgroup: %s is in no hierarchy", dir)
		}
		if err := os.Mkdir(dir, 0o755); err != nil { //nolint:gosec // cgroups are public
			return fmt.Errorf("make cgroup: %w", err)
		}
		if err := h.inheritCPUs(dir); err != nil {
			return err
		}
	}
	return t.Limit(g, limits)
}

// Limit sets limits of a cgroup; those that are not given stay as they are.
func (t *Tree) Limit(g *Group, limits *specs.LinuxResources) error {
	if err := t.check(limits); err != nil {
		return err
	}
	for _, dir := range g.Dirs {
		h := t.of(dir)
		if h == nil {
			return fmt.Errorf("limit cgroup: %s is in no hierarchy", dir)
		}
		for _, l := range settings(h, limits) {
			if err := l.write(dir); err != nil {
				return err
			}
		}
	}
	return t.filterDevices(g, limits)
}

// filterDevices puts the cgroup under the rules for devices, unless a v1 controller did.
func (t *Tree) filterDevices(g *Group, limits *specs.LinuxResources) error {
	if limits == nil || len(limits.Devices) == 0 || slices.ContainsFunc(t.hierarchies, func(h hierarchy) bool { return h.has("devices") }) {
		return nil
	}
	if t.noFilter != nil {
		return fault.New(fault.Unsupported, "the container's devices cannot be filtered: %w", t.noFilter).
			WithHint("use a kernel with CONFIG_CGROUP_BPF, or mount the v1 controller for devices; \"tero doctor\" tells what there is")
	}
	return t.filters.Attach(g.V2, limits.Devices)
}

// of gives the hierarchy that a planned folder is in.
func (t *Tree) of(dir string) *hierarchy {
	for i := range t.hierarchies {
		if filepath.Dir(dir) == t.hierarchies[i].dir {
			return &t.hierarchies[i]
		}
	}
	return nil
}

// setting is a value for a file of a cgroup.
type setting struct {
	file, value string
	// other is the file of kernels that do not have the first, and otherValue
	// what it takes.
	other, otherValue string
	// optional settings may be missing in a kernel; the lack of others is an error.
	optional bool
}

// write writes a setting to the cgroup in dir.
func (l *setting) write(dir string) error {
	err := write(dir, l.file, l.value)
	if errors.Is(err, fs.ErrNotExist) && l.other != "" {
		err = write(dir, l.other, l.otherValue)
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if l.optional {
		return nil
	}
	return l.missing(dir)
}

func (l *setting) missing(dir string) error {
	return &UnavailableError{What: "the setting " + l.file, Reason: "the kernel has no such file in " + dir}
}

// settings translates limits to what a hierarchy's controllers take.
func settings(h *hierarchy, r *specs.LinuxResources) []setting {
	var list []setting
	if r == nil {
		return nil
	}
	if r.CPU != nil && h.has("cpu") {
		list = append(list, cpuSettings(h.v2, r.CPU)...)
	}
	if r.Memory != nil && h.has("memory") {
		list = append(list, memorySettings(h.v2, r.Memory)...)
	}
	if r.BlockIO != nil && h.has("io") {
		list = append(list, ioSettings(h.v2, r.BlockIO)...)
	}
	if r.CPU != nil && r.CPU.Cpus != "" && h.has("cpuset") {
		list = append(list, setting{file: "cpuset.cpus", value: r.CPU.Cpus})
	}
	if r.Pids != nil && r.Pids.Limit != nil && h.has("pids") {
		limit := "max"
		if *r.Pids.Limit > 0 {
			limit = strconv.FormatInt(*r.Pids.Limit, 10)
		}
		list = append(list, setting{file: "pids.max", value: limit})
	}
	if !h.v2 && h.has("devices") {
		for i := range r.Devices {
			list = append(list, deviceSetting(&r.Devices[i]))
		}
	}
	return list
}

func deviceSetting(d *specs.LinuxDeviceCgroup) setting {
	file := "devices.deny"
	if d.Allow {
		file = "devices.allow"
	}
	kind := d.Type
	if kind == "" || kind == "a" {
		return setting{file: file, value: "a"}
	}
	number := func(n *int64) string {
		if n == nil || *n < 0 {
			return "*"
		}
		return strconv.FormatInt(*n, 10)
	}
	return setting{file: file, value: kind + " " + number(d.Major) + ":" + number(d.Minor) + " " + d.Access}
}

// Files are open files of a cgroup, for a process that is about to enter.
type Files struct {
	// Tasks are the v1 files to write "0" to.
	Tasks []*os.File
	// V2 is the folder to be cloned into, or nil.
	V2 *os.File
	// OOM counts kills for lack of memory, or is nil.
	OOM *os.File
}

// Open opens the cgroup's files.
func (g *Group) Open() (_ *Files, err error) {
	f := &Files{}
	defer func() {
		if err != nil {
			f.Close()
		}
	}()
	for _, dir := range g.Dirs {
		if dir == g.V2 {
			f.V2, err = open(dir, unix.O_RDONLY|unix.O_DIRECTORY)
		} else {
			var tasks *os.File
			if tasks, err = open(filepath.Join(dir, "tasks"), unix.O_WRONLY); err == nil {
				f.Tasks = append(f.Tasks, tasks)
			}
		}
		if err != nil {
			return nil, fmt.Errorf("open cgroup: %w", err)
		}
	}
	if g.OOM != "" {
		if f.OOM, err = open(g.OOM, unix.O_RDONLY); err != nil {
			return nil, fmt.Errorf("open cgroup: %w", err)
		}
	}
	return f, nil
}

func open(path string, flags int) (*os.File, error) {
	fd, err := unix.Open(path, flags|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: path, Err: err}
	}
	return os.NewFile(uintptr(fd), path), nil
}

// Close closes the files.
func (f *Files) Close() {
	for _, file := range append([]*os.File{f.V2, f.OOM}, f.Tasks...) {
		if file != nil {
			_ = file.Close()
		}
	}
}

// Kill sends SIGKILL to every process in the cgroup.
func (g *Group) Kill() error {
	if g.V2 != "" {
		err := write(g.V2, "cgroup.kill", "1")
		if err == nil || !errors.Is(err, fs.ErrNotExist) { // kernels before 5.14 lack the file
			return err
		}
	}
	for _, dir := range g.Dirs {
		pids, err := g.pids(dir)
		if err != nil {
			return err
		}
		for _, pid := range pids {
			if err := unix.Kill(pid, unix.SIGKILL); err != nil && !errors.Is(err, unix.ESRCH) {
				return fmt.Errorf("kill process %d of cgroup %s: %w", pid, dir, err)
			}
		}
	}
	return nil
}

func (g *Group) pids(dir string) ([]int, error) {
	b, err := os.ReadFile(filepath.Join(dir, "cgroup.procs")) //nolint:gosec // a cgroup of ours
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENODEV) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list the processes of a cgroup: %w", err)
	}
	var pids []int
	for f := range strings.FieldsSeq(string(b)) {
		pid, err := strconv.Atoi(f)
		if err != nil {
			return nil, fmt.Errorf("list the processes of cgroup %s: %w", dir, err)
		}
		if pid > 0 { // 0 is a process of another pid namespace
			pids = append(pids, pid)
		}
	}
	return pids, nil
}

// Empty tells whether no process is in the cgroup.
func (g *Group) Empty() (bool, error) {
	for _, dir := range g.Dirs {
		pids, err := g.pids(dir)
		if err != nil || len(pids) > 0 {
			return false, err
		}
	}
	return true, nil
}

// Remove kills what is left in the cgroup and removes it; it is nil for one
// that is gone.
func (g *Group) Remove(ctx context.Context) error {
	var errs []error
	for _, dir := range g.Dirs {
		err := unix.Rmdir(dir)
		if err == nil || errors.Is(err, unix.ENOENT) {
			continue
		}
		// Kill again before each wait: what was being cloned is there by now.
		if err := g.Kill(); err != nil {
			errs = append(errs, err)
			continue
		}
		errs = append(errs, removeDir(ctx, dir))
	}
	return errors.Join(errs...)
}
