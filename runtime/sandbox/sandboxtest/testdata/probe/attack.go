package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// target is what of the host the attacks are after.
type target struct {
	PID    int    // a process of the host
	Marker string // a file of the host that anybody may read
	Socket string // an abstract socket that the host listens on
	Key    string // a key in the keyring of the host's root
}

// attack tries to get out, in every way that it knows, and tells what came of
// each: "done" or the error's name.
func attack(description string) {
	var t target
	if err := json.Unmarshal([]byte(description), &t); err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	runtime.LockOSThread()
	out := map[string]string{}
	for _, group := range []map[string]func() error{
		processes(t), cgroups(), mounts(t), kernel(t), devices(), hostFiles(t), sockets(t), namespaces(), last(t), lastOfAll(t),
	} {
		for name, try := range group {
			out[name] = said(try())
		}
	}
	_ = json.NewEncoder(os.Stdout).Encode(out)
}

func said(err error) string {
	var e syscall.Errno
	switch {
	case err == nil:
		return "done"
	case errors.As(err, &e):
		if n := unix.ErrnoName(e); n != "" {
			return n
		}
	}
	return err.Error()
}

func call(nr uintptr, args ...uintptr) error {
	var a [6]uintptr
	copy(a[:], args)
	if _, _, e := syscall.Syscall6(nr, a[0], a[1], a[2], a[3], a[4], a[5]); e != 0 {
		return e
	}
	return nil
}

func text(s string) uintptr {
	b := append([]byte(s), 0)
	return uintptr(unsafe.Pointer(unsafe.SliceData(b)))
}

func words(ws ...uint64) uintptr { return uintptr(unsafe.Pointer(unsafe.SliceData(ws))) }

const self = ^uintptr(0) // -1: the caller, or no descriptor

// write opens a file for writing and writes to it.
func write(path, value string) error {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(value)
	return errors.Join(err, f.Close())
}

func read(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = f.Read(make([]byte, 16))
	if err != nil && err.Error() == "EOF" {
		return errors.New("empty")
	}
	return err
}

// processes of the host.
func processes(t target) map[string]func() error {
	pid := uintptr(t.PID)
	return map[string]func() error{
		"ptrace a process of the host": func() error { return call(unix.SYS_PTRACE, unix.PTRACE_ATTACH, pid, 0, 0) },
		"seize a process of the host":  func() error { return call(unix.SYS_PTRACE, unix.PTRACE_SEIZE, pid, 0, 0) },
		"read a process's memory": func() error {
			buffer := make([]byte, 16)
			at := uint64(uintptr(unsafe.Pointer(&buffer[0])))
			return call(unix.SYS_PROCESS_VM_READV, pid, words(at, 16), 1, words(at, 16), 1, 0)
		},
		"signal a process of the host":   func() error { return syscall.Kill(t.PID, 0) },
		"open a pidfd of the host":       func() error { return call(unix.SYS_PIDFD_OPEN, pid, 0) },
		"move a process of the host":     func() error { return call(unix.SYS_SCHED_SETAFFINITY, pid, 8, words(1)) },
		"lift a limit of the host":       func() error { return call(unix.SYS_PRLIMIT64, pid, 0, words(0, 0), 0) },
		"see a process of the host":      func() error { return read(fmt.Sprintf("/proc/%d/cmdline", t.PID)) },
		"reach the host by /proc/1/root": func() error { return read("/proc/1/root" + t.Marker) },
		"reach the host by /proc/1/cwd":  func() error { return read("/proc/1/cwd/../../../.." + t.Marker) },
		"reach the host by any root": func() error {
			all, _ := filepath.Glob("/proc/[0-9]*")
			for _, p := range all {
				for _, link := range []string{"/root", "/cwd", "/cwd/../../.."} {
					if read(p+link+t.Marker) == nil {
						return nil
					}
				}
			}
			return syscall.ENOENT
		},
		"protect itself from lack of memory": func() error { return write("/proc/self/oom_score_adj", "-1000") },
		"raise its hard limit": func() error {
			var l syscall.Rlimit
			if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &l); err != nil {
				return err
			}
			l.Max += 1 << 20
			return syscall.Setrlimit(syscall.RLIMIT_NOFILE, &l)
		},
		"run in real time":     func() error { return call(unix.SYS_SCHED_SETSCHEDULER, 0, 1, words(10)) },
		"run before others":    func() error { return syscall.Setpriority(0, 0, -20) },
		"do I/O before others": func() error { return call(unix.SYS_IOPRIO_SET, 1, 0, 1<<13) },
	}
}

// cgroups as they are seen, and as they can be mounted.
func cgroups() map[string]func() error {
	within := func(fs, options, file, value string) func() error {
		return func() error {
			_ = os.Mkdir("/tmp/cgroup", 0o700)
			if err := syscall.Mount("cgroup", "/tmp/cgroup", fs, 0, options); err != nil {
				return err
			}
			defer syscall.Unmount("/tmp/cgroup", syscall.MNT_DETACH)
			return write("/tmp/cgroup/"+file, value)
		}
	}
	return map[string]func() error{
		"set a release agent":              within("cgroup", "memory", "release_agent", "/probe"),
		"set a release agent of pids":      within("cgroup", "pids", "release_agent", "/probe"),
		"lift the memory limit":            within("cgroup", "memory", "memory.limit_in_bytes", "-1"),
		"lift the process limit":           within("cgroup", "pids", "pids.max", "max"),
		"allow itself devices":             within("cgroup", "devices", "devices.allow", "a"),
		"leave the cgroup":                 within("cgroup", "memory", "../cgroup.procs", "0"),
		"leave the cgroup of v2":           within("cgroup2", "", "../cgroup.procs", "0"),
		"write to the cgroup tree":         func() error { return write("/sys/fs/cgroup/memory/release_agent", "/probe") },
		"write to the cgroup tree of pids": func() error { return write("/sys/fs/cgroup/pids/cgroup.procs", "0") },
	}
}

// mounts of what must not be mounted, and away from what must be.
func mounts(t target) map[string]func() error {
	mount := func(source, fs, options string) func() error {
		return func() error {
			_ = os.Mkdir("/tmp/mount", 0o700)
			err := syscall.Mount(source, "/tmp/mount", fs, 0, options)
			if err == nil {
				_ = syscall.Unmount("/tmp/mount", syscall.MNT_DETACH)
			}
			return err
		}
	}
	return map[string]func() error{
		"mount the host's disk": mount("/dev/vda", "ext4", ""),
		"mount devtmpfs":        mount("devtmpfs", "devtmpfs", ""),
		"mount debugfs":         mount("debugfs", "debugfs", ""),
		"mount tracefs":         mount("tracefs", "tracefs", ""),
		"mount securityfs":      mount("securityfs", "securityfs", ""),
		"mount configfs":        mount("configfs", "configfs", ""),
		"mount binfmt_misc and register": func() error {
			_ = os.Mkdir("/tmp/binfmt", 0o700)
			if err := syscall.Mount("binfmt_misc", "/tmp/binfmt", "binfmt_misc", 0, ""); err != nil {
				return err
			}
			defer syscall.Unmount("/tmp/binfmt", syscall.MNT_DETACH)
			return syscall.EPERM // its own instance, of its own user namespace
		},
		"mount a new procfs without masks": func() error {
			_ = os.Mkdir("/tmp/proc", 0o700)
			if err := syscall.Mount("proc", "/tmp/proc", "proc", 0, ""); err != nil {
				return err
			}
			defer syscall.Unmount("/tmp/proc", syscall.MNT_DETACH)
			return write("/tmp/proc/sys/kernel/core_pattern", "|/probe")
		},
		"write to what a mask hid": func() error {
			if err := syscall.Unmount("/proc/kcore", syscall.MNT_DETACH); err != nil {
				return err
			}
			return read("/proc/kcore")
		},
		"move a mask away": func() error {
			_ = os.WriteFile("/tmp/away", nil, 0o600)
			if err := syscall.Mount("/proc/kcore", "/tmp/away", "", syscall.MS_MOVE, ""); err != nil {
				return err
			}
			return read("/proc/kcore")
		},
		"write to what was read-only": func() error {
			if err := syscall.Mount("", "/proc/sys", "", syscall.MS_REMOUNT|syscall.MS_BIND, ""); err != nil {
				return err
			}
			return write("/proc/sys/kernel/core_pattern", "|/probe")
		},
		"write to what was mounted elsewhere": func() error {
			_ = os.Mkdir("/tmp/sys", 0o700)
			if err := syscall.Mount("/proc", "/tmp/sys", "", syscall.MS_BIND, ""); err != nil {
				return err
			}
			defer syscall.Unmount("/tmp/sys", syscall.MNT_DETACH)
			return write("/tmp/sys/sys/kernel/core_pattern", "|/probe")
		},
		"open a new mount": func() error {
			fd, _, e := syscall.Syscall(unix.SYS_FSOPEN, text("ext4"), 0, 0)
			if e != 0 {
				return e
			}
			defer syscall.Close(int(fd))
			if err := call(unix.SYS_FSCONFIG, fd, 1, text("source"), text("/dev/vda"), 0); err != nil {
				return err
			}
			return call(unix.SYS_FSCONFIG, fd, 6, 0, 0, 0)
		},
		"clear read-only with the new calls": func() error {
			err := call(unix.SYS_MOUNT_SETATTR, atFDCWD(), text("/proc/sys"), 0, words(0, unix.MOUNT_ATTR_RDONLY, 0, 0), 32)
			if err != nil {
				return err
			}
			return write("/proc/sys/kernel/core_pattern", "|/probe")
		},
	}
}

func atFDCWD() uintptr { v := unix.AT_FDCWD; return uintptr(v) }

// kernel is what belongs to the kernel as a whole.
func kernel(t target) map[string]func() error {
	return map[string]func() error{
		"load a module":        func() error { return call(unix.SYS_INIT_MODULE, text("x"), 1, text("")) },
		"load a module's file": func() error { return call(unix.SYS_FINIT_MODULE, 0, text(""), 0) },
		"remove a module":      func() error { return call(unix.SYS_DELETE_MODULE, text("loop"), 0) },
		"load another kernel":  func() error { return call(unix.SYS_KEXEC_LOAD, 0, 0, 0, 0) },
		"load a BPF program": func() error { // a kprobe, which is for the host's root alone
			insns := []uint64{0xb7, 0x95}
			attr := make([]uint64, 16)
			attr[0], attr[1], attr[2] = 2|2<<32, uint64(words(insns...)), uint64(text("GPL"))
			return call(unix.SYS_BPF, 5, uintptr(unsafe.Pointer(&attr[0])), 128)
		},
		"watch all of a CPU": func() error {
			attr := make([]uint64, 16) // hardware, cycles
			attr[0] = 1 | 128<<32
			return call(unix.SYS_PERF_EVENT_OPEN, uintptr(unsafe.Pointer(&attr[0])), self, 0, self, 0)
		},
		"handle faults of the kernel": func() error { return callFD(unix.SYS_USERFAULTFD, unix.O_CLOEXEC) },
		"make an io_uring":            func() error { return callFD(unix.SYS_IO_URING_SETUP, 1, uintptr(unsafe.Pointer(new([30]uint32)))) },
		"set the clock":               func() error { return call(unix.SYS_CLOCK_SETTIME, 0, words(2_000_000_000, 0)) },
		"set the time of day":         func() error { return call(unix.SYS_SETTIMEOFDAY, words(2_000_000_000, 0), 0) },
		"bend the clock": func() error {
			tx := unix.Timex{Modes: unix.ADJ_FREQUENCY, Freq: 1}
			_, err := unix.Adjtimex(&tx)
			return err
		},
		"use ports of the machine":     func() error { return call(unix.SYS_IOPL, 3) },
		"use one port of the machine":  func() error { return call(unix.SYS_IOPERM, 0x70, 1, 1) },
		"write core_pattern":           func() error { return write("/proc/sys/kernel/core_pattern", "|/probe") },
		"write modprobe":               func() error { return write("/proc/sys/kernel/modprobe", "/probe") },
		"write sysrq-trigger":          func() error { return write("/proc/sysrq-trigger", "?") },
		"write uevent_helper":          func() error { return write("/sys/kernel/uevent_helper", "/probe") },
		"write a parameter of memory":  func() error { return write("/proc/sys/vm/overcommit_memory", "1") },
		"write an interrupt's CPUs":    func() error { return write("/proc/irq/default_smp_affinity", "1") },
		"write a uevent":               func() error { return write("/sys/class/net/lo/uevent", "add") },
		"read the kernel's memory":     func() error { return read("/proc/kcore") },
		"read the kernel's log":        func() error { return call(unix.SYS_SYSLOG, 3, uintptr(unsafe.Pointer(new([64]byte))), 64) },
		"read /proc/kmsg":              func() error { return read("/proc/kmsg") },
		"swap off":                     func() error { return call(unix.SYS_SWAPOFF, text("/nothing")) },
		"account processes":            func() error { return call(unix.SYS_ACCT, text("/tmp/acct")) },
		"hang up terminals":            func() error { return call(unix.SYS_VHANGUP) },
		"set quotas":                   func() error { return call(unix.SYS_QUOTACTL, 0x800002<<8, text("/dev/vda"), 0, 0) },
		"search the keys of the host":  func() error { return searchKey(t.Key) },
		"request a key of the host":    func() error { return call(unix.SYS_REQUEST_KEY, text("user"), text(t.Key), 0, 0) },
		"turn address randomizing off": func() error { return call(unix.SYS_PERSONALITY, 0x0040000) },
		"map the first page": func() error {
			_, _, e := syscall.Syscall6(syscall.SYS_MMAP, 0, 4096, 3, 0x32, self, 0)
			return errno(e)
		},
		"set a segment for old programs": func() error { return call(unix.SYS_MODIFY_LDT, 1, words(0, 0), 16) },
	}
}

func errno(e syscall.Errno) error {
	if e != 0 {
		return e
	}
	return nil
}

// callFD makes a call that gives a descriptor, and closes it.
func callFD(nr uintptr, args ...uintptr) error {
	var a [6]uintptr
	copy(a[:], args)
	fd, _, e := syscall.Syscall6(nr, a[0], a[1], a[2], a[3], a[4], a[5])
	if e != 0 {
		return e
	}
	return syscall.Close(int(fd))
}

// searchKey looks in every keyring that has a name, and in many by number.
func searchKey(key string) error {
	last := error(syscall.ENOKEY)
	for ring := int64(-1); ring >= -5; ring-- {
		_, _, e := syscall.Syscall6(unix.SYS_KEYCTL, unix.KEYCTL_SEARCH, uintptr(ring), text("user"), text(key), 0, 0)
		if e == 0 {
			return nil
		}
		last = e
	}
	return last
}

// devices that a container has no business with.
func devices() map[string]func() error {
	node := func(mode uint32, major, minor uint32) func() error {
		return func() error {
			path := fmt.Sprintf("/tmp/node-%d-%d", major, minor)
			if err := syscall.Mknod(path, mode|0o600, int(unix.Mkdev(major, minor))); err != nil {
				return err
			}
			return read(path)
		}
	}
	return map[string]func() error{
		"make a node of memory":     node(syscall.S_IFCHR, 1, 1),
		"make a node of ports":      node(syscall.S_IFCHR, 1, 4),
		"make a node of the log":    node(syscall.S_IFCHR, 1, 11),
		"make a node of a disk":     node(syscall.S_IFBLK, 254, 0),
		"make a node of a loop":     node(syscall.S_IFBLK, 7, 0),
		"make a node of fuse":       node(syscall.S_IFCHR, 10, 229),
		"make a node of kvm":        node(syscall.S_IFCHR, 10, 232),
		"make a node of /dev/null":  node(syscall.S_IFCHR, 1, 3),
		"open /dev/mem":             func() error { return read("/dev/mem") },
		"open /dev/kmsg":            func() error { return read("/dev/kmsg") },
		"open the host's disk":      func() error { return read("/dev/vda") },
		"type on its terminal":      func() error { return call(unix.SYS_IOCTL, 0, unix.TIOCSTI, text("x")) },
		"type on the console":       func() error { return call(unix.SYS_IOCTL, 0, unix.TIOCLINUX, words(3)) },
		"take the console's output": func() error { return call(unix.SYS_IOCTL, 1, unix.TIOCCONS) },
	}
}

// hostFiles are files of the host, and the container's own that are read-only.
func hostFiles(t target) map[string]func() error {
	return map[string]func() error{
		"open a file of the host": func() error { return read(t.Marker) },
		"open by handle": func() error { // what is called "shocker": the root folder of most file systems is inode 2
			handle := make([]uint32, 8)
			handle[0], handle[1], handle[2] = 8, 1, 2
			fd, err := syscall.Open("/etc/hosts", syscall.O_RDONLY, 0)
			if err != nil {
				return err
			}
			defer syscall.Close(fd)
			return callFD(unix.SYS_OPEN_BY_HANDLE_AT, uintptr(fd), uintptr(unsafe.Pointer(&handle[0])), 0)
		},
		"overwrite its own program":   func() error { return write("/proc/self/exe", "x") },
		"overwrite the first program": func() error { return write("/proc/1/exe", "x") },
		"overwrite /etc/hosts":        func() error { return write("/etc/hosts", "x") },
		"write to the image":          func() error { return write("/probe", "x") },
		"make a file in the image":    func() error { return os.WriteFile("/etc/new", nil, 0o600) },
		"link out of a descriptor": func() error {
			for fd := range 64 {
				for _, p := range []string{"", "/..", "/../..", "/../../../.."} {
					if read("/proc/self/fd/"+strconv.Itoa(fd)+p+t.Marker) == nil {
						return nil
					}
				}
			}
			return syscall.ENOENT
		},
		"leave by a descriptor": func() error {
			for fd := range 64 {
				if fd > 2 && syscall.Fchdir(fd) == nil {
					link, _ := os.Readlink("/proc/self/fd/" + strconv.Itoa(fd))
					_ = os.Chdir("/")
					return errors.New("a folder is open: " + link)
				}
			}
			return syscall.ENOTDIR
		},
		"watch a file system": func() error { return callFD(unix.SYS_FANOTIFY_INIT, 0x4, 0) },
	}
}

// sockets of the host, and kinds that reach the kernel.
func sockets(t target) map[string]func() error {
	socket := func(family, kind, protocol int) func() error {
		return func() error {
			fd, err := syscall.Socket(family, kind, protocol)
			if err == nil {
				_ = syscall.Close(fd)
			}
			return err
		}
	}
	return map[string]func() error{
		"connect to an abstract socket of the host": func() error {
			c, err := net.Dial("unix", "@"+t.Socket)
			if err == nil {
				_ = c.Close()
			}
			return err
		},
		"open a raw socket":       socket(unix.AF_INET, unix.SOCK_RAW, unix.IPPROTO_ICMP),
		"open a packet socket":    socket(unix.AF_PACKET, unix.SOCK_RAW, 0x0300),
		"open a vsock":            socket(unix.AF_VSOCK, unix.SOCK_STREAM, 0),
		"open a crypto socket":    socket(unix.AF_ALG, unix.SOCK_SEQPACKET, 0),
		"open a key socket":       socket(unix.AF_KEY, unix.SOCK_RAW, 2),
		"open a CAN socket":       socket(unix.AF_CAN, unix.SOCK_RAW, 1),
		"open a TIPC socket":      socket(unix.AF_TIPC, unix.SOCK_RDM, 0),
		"open the audit channel":  socket(unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_AUDIT),
		"open the firewall":       socket(unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_NETFILTER),
		"open the IPsec channel":  socket(unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_XFRM),
		"listen to kernel events": socket(unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_CONNECTOR),
	}
}

// namespaces of its own, one more time, and of others.
func namespaces() map[string]func() error {
	nested := func(flags uintptr) func() error {
		return func() error {
			cmd := exec.Command("/proc/self/exe", "true")
			cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: flags}
			return cmd.Run()
		}
	}
	return map[string]func() error{
		"make a user namespace":           nested(syscall.CLONE_NEWUSER),
		"make a user and mount namespace": nested(syscall.CLONE_NEWUSER | syscall.CLONE_NEWNS),
		"make a network namespace":        nested(syscall.CLONE_NEWUSER | syscall.CLONE_NEWNET),
		"unshare":                         func() error { return syscall.Unshare(syscall.CLONE_FS | 0x02000000) },
		"join a namespace by descriptor": func() error {
			fd, err := syscall.Open("/proc/1/ns/uts", syscall.O_RDONLY, 0)
			if err != nil {
				return err
			}
			defer syscall.Close(fd)
			return call(unix.SYS_SETNS, uintptr(fd), 0)
		},
		"find a namespace that is not its own": func() error {
			all, _ := filepath.Glob("/proc/[0-9]*/ns/*")
			for _, path := range all {
				link, err := os.Readlink(path)
				own, _ := os.Readlink("/proc/self/ns/" + filepath.Base(path))
				if err == nil && link != own && !strings.Contains(path, "for_children") {
					return nil
				}
			}
			return syscall.ENOENT
		},
		"get the parent of its user namespace": func() error {
			fd, err := syscall.Open("/proc/self/ns/user", syscall.O_RDONLY, 0)
			if err != nil {
				return err
			}
			defer syscall.Close(fd)
			return callFD(unix.SYS_IOCTL, uintptr(fd), 0xb702)
		},
		"get the parent of its pid namespace": func() error {
			fd, err := syscall.Open("/proc/self/ns/pid", syscall.O_RDONLY, 0)
			if err != nil {
				return err
			}
			defer syscall.Close(fd)
			return callFD(unix.SYS_IOCTL, uintptr(fd), 0xb702)
		},
		"map the host's root":    func() error { return write("/proc/self/uid_map", "0 0 1") },
		"change its groups' map": func() error { return write("/proc/self/gid_map", "0 0 1") },
		"become an id that is not its own": func() error {
			_, _, e := syscall.RawSyscall(unix.SYS_SETRESUID, 100_000, 100_000, 100_000)
			return errno(e)
		},
	}
}

// last are attacks that could end the container, or put it into another root.
func last(t target) map[string]func() error {
	return map[string]func() error{
		"restart the machine": func() error { return call(unix.SYS_REBOOT, 0xfee1dead, 672274793, 0x89abcdef) }, // "Ctrl-Alt-Del on"
		"reach the host by chroot": func() error {
			_ = os.Mkdir("/tmp/jail", 0o700)
			back, err := os.Open("/")
			if err != nil {
				return err
			}
			defer back.Close()
			if err := syscall.Chroot("/tmp/jail"); err != nil {
				return err
			}
			_ = back.Chdir()
			for range 20 {
				_ = os.Chdir("..")
			}
			err = read("." + t.Marker)
			_ = back.Chdir()
			_ = syscall.Chroot(".")
			return err
		},
	}
}

// lastOfAll leaves nothing to go on with.
func lastOfAll(t target) map[string]func() error {
	return map[string]func() error{
		"reach the host by pivot_root": func() error {
			if err := call(unix.SYS_PIVOT_ROOT, text("/tmp"), text("/tmp")); err != nil {
				return err
			}
			return read(t.Marker)
		},
	}
}

// guard watches /proc for processes that come in from outside, and tries to
// write to their programs; it tells what it saw when told to end.
func guard() {
	fmt.Println("watching")
	seen, reached := "none", map[string]bool{}
	for {
		if _, err := os.Stat("/tmp/stop"); err == nil {
			break
		}
		all, _ := filepath.Glob("/proc/[0-9]*")
		for _, p := range all {
			pid := filepath.Base(p)
			if pid == "1" || pid == strconv.Itoa(os.Getpid()) {
				continue
			}
			seen = "some"
			link, err := os.Readlink(p + "/exe")
			if err != nil || link == "/probe" {
				continue
			}
			f, err := os.OpenFile(p+"/exe", os.O_RDONLY, 0)
			if err == nil {
				w := write("/proc/self/fd/"+strconv.Itoa(int(f.Fd())), "x")
				reached[link+": "+said(w)] = true
				_ = f.Close()
			} else {
				reached[link+": open "+said(err)] = true
			}
		}
	}
	for what := range reached {
		fmt.Println(what)
	}
	fmt.Println("saw", seen)
}
