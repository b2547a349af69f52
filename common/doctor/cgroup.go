package doctor

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"unsafe"

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
	return append(checks, killCheck(h), deviceCheck(h), writableCheck(h))
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

// deviceCheck: v1 has a controller for devices, v2 asks BPF programs.
func deviceCheck(h hierarchies) Check {
	c := check("cgroup", "device filter", "containers open only the devices that they were given")
	var err error = unix.ENODEV
	if h.unified != "" {
		if err = loadFilter(); err == nil {
			return c.ok("BPF program on v2")
		}
	}
	if slices.Contains(h.controllers, "devices") {
		return c.ok("v1 controller; BPF on v2, which is faster, is not there: %s", reason(err))
	}
	return c.missing("use a kernel with CONFIG_CGROUP_BPF, and a node with CAP_BPF or CAP_SYS_ADMIN", "no v1 controller, and BPF: %s", reason(err))
}

// loadFilter loads a program for devices that allows all, and lets go of it.
func loadFilter() error {
	code := [2]uint64{1<<32 | 0xb7, 0x95} // r0 = 1; return r0
	license := [4]byte{'M', 'I', 'T'}
	attributes := struct {
		kind, count   uint32
		code, license uint64
		log           [4]uint32
		version       uint32
	}{kind: unix.BPF_PROG_TYPE_CGROUP_DEVICE, count: uint32(len(code))}
	var pin runtime.Pinner
	defer pin.Unpin()
	pin.Pin(&code)
	pin.Pin(&license)
	attributes.code = uint64(uintptr(unsafe.Pointer(&code)))                                                                        //nolint:gosec // bpf(2) takes addresses as numbers
	attributes.license = uint64(uintptr(unsafe.Pointer(&license)))                                                                  //nolint:gosec // as above
	fd, _, errno := unix.Syscall(unix.SYS_BPF, unix.BPF_PROG_LOAD, uintptr(unsafe.Pointer(&attributes)), unsafe.Sizeof(attributes)) //nolint:gosec // bpf(2) takes a pointer
	if errno != 0 {
		return errno
	}
	return unix.Close(int(fd))
}

// killCheck asks whether the kernel counts whom it kills for lack of memory.
func killCheck(h hierarchies) Check {
	c := check("cgroup", "memory kills", "a container that was killed for lack of memory is told from one that was killed")
	switch {
	case !slices.Contains(h.controllers, "memory"):
		return c.ok("memory.events of v2")
	case strings.Contains(readTrimmed("/sys/fs/cgroup/memory/memory.oom_control"), "oom_kill "):
		return c.ok("memory.oom_control of v1")
	}
	return c.warn("use Linux 4.13 or newer", "memory.oom_control of v1 does not count them")
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
