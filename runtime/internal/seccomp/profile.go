package seccomp

import (
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// allowed are the system calls that a process without capabilities may make
// with any arguments, in alphabetical order. Not in it, on purpose: the keyring
// (keyctl, add_key, request_key), bpf, userfaultfd, io_uring, the mount family,
// unshare and setns, ptrace and process_vm_*, pidfd_getfd, kcmp, kexec, modules,
// perf_event_open, open_by_handle_at, clock_settime, syslog, chroot,
// modify_ldt, iopl, quotactl, swap, reboot, host names, NUMA policy.
const allowed = `
accept accept4 access adjtimex alarm arch_prctl bind brk cachestat capget capset chdir chmod chown clock_adjtime
clock_getres clock_gettime clock_nanosleep close close_range connect copy_file_range creat dup dup2 dup3
epoll_create epoll_create1 epoll_ctl epoll_pwait epoll_pwait2 epoll_wait eventfd eventfd2 execve execveat exit
exit_group faccessat faccessat2 fadvise64 fallocate fanotify_mark fchdir fchmod fchmodat fchmodat2 fchown fchownat
fcntl fdatasync fgetxattr flistxattr flock fork fremovexattr fsetxattr fstat fstatfs fsync ftruncate futex
futex_requeue futex_wait futex_waitv futex_wake futimesat get_robust_list get_thread_area getcpu getcwd getdents
getdents64 getegid geteuid getgid getgroups getitimer getpeername getpgid getpgrp getpid getppid getpriority
getrandom getresgid getresuid getrlimit getrusage getsid getsockname getsockopt gettid gettimeofday getuid getxattr
getxattrat inotify_add_watch inotify_init inotify_init1 inotify_rm_watch io_cancel io_destroy io_getevents
io_pgetevents io_setup io_submit ioctl ioprio_get ioprio_set kill landlock_add_rule landlock_create_ruleset
landlock_restrict_self lchown lgetxattr link linkat listen listxattr listxattrat llistxattr lremovexattr lseek
lsetxattr lstat madvise map_shadow_stack membarrier memfd_create memfd_secret mincore mkdir mkdirat mknod mknodat
mlock mlock2 mlockall mmap mprotect mq_getsetattr mq_notify mq_open mq_timedreceive mq_timedsend mq_unlink mremap
mseal msgctl msgget msgrcv msgsnd msync munlock munlockall munmap name_to_handle_at nanosleep newfstatat open openat
openat2 pause pidfd_open pidfd_send_signal pipe pipe2 pkey_alloc pkey_free pkey_mprotect poll ppoll prctl pread64
preadv preadv2 prlimit64 process_mrelease pselect6 pwrite64 pwritev pwritev2 read readahead readlink readlinkat readv
recvfrom recvmmsg recvmsg remap_file_pages removexattr removexattrat rename renameat renameat2 restart_syscall rmdir
rseq rt_sigaction rt_sigpending rt_sigprocmask rt_sigqueueinfo rt_sigreturn rt_sigsuspend rt_sigtimedwait
rt_tgsigqueueinfo sched_get_priority_max sched_get_priority_min sched_getaffinity sched_getattr sched_getparam
sched_getscheduler sched_rr_get_interval sched_setaffinity sched_setattr sched_setparam sched_setscheduler sched_yield
seccomp select semctl semget semop semtimedop sendfile sendmmsg sendmsg sendto set_robust_list set_thread_area
set_tid_address setfsgid setfsuid setgid setgroups setitimer setpgid setpriority setregid setresgid setresuid setreuid
setrlimit setsid setsockopt setuid setxattr setxattrat shmat shmctl shmdt shmget shutdown sigaltstack signalfd
signalfd4 splice stat statfs statx symlink symlinkat sync sync_file_range syncfs sysinfo tee tgkill time timer_create
timer_delete timer_getoverrun timer_gettime timer_settime timerfd_create timerfd_gettime timerfd_settime times tkill
truncate umask uname unlink unlinkat utime utimensat utimes vfork vmsplice wait4 waitid write writev`

// missing are calls that programs probe for and fall back from: they are told
// that the kernel does not have them, for EPERM would be the end of it. clone3
// hides its flags behind a pointer, where no filter can see them.
const missing = `clone3 file_getattr file_setattr listmount listns lsm_get_self_attr lsm_list_modules
lsm_set_self_attr open_tree_attr statmount`

// namespaceFlags are the flags of clone(2) that make namespaces. CLONE_NEWTIME
// shares its bit with the exit signal and works in clone3 and unshare only.
const namespaceFlags = unix.CLONE_NEWNS | unix.CLONE_NEWCGROUP | unix.CLONE_NEWUTS | unix.CLONE_NEWIPC |
	unix.CLONE_NEWUSER | unix.CLONE_NEWPID | unix.CLONE_NEWNET

// low32 masks an argument that the kernel takes as an int: what is in the upper
// half of the register is noise, or an attempt to get past an exact comparison.
const low32 = 0xffffffff

// DefaultProfile is the filter of every container that brings none of its own:
// an allow-list for processes without capabilities, x86_64 or arm64 calls only
// (no 32-bit entry points). A refused call gets EPERM, one that is newer than
// the profile ENOSYS. The value is the caller's to change.
//
// Docker's default, which Podman and containerd share and runc is given, allows
// a container without capabilities all of it and more: ptrace and
// process_vm_readv and _writev among its own processes, modify_ldt, the
// personality UNAME26, sockets of all families but AF_ALG and AF_VSOCK, statmount
// and listmount, and 32-bit programs. TestStricterThanDocker holds the list.
func DefaultProfile() *specs.LinuxSeccomp {
	eperm, enosys := uint(unix.EPERM), uint(unix.ENOSYS)
	p := &specs.LinuxSeccomp{
		DefaultAction:   specs.ActErrno,
		DefaultErrnoRet: &eperm,
		Architectures:   []specs.Arch{specs.ArchX86_64, specs.ArchAARCH64},
		Syscalls: []specs.LinuxSyscall{
			{Names: strings.Fields(allowed), Action: specs.ActAllow},
			{Names: strings.Fields(missing), Action: specs.ActErrno, ErrnoRet: &enosys},
			allow("clone", masked(0, namespaceFlags, 0)),
			// The families that need no privilege; not AF_ALG, AF_VSOCK, AF_PACKET, AF_XDP, AF_RDS and the like.
			allow("socket", masked(0, low32, unix.AF_UNIX)),
			allow("socket", masked(0, low32, unix.AF_INET)),
			allow("socket", masked(0, low32, unix.AF_INET6)),
			allow("socketpair", masked(0, low32, unix.AF_UNIX)),
		},
	}
	// Not NETFILTER, XFRM, AUDIT, CRYPTO: they configure the kernel, which takes capabilities.
	for _, protocol := range []uint64{unix.NETLINK_ROUTE, unix.NETLINK_SOCK_DIAG, unix.NETLINK_KOBJECT_UEVENT, unix.NETLINK_GENERIC} {
		p.Syscalls = append(p.Syscalls, allow("socket", masked(0, low32, unix.AF_NETLINK), masked(2, low32, protocol)))
	}
	// PER_LINUX, PER_LINUX32 and "tell me"; not ADDR_NO_RANDOMIZE, READ_IMPLIES_EXEC and the other weakenings.
	for _, persona := range []uint64{0, 8, 0xffffffff} {
		p.Syscalls = append(p.Syscalls, allow("personality", masked(0, low32, persona)))
	}
	return p
}

// allow permits one call when all the conditions hold.
func allow(name string, conditions ...specs.LinuxSeccompArg) specs.LinuxSyscall {
	return specs.LinuxSyscall{Names: []string{name}, Action: specs.ActAllow, Args: conditions}
}

// masked holds when the argument has, under the mask, exactly the value.
func masked(index uint, mask, value uint64) specs.LinuxSeccompArg {
	return specs.LinuxSeccompArg{Index: index, Value: mask, ValueTwo: value, Op: specs.OpMaskedEqual}
}
