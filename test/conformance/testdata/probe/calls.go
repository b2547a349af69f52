package main

import (
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strconv"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

func raw(nr uintptr, args ...uintptr) (uintptr, syscall.Errno) {
	var a [6]uintptr
	copy(a[:], args)
	r, _, e := syscall.RawSyscall6(nr, a[0], a[1], a[2], a[3], a[4], a[5])
	return r, e
}

func answer(r uintptr, e syscall.Errno) string {
	if e != 0 {
		return errnoName(e)
	}
	return strconv.Itoa(int(r))
}

func verdict(e syscall.Errno) string {
	if e != 0 {
		return errnoName(e)
	}
	return "done"
}

func errnoName(e syscall.Errno) string {
	if n := unix.ErrnoName(e); n != "" {
		return n
	}
	return "errno " + strconv.Itoa(int(e))
}

// lastCall is the newest system call number that is tried; there are few of
// which this kernel does not know what they are.
const lastCall = 480

// left are calls that end or stop the caller, make copies of it, or take long.
func left() []int {
	return []int{
		unix.SYS_RT_SIGRETURN, unix.SYS_PAUSE, unix.SYS_FORK, unix.SYS_VFORK, unix.SYS_EXIT, unix.SYS_EXIT_GROUP,
		unix.SYS_SYNC, unix.SYS_SET_TID_ADDRESS, unix.SYS_SETSID, unix.SYS_UMASK, unix.SYS_RT_SIGSUSPEND,
		unix.SYS_MUNLOCKALL, unix.SYS_VHANGUP, unix.SYS_RESTART_SYSCALL, unix.SYS_SET_ROBUST_LIST, unix.SYS_BRK,
		unix.SYS_SETFSUID, unix.SYS_SETFSGID, unix.SYS_GETPID, unix.SYS_GETPPID, unix.SYS_GETTID, unix.SYS_GETPGRP,
		unix.SYS_INOTIFY_INIT, unix.SYS_EVENTFD, unix.SYS_CLOSE_RANGE, unix.SYS_CLONE,
		335, 336, // uretprobe and uprobe: the kernel kills who was not sent there
	}
}

// calls makes each system call with arguments that it cannot do anything with:
// a call that the filter lets through answers something else than the filter.
func (v view) calls() {
	runtime.LockOSThread()
	const bad = ^uintptr(0)
	for nr := range lastCall {
		if slices.Contains(left(), nr) {
			continue
		}
		_, e := raw(uintptr(nr), bad, bad, bad, bad, bad, bad)
		v[fmt.Sprintf("call.%03d", nr)] = verdict(e)
	}
	type one struct {
		name string
		nr   uintptr
		args []uintptr
	}
	for _, c := range []one{
		{"socket unix", unix.SYS_SOCKET, []uintptr{unix.AF_UNIX, unix.SOCK_STREAM, 0}},
		{"socket inet", unix.SYS_SOCKET, []uintptr{unix.AF_INET, unix.SOCK_STREAM, 0}},
		{"socket inet6 dgram", unix.SYS_SOCKET, []uintptr{unix.AF_INET6, unix.SOCK_DGRAM, 0}},
		{"socket raw", unix.SYS_SOCKET, []uintptr{unix.AF_INET, unix.SOCK_RAW, unix.IPPROTO_ICMP}},
		{"socket ping", unix.SYS_SOCKET, []uintptr{unix.AF_INET, unix.SOCK_DGRAM, unix.IPPROTO_ICMP}},
		{"socket packet", unix.SYS_SOCKET, []uintptr{unix.AF_PACKET, unix.SOCK_RAW, 0}},
		{"socket vsock", unix.SYS_SOCKET, []uintptr{unix.AF_VSOCK, unix.SOCK_STREAM, 0}},
		{"socket alg", unix.SYS_SOCKET, []uintptr{unix.AF_ALG, unix.SOCK_SEQPACKET, 0}},
		{"socket key", unix.SYS_SOCKET, []uintptr{unix.AF_KEY, unix.SOCK_RAW, 2}},
		{"socket xdp", unix.SYS_SOCKET, []uintptr{unix.AF_XDP, unix.SOCK_RAW, 0}},
		{"netlink route", unix.SYS_SOCKET, []uintptr{unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_ROUTE}},
		{"netlink audit", unix.SYS_SOCKET, []uintptr{unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_AUDIT}},
		{"netlink netfilter", unix.SYS_SOCKET, []uintptr{unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_NETFILTER}},
		{"netlink xfrm", unix.SYS_SOCKET, []uintptr{unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_XFRM}},
		{"personality query", unix.SYS_PERSONALITY, []uintptr{0xffffffff}},
		{"personality linux32", unix.SYS_PERSONALITY, []uintptr{8}},
		{"personality linux", unix.SYS_PERSONALITY, []uintptr{0}},
		{"personality no randomize", unix.SYS_PERSONALITY, []uintptr{0x0040000}},
		{"personality linux again", unix.SYS_PERSONALITY, []uintptr{0}},
		{"keyctl session", unix.SYS_KEYCTL, []uintptr{unix.KEYCTL_GET_KEYRING_ID, ^uintptr(2), 0}},
		{"io_uring_setup", 425, []uintptr{1, 0}},
		{"userfaultfd", 323, []uintptr{1}},
		{"perf_event_open", unix.SYS_PERF_EVENT_OPEN, []uintptr{0, 0, ^uintptr(0), ^uintptr(0), 0}},
		{"bpf map", unix.SYS_BPF, []uintptr{0, 0, 0}},
		{"setuid 1", unix.SYS_SETRESUID, []uintptr{^uintptr(0), ^uintptr(0), ^uintptr(0)}},
		{"chroot", unix.SYS_CHROOT, []uintptr{text("/")}},
		{"setns", unix.SYS_SETNS, []uintptr{0, 0}},
		{"getpriority", unix.SYS_GETPRIORITY, []uintptr{0, 0}},
		{"setpriority -20", unix.SYS_SETPRIORITY, []uintptr{0, 0, ^uintptr(19)}},
		{"clock_settime", unix.SYS_CLOCK_SETTIME, []uintptr{0, words(0, 0)}},
		{"iopl", unix.SYS_IOPL, []uintptr{3}},
		{"ioperm", unix.SYS_IOPERM, []uintptr{0x70, 1, 1}},
		{"reboot", unix.SYS_REBOOT, []uintptr{0xfee1dead, 672274793, 0}},
		{"syslog", unix.SYS_SYSLOG, []uintptr{3, 0, 0}},
		{"swapon", unix.SYS_SWAPON, []uintptr{text("/dev/null"), 0}},
		{"acct", unix.SYS_ACCT, []uintptr{0}},
		{"open_by_handle_at", unix.SYS_OPEN_BY_HANDLE_AT, []uintptr{0, words(8|1<<32, 0, 0), 0}},
		{"fanotify_init", unix.SYS_FANOTIFY_INIT, []uintptr{0, 0}},
		{"quotactl", unix.SYS_QUOTACTL, []uintptr{0x80000700, 0, 0, 0}},
		{"mlock", unix.SYS_MLOCK, []uintptr{words(0), 8}},
		{"nice +1", unix.SYS_SETPRIORITY, []uintptr{0, 0, 1}},
	} {
		r, e := raw(c.nr, c.args...)
		v["verdict."+c.name] = verdict(e)
		if e == 0 && (c.nr == unix.SYS_SOCKET || c.nr == unix.SYS_IO_URING_SETUP || c.nr == 323) {
			_ = syscall.Close(int(r))
		}
	}
}

func text(s string) uintptr {
	b := append([]byte(s), 0)
	return uintptr(unsafe.Pointer(unsafe.SliceData(b)))
}

func words(ws ...uint64) uintptr { return uintptr(unsafe.Pointer(unsafe.SliceData(ws))) }

// attempts are operations of more than one call.
func (v view) attempts() {
	v["try.mount tmpfs"] = said(syscall.Mount("none", "/tmp", "tmpfs", 0, ""))
	v["try.remount root"] = said(syscall.Mount("", "/", "", syscall.MS_REMOUNT|syscall.MS_BIND, ""))
	v["try.umount proc/kcore"] = said(syscall.Unmount("/proc/kcore", 0))
	for _, dir := range []string{"/tmp", "/"} {
		v["try.mknod "+dir+" block"] = said(syscall.Mknod(dir+"/probe-block", syscall.S_IFBLK|0o600, 0x0700))
		v["try.mknod "+dir+" null"] = said(syscall.Mknod(dir+"/probe-null", syscall.S_IFCHR|0o600, 0x0103))
	}
	v["try.chown"] = said(chown("/tmp/probe-file"))
	v["try.write root"] = said(os.WriteFile("/probe-was-here", nil, 0o600))
	v["try.write etc"] = said(os.WriteFile("/etc/probe-was-here", nil, 0o600))
	v["try.write tmp"] = said(os.WriteFile("/tmp/probe-was-here", nil, 0o600))
	v["try.write run"] = said(os.WriteFile("/run/probe-was-here", nil, 0o600))
	v["try.write dev"] = said(os.WriteFile("/dev/probe-was-here", nil, 0o600))
	v["try.write shm"] = said(os.WriteFile("/dev/shm/probe-was-here", nil, 0o600))
	v["try.execute from tmp"] = said(executeFrom("/tmp"))
	v["try.execute from shm"] = said(executeFrom("/dev/shm"))
	v["try.set host name"] = said(syscall.Sethostname([]byte("other")))
	v["try.bind port 80"] = said(listen(80))
	for name, flag := range map[string]uintptr{
		"user": syscall.CLONE_NEWUSER, "mount": syscall.CLONE_NEWNS, "pid": syscall.CLONE_NEWPID, "net": syscall.CLONE_NEWNET,
		"ipc": syscall.CLONE_NEWIPC, "uts": syscall.CLONE_NEWUTS, "cgroup": 0x02000000,
	} {
		v["try.new "+name+" namespace"] = said(start(flag, "nothing"))
	}
	// Calls that a filter may answer with a signal, each in a process of its own.
	for _, c := range [][]string{
		{"getpriority", "140", "0", "0"}, {"sched_yield", "24"}, {"sysinfo", "99", "0"}, {"times", "100", "0"},
		{"getpgid 7007", "121", "7007"}, {"getpgid 7008", "121", "7008"}, {"getpgid big", "121", "4294974303"}, {"lseek", "8", "0", "5", "7"},
		{"capget", "125", "0", "0"}, {"clone user", "56", "268435456"},
	} {
		v["child."+c[0]] = said(start(0, append([]string{"call"}, c[1:]...)...))
		if err := exec.Command("/proc/self/exe", append([]string{"call"}, c[1:]...)...).Run(); err != nil {
			v["child."+c[0]] = outcome(err)
		}
	}
}

func outcome(err error) string {
	var x *exec.ExitError
	if e, ok := err.(*exec.ExitError); ok {
		x = e
	} else {
		return said(err)
	}
	if s := x.Sys().(syscall.WaitStatus); s.Signaled() {
		return "killed by " + unix.SignalName(s.Signal())
	}
	return errnoName(syscall.Errno(x.ExitCode()))
}

// callAndExit makes one system call and exits with its error.
func callAndExit(args []string) int {
	var n [7]uintptr
	for i, a := range args {
		v, _ := strconv.ParseUint(a, 0, 64)
		n[i] = uintptr(v)
	}
	if n[0] == unix.SYS_CLONE {
		r, e := raw(n[0], n[1]|uintptr(syscall.SIGCHLD))
		if e == 0 && r == 0 {
			_, _ = raw(unix.SYS_EXIT_GROUP, 0)
		}
		return int(e)
	}
	_, e := raw(n[0], n[1:]...)
	return int(e)
}

func start(flags uintptr, args ...string) error {
	cmd := exec.Command("/proc/self/exe", args...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: flags}
	if err := cmd.Start(); err != nil {
		return err
	}
	_ = cmd.Wait()
	return nil
}

func chown(path string) error {
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		return err
	}
	defer func() { _ = os.Remove(path) }()
	return os.Chown(path, 1234, 1234)
}

func executeFrom(dir string) error {
	b, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		return err
	}
	path := dir + "/probe-copy"
	if err := os.WriteFile(path, b, 0o700); err != nil {
		return err
	}
	defer func() { _ = os.Remove(path) }()
	return exec.Command(path, "nothing").Run()
}

func listen(port int) error {
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM, 0)
	if err != nil {
		return err
	}
	defer func() { _ = syscall.Close(fd) }()
	return syscall.Bind(fd, &syscall.SockaddrInet4{Port: port, Addr: [4]byte{127, 0, 0, 1}})
}

func size() (string, error) {
	w, err := unix.IoctlGetWinsize(0, unix.TIOCGWINSZ)
	if err != nil {
		return "", err
	}
	return fmt.Sprint(w.Row, "x", w.Col), nil
}

// fault makes the kernel end this process with SIGSEGV, past Go's handler.
func fault() {
	_, _ = raw(unix.SYS_RT_SIGACTION, uintptr(syscall.SIGSEGV), words(0, 0, 0, 0), 0, 8)
	*(*int)(unsafe.Pointer(uintptr(8))) = 1
}
