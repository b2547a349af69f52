package doctor

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

func cgroupChecks(context.Context) []Check {
	mode := check("cgroup", "hierarchy", "limits for every container; v1, v2 and hybrid hosts all do")
	h := parseHierarchies(readTrimmed("/proc/self/mountinfo"))
	const hint = "mount cgroup v2: mount -t cgroup2 none /sys/fs/cgroup"
	if h.mode == "none" {
		return []Check{mode.missing(hint, "none is mounted")}
	}
	controllers := h.controllers
	if h.unified != "" {
		controllers = slices.Concat(controllers, strings.Fields(readTrimmed(filepath.Join(h.unified, "cgroup.controllers"))))
	}
	checks := []Check{mode.ok("%s", describeMode(h))}
	for _, c := range []struct{ name, needs string }{
		{"memory", "--memory"},
		{"cpu", "--cpus"},
		{"pids", "fork bombs end in their container"},
	} {
		found := check("cgroup", c.name+" controller", c.needs)
		if slices.Contains(controllers, c.name) {
			found = found.ok("yes")
		} else {
			found = found.missing("enable it: write +"+c.name+" to cgroup.subtree_control, or drop cgroup_disable from the kernel's command line", "not there")
		}
		checks = append(checks, found)
	}
	return append(checks, deviceCheck(h), writableCheck(h))
}

func describeMode(h hierarchies) string {
	switch h.mode {
	case "hybrid":
		return "hybrid: v1 with " + strings.Join(h.controllers, ", ") + "; v2 at " + h.unified
	case "v1":
		return "v1 with " + strings.Join(h.controllers, ", ")
	}
	return h.mode + " at " + h.unified
}

// deviceCheck: v1 has a controller for devices, v2 has programs for it.
func deviceCheck(h hierarchies) Check {
	c := check("cgroup", "device filter", "containers open only the devices that they were given")
	if slices.Contains(h.controllers, "devices") {
		return c.ok("v1 controller")
	}
	if _, err := os.Stat("/sys/fs/bpf"); err != nil {
		return c.missing("use a kernel with CONFIG_CGROUP_BPF", "neither the v1 controller nor bpf")
	}
	return c.ok("bpf on v2")
}

// writableCheck asks whether cgroups can be made; it makes none.
func writableCheck(h hierarchies) Check {
	c := check("cgroup", "may be changed", "a cgroup for every container")
	roots := map[string]bool{}
	if h.unified != "" {
		roots[h.unified] = true
	}
	for _, name := range h.controllers {
		roots[filepath.Join("/sys/fs/cgroup", name)] = true
	}
	for root := range roots {
		if err := unix.Access(root, unix.W_OK); err != nil && !errors.Is(err, os.ErrNotExist) {
			return c.missing("mount it writable, or delegate a part of it", "%s: %s", root, reason(err))
		}
	}
	return c.ok("yes")
}
