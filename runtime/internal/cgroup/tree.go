// Package cgroup makes the cgroups of containers on hosts with cgroup v1, v2 or
// both (hybrid: controllers on v1, an empty v2 beside them).
//
// On v2 the parent lies under the root of the hierarchy. On v1 it lies under
// this process's own cgroup, so that a limit on TERO holds for its containers.
// Processes enter by being cloned into a v2 cgroup, or by writing "0" to a v1
// "tasks" file themselves: writing another's pid to "cgroup.procs" waits for an
// RCU grace period, 5 to 16 ms on an idle machine.
//
// Devices are filtered on v2 wherever it is mounted and takes filters, also
// beside v1 controllers; the v1 controller for devices is for the other hosts.
package cgroup

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"tero.internal/runtime/internal/devicefilter"
)

// hierarchy is a mounted cgroup hierarchy, with the parent folder in it.
type hierarchy struct {
	// controllers that this package uses and that are on this hierarchy.
	controllers []string
	v2          bool
	dir         string
}

// has tells whether a controller is on this hierarchy; io stands for v1's blkio, too.
func (h *hierarchy) has(controller string) bool {
	return slices.Contains(h.controllers, controller) || controller == "io" && slices.Contains(h.controllers, "blkio")
}

// wanted are the controllers that limits or statistics need.
func wanted() []string {
	return []string{"cpu", "cpuacct", "memory", "pids", "devices", "cpuset", "blkio", "io"}
}

// Tree is the parent of all containers' cgroups, in each hierarchy.
type Tree struct {
	hierarchies []hierarchy
	filters     devicefilter.Filters
	// noFilter is why devices cannot be filtered on v2, or nil.
	noFilter error
}

// Open finds the hierarchies and makes the parent in each.
func Open(parent string) (*Tree, error) {
	if !filepath.IsLocal(parent) {
		return nil, fmt.Errorf("cgroup parent %q is not a relative path", parent)
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, fmt.Errorf("find cgroups: %w", err)
	}
	own, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return nil, fmt.Errorf("find cgroups: %w", err)
	}
	t := &Tree{hierarchies: find(mounts, own, parent), noFilter: errors.New("no cgroup v2 is mounted")}
	if len(t.hierarchies) == 0 {
		return nil, errors.New("no cgroup hierarchy is mounted")
	}
	v2 := slices.IndexFunc(t.hierarchies, func(h hierarchy) bool { return h.v2 })
	if v2 >= 0 {
		if err := t.hierarchies[v2].open(parent); err != nil {
			return nil, fmt.Errorf("make the cgroup parent: %w", err)
		}
		if t.noFilter = devicefilter.Try(t.hierarchies[v2].dir); t.noFilter == nil {
			t.hierarchies = without(t.hierarchies, "devices")
		}
	}
	for i := range t.hierarchies {
		if t.hierarchies[i].v2 {
			continue
		}
		if err := t.hierarchies[i].open(parent); err != nil {
			return nil, fmt.Errorf("make the cgroup parent: %w", err)
		}
	}
	return t, nil
}

// without gives hierarchies less a v1 controller that is not needed, and less
// those that had no other.
func without(list []hierarchy, controller string) []hierarchy {
	is := func(c string) bool { return c == controller }
	for i := range list {
		list[i].controllers = slices.DeleteFunc(list[i].controllers, is)
	}
	return slices.DeleteFunc(list, func(h hierarchy) bool { return !h.v2 && len(h.controllers) == 0 })
}

// find reads mountinfo and the cgroups of this process (proc(5), cgroups(7)).
func find(mountinfo, own []byte, parent string) []hierarchy {
	var list []hierarchy
	for s := bufio.NewScanner(bytes.NewReader(mountinfo)); s.Scan(); {
		before, after, ok := strings.Cut(s.Text(), " - ")
		fields, rest := strings.Fields(before), strings.Fields(after)
		if !ok || len(fields) < 5 || len(rest) < 3 {
			continue
		}
		switch rest[0] {
		case "cgroup2":
			if !slices.ContainsFunc(list, func(h hierarchy) bool { return h.v2 }) {
				list = append(list, hierarchy{v2: true, dir: filepath.Join(fields[4], parent)})
			}
		case "cgroup":
			h := hierarchy{}
			for o := range strings.SplitSeq(rest[2], ",") {
				if slices.Contains(wanted(), o) {
					h.controllers = append(h.controllers, o)
				}
			}
			if len(h.controllers) > 0 && !slices.ContainsFunc(list, func(o hierarchy) bool { return o.has(h.controllers[0]) }) {
				h.dir = filepath.Join(fields[4], ownPath(own, h.controllers[0]), parent)
				list = append(list, h)
			}
		}
	}
	return list
}

// ownPath gives the path of this process's cgroup in a v1 hierarchy.
func ownPath(own []byte, controller string) string {
	for line := range strings.Lines(string(own)) {
		f := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(f) == 3 && slices.Contains(strings.Split(f[1], ","), controller) {
			return f[2]
		}
	}
	return "/"
}

func (h *hierarchy) open(parent string) error {
	if h.v2 {
		available, err := os.ReadFile(filepath.Join(strings.TrimSuffix(h.dir, parent), "cgroup.controllers"))
		if err != nil {
			return err
		}
		for c := range strings.FieldsSeq(string(available)) {
			if slices.Contains(wanted(), c) {
				h.controllers = append(h.controllers, c)
			}
		}
	}
	root := strings.TrimSuffix(h.dir, parent)
	for dir := root; ; {
		if h.v2 && len(h.controllers) > 0 {
			enable := "+" + strings.Join(h.controllers, " +")
			if err := write(dir, "cgroup.subtree_control", enable); err != nil {
				return err
			}
		}
		rest, _ := filepath.Rel(dir, h.dir)
		if rest == "." {
			return nil
		}
		first, _, _ := strings.Cut(rest, "/")
		dir = filepath.Join(dir, first)
		if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, fs.ErrExist) { //nolint:gosec // cgroups are public
			return err
		}
		if err := h.inheritCPUs(dir); err != nil {
			return err
		}
	}
}

// Remove removes the parent; it must be empty.
func (t *Tree) Remove(ctx context.Context) error {
	var errs []error
	for _, h := range t.hierarchies {
		errs = append(errs, removeDir(ctx, h.dir))
	}
	t.filters.Close()
	return errors.Join(errs...)
}

// write writes a value to a file of a cgroup. The kernel may interrupt limits
// that take long; they are written again.
func write(dir, file, value string) error {
	path := filepath.Join(dir, file)
	for {
		fd, err := unix.Open(path, unix.O_WRONLY|unix.O_CLOEXEC, 0)
		if err == nil {
			_, err = unix.Write(fd, []byte(value))
			_ = unix.Close(fd)
		}
		switch {
		case err == nil:
			return nil
		case errors.Is(err, unix.EINTR):
		default:
			return fmt.Errorf("write %q to %s: %w", value, path, err)
		}
	}
}

// The pauses between tries to remove a cgroup whose processes are ending.
const (
	firstPause = 100 * time.Microsecond
	lastPause  = 20 * time.Millisecond
)

// removeDir removes a cgroup and what is below it, waiting for its processes.
func removeDir(ctx context.Context, dir string) error {
	for pause := firstPause; ; pause = min(2*pause, lastPause) {
		err := unix.Rmdir(dir)
		switch {
		case err == nil, errors.Is(err, unix.ENOENT):
			return nil
		case errors.Is(err, unix.EINTR):
			continue
		case !errors.Is(err, unix.EBUSY) && !errors.Is(err, unix.ENOTEMPTY):
			return fmt.Errorf("remove cgroup %s: %w", dir, err)
		}
		entries, _ := os.ReadDir(dir)
		for _, e := range entries {
			if e.IsDir() {
				if err := removeDir(ctx, filepath.Join(dir, e.Name())); err != nil {
					return err
				}
			}
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("remove cgroup %s: %w", dir, errors.Join(err, ctx.Err()))
		case <-time.After(pause):
		}
	}
}
