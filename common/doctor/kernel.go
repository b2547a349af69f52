package doctor

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// oldest is the kernel that TERO is made for: openat2 (5.6), close_range with its
// flags (5.11), idmapped mounts (5.12), and overlays over them (5.19).
var oldest = version{5, 19}

func hostChecks(context.Context) []Check {
	root := check("host", "root", "namespaces, cgroups and the network are root's to set up")
	if uid := os.Geteuid(); uid != 0 {
		root = root.missing("run it with sudo: many of the other checks cannot be made without", "user id %d", uid)
	} else {
		root = root.ok("yes")
	}
	caps := check("host", "capabilities", "a node uses most of root's capabilities; it degrades without some")
	last, err := strconv.Atoi(readTrimmed("/proc/sys/kernel/cap_last_cap"))
	if err != nil {
		last = len(capabilityNames()) - 1
	}
	switch lacking, ok := missingCapabilities(readTrimmed("/proc/self/status"), last); {
	case !ok:
		caps = caps.warn("", "cannot be read from /proc/self/status")
	case len(lacking) > 0:
		caps = caps.warn(capabilityHint(lacking), "without %s", strings.Join(lacking, ", "))
	default:
		caps = caps.ok("all %d", last+1)
	}
	return []Check{root, caps}
}

// capabilityHint says what is lost with the one that hosts take away most often.
func capabilityHint(lacking []string) string {
	if len(lacking) == 1 && lacking[0] == "CAP_SYS_RESOURCE" {
		return "resource limits above the node's own cannot be given to containers; give the host CAP_SYS_RESOURCE if they must"
	}
	return "start the node with all of root's capabilities"
}

func kernelChecks(context.Context) []Check {
	return []Check{
		releaseCheck(), namespaceCheck(),
		limitCheck("user"), limitCheck("net"),
		check("kernel", "overlayfs", "writable root file systems over shared layers").
			try(fileSystem("overlay"), "yes", "load the module: modprobe overlay"),
		check("kernel", "erofs", "read-only root file systems from one image file").
			try(fileSystem("erofs"), "yes", "load the module: modprobe erofs"),
		seccompCheck(), landlockCheck(), appArmorCheck(), seLinuxCheck(), callsCheck(),
		check("kernel", "pidfd", "processes that cannot be confused with others of the same number").
			try(pidfd(), "yes", "use Linux 5.3 or newer"),
		pidfdInfoCheck(), clone3Check(),
	}
}

func releaseCheck() Check {
	c := check("kernel", "version", fmt.Sprintf("Linux %d.%d or newer", oldest.major, oldest.minor))
	release := readTrimmed("/proc/sys/kernel/osrelease")
	v, ok := parseRelease(release)
	if !ok || v.less(oldest) {
		return c.missing("boot a newer kernel", "%q", release)
	}
	return c.ok("%s", release)
}

func namespaceCheck() Check {
	c := check("kernel", "namespaces", "every container has seven of its own")
	var lacking []string
	for _, n := range []string{"cgroup", "ipc", "mnt", "net", "pid", "user", "uts"} {
		if _, err := os.Stat("/proc/self/ns/" + n); err != nil {
			lacking = append(lacking, n)
		}
	}
	if lacking != nil {
		return c.missing("use a kernel with all of CONFIG_NAMESPACES", "without %s", strings.Join(lacking, ", "))
	}
	return c.ok("cgroup, ipc, mnt, net, pid, user, uts")
}

// limitCheck looks at the sysctl that bounds a kind of namespace.
func limitCheck(kind string) Check {
	c := check("kernel", kind+" namespace limit", "one for each container")
	name := "user.max_" + kind + "_namespaces"
	n, err := strconv.Atoi(readTrimmed("/proc/sys/user/max_" + kind + "_namespaces"))
	switch {
	case err != nil:
		return c.warn("", "%s cannot be read", name)
	case n == 0:
		return c.missing("sysctl "+name+"=10000", "none are allowed")
	case n < 1000:
		return c.warn("sysctl "+name+"=10000", "%d", n)
	}
	return c.ok("%d", n)
}

// fileSystem opens a context for a file system, which loads its module and mounts nothing.
func fileSystem(name string) error {
	fd, err := unix.Fsopen(name, unix.FSOPEN_CLOEXEC)
	if err != nil {
		return err
	}
	return unix.Close(fd)
}

func seccompCheck() Check {
	c := check("kernel", "seccomp", "every container is under a system call filter")
	action := uint32(unix.SECCOMP_RET_KILL_PROCESS)
	_, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_GET_ACTION_AVAIL, 0, uintptr(unsafe.Pointer(&action))) //nolint:gosec // seccomp(2) takes a pointer
	if errno != 0 {
		return c.missing("use a kernel with CONFIG_SECCOMP_FILTER, 4.14 or newer", "%s", reason(errno))
	}
	return c.ok("filters, with all actions")
}

func pidfd() error {
	fd, err := unix.PidfdOpen(os.Getpid(), 0)
	if err != nil {
		return err
	}
	return unix.Close(fd)
}

// pidfdInfo is struct pidfd_info of linux/pidfd.h in its first version.
type pidfdInfo struct {
	mask, cgroup                                        uint64
	pid, tgid, ppid, ruid, rgid, euid, egid, suid, sgid uint32
	fsuid, fsgid                                        uint32
	exitCode                                            int32
}

// pidfdGetInfo is PIDFD_GET_INFO: _IOWR(0xFF, 11, struct pidfd_info), 64 bytes.
const pidfdGetInfo = 3<<30 | 64<<16 | 0xff<<8 | 11

func pidfdInfoCheck() Check {
	c := check("kernel", "PIDFD_GET_INFO", "exit codes of containers that a restarted node adopts again")
	const hint = "use Linux 6.13 or newer; exit codes then come from the init's own record"
	fd, err := unix.PidfdOpen(os.Getpid(), 0)
	if err != nil {
		return c.warn(hint, "%s", reason(err))
	}
	defer func() { _ = unix.Close(fd) }()
	info := pidfdInfo{mask: 1}
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), pidfdGetInfo, uintptr(unsafe.Pointer(&info))); errno != 0 { //nolint:gosec // ioctl(2) takes a pointer
		return c.warn(hint, "the kernel does not have it")
	}
	return c.ok("yes")
}

func clone3Check() Check {
	c := check("kernel", "clone3", "processes that are born inside their cgroup")
	// A size of 0 is refused before anything is made.
	if _, _, errno := unix.Syscall(unix.SYS_CLONE3, 0, 0, 0); !errors.Is(errno, unix.EINVAL) {
		return c.warn("use Linux 5.3 or newer, outside of a filter that hides it", "%s", reason(errno))
	}
	return c.ok("yes")
}

// processChecks try what takes a process of its own.
func processChecks(ctx context.Context) []Check {
	return []Check{idmapCheck(ctx), intoCgroupCheck()}
}

func idmapCheck(context.Context) Check {
	c := check("kernel", "user namespaces and idmapped mounts", "container root is nobody on the host, over shared layers")
	const hint = "use Linux 5.12 or newer, user namespaces allowed, and a temporary folder on ext4, xfs, btrfs or tmpfs (6.3)"
	dir, err := os.MkdirTemp("", "tero-doctor-")
	if err != nil {
		return c.warn("", "no temporary folder: %v", err)
	}
	defer func() { _ = os.RemoveAll(dir) }()
	ids := []syscall.SysProcIDMap{{ContainerID: 0, HostID: 100000, Size: 65536}}
	err = stopped(&syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWUSER, UidMappings: ids, GidMappings: ids}, func(pid int) error {
		userns, err := unix.Open(fmt.Sprintf("/proc/%d/ns/user", pid), unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer func() { _ = unix.Close(userns) }()
		// The clone is never attached anywhere, and goes with its descriptor.
		tree, err := unix.OpenTree(unix.AT_FDCWD, dir, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
		if err != nil {
			return err
		}
		defer func() { _ = unix.Close(tree) }()
		return unix.MountSetattr(tree, "", unix.AT_EMPTY_PATH, &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_IDMAP, Userns_fd: uint64(userns)}) //nolint:gosec // a descriptor
	})
	return c.try(err, "mapped a folder in "+os.TempDir(), hint)
}

func intoCgroupCheck() Check {
	c := check("cgroup", "CLONE_INTO_CGROUP", "starts that do not wait for the kernel to move a process")
	const hint = "mount cgroup v2, Linux 5.7 or newer; starts join the cgroup by themselves otherwise"
	h := parseHierarchies(readTrimmed("/proc/self/mountinfo"))
	if h.unified == "" {
		return c.warn(hint, "no cgroup v2 is mounted")
	}
	own := filepath.Join(h.unified, unifiedPath(readTrimmed("/proc/self/cgroup")))
	fd, err := unix.Open(own, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return c.warn(hint, "%s: %s", own, reason(err))
	}
	defer func() { _ = unix.Close(fd) }()
	// Into the cgroup that this process is in already: nothing changes.
	if err := stopped(&syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: fd}, func(int) error { return nil }); err != nil {
		return c.warn(hint, "%s", reason(err))
	}
	return c.ok("yes")
}

// stopped starts this program with attr, stops it before its first instruction
// by tracing it, calls f, and kills it.
func stopped(attr *syscall.SysProcAttr, f func(pid int) error) error {
	// The tracer is a thread.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	attr.Ptrace, attr.Pdeathsig = true, unix.SIGKILL
	p, err := os.StartProcess("/proc/self/exe", []string{"tero-doctor"}, &os.ProcAttr{Sys: attr})
	if err != nil {
		return err
	}
	defer func() {
		_ = p.Kill() // it may be dead by itself
		_, _ = p.Wait()
	}()
	return f(p.Pid)
}
