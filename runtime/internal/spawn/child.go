package spawn

import (
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"

	"tero.internal/runtime/internal/program"
)

// cloneArgs is struct clone_args of clone3(2).
type cloneArgs struct {
	Flags, Pidfd, ChildTid, ParentTid, ExitSignal, Stack, StackSize, TLS, SetTid, SetTidSize, Cgroup uint64
}

// child is all that the child of a clone touches, in its region: the parent's
// memory it does not have. It is laid out before, since the child may neither
// allocate nor grow its stack, and holds no pointers into the parent's heap.
type child struct {
	// gated says that the region has the first program already.
	gated bool
	gaps  [maxGaps][2]uint32
	// status is the child's end of the socket that gates, programs' files and
	// reports go through.
	status uintptr
	region *region
	slots  [program.Slots]uint64
	kept   uint32
	word   [1]byte
	report [program.ReportSize]byte
	sigset uint64
	// files are the descriptors that the running program refers to, in the place
	// where recvmsg puts them.
	files   rights
	vector  [2]uint64 // struct iovec of word
	message [7]uint64 // struct msghdr with vector and files
	pidfd   int32     // set by the kernel, in the parent
}

// rights is struct cmsghdr with the descriptors that follow it.
type rights struct {
	length      uint64
	level, kind int32
	fds         [maxFiles]int32
}

// stackKept is how much of the stack the child has on either side of where it is
// cloned, in bytes.
const stackKept = 4 * 4096

// maxGaps is how many ranges of descriptors there can be between those that a
// child keeps.
const maxGaps = 32

// maxFiles is how many descriptors one message can carry (SCM_MAX_FD).
const maxFiles = 253

// statusFD is the status socket's descriptor in a child. In the keeper it is the
// listener's, so no file of a program has it.
const statusFD = program.StatusFD

// point fills in what holds addresses of c itself.
func (c *child) point() {
	c.vector[0], c.vector[1] = uint64(uintptr(unsafe.Pointer(&c.word))), 1     //nolint:gosec // the address of a system call's result
	c.message[2], c.message[3] = uint64(uintptr(unsafe.Pointer(&c.vector))), 1 //nolint:gosec // the address of a system call's argument
	c.message[4] = uint64(uintptr(unsafe.Pointer(&c.files)))                   //nolint:gosec // the address of a system call's result
	c.message[5] = uint64(unsafe.Sizeof(c.files))
}

// clone makes a process that runs c, and gives its pid. In the child it does not
// return. The caller's signals must be blocked.
//
// This function and what it calls run in the child, which has none of this
// process's threads, and of its memory the code, the region and the piece of
// stack that is in use: no allocation, no write barrier, no stack growth, no
// race detector, only raw system calls.
//
//go:noinline
//go:norace
//go:nosplit
func clone(args *cloneArgs, c *child) (uintptr, syscall.Errno) {
	args.Pidfd = uint64(uintptr(unsafe.Pointer(&c.pidfd)))    //nolint:gosec // the address of a system call's result
	stack := uintptr(unsafe.Pointer(&args))&^4095 - stackKept //nolint:gosec // where the stack is
	_, _, _ = syscall.RawSyscall6(unix.SYS_MADVISE, stack, 2*stackKept, unix.MADV_DOFORK, 0, 0, 0)
	pid, _, errno := syscall.RawSyscall6(unix.SYS_CLONE3, uintptr(unsafe.Pointer(args)), unsafe.Sizeof(*args), 0, 0, 0, 0) //nolint:gosec // the address of a system call's argument
	if errno != 0 || pid != 0 {
		_, _, _ = syscall.RawSyscall6(unix.SYS_MADVISE, stack, 2*stackKept, unix.MADV_DONTFORK, 0, 0, 0)
		return pid, errno
	}
	run(c)
	for {
		_, _, _ = syscall.RawSyscall6(unix.SYS_EXIT_GROUP, 127, 0, 0, 0, 0, 0)
	}
}

// run closes the files that are not the child's, waits at the gate, runs the
// first program and reports; then it waits for the files of the second and runs
// that. It returns only on a failure, or when the keeper is gone.
//
//go:norace
//go:nosplit
func run(c *child) {
	for i := range c.gaps {
		if c.gaps[i][1] == 0 {
			break
		}
		_, _, _ = syscall.RawSyscall6(unix.SYS_CLOSE_RANGE, uintptr(c.gaps[i][0]), uintptr(c.gaps[i][1]), 0, 0, 0, 0)
	}
	_, _, _ = syscall.RawSyscall6(unix.SYS_RT_SIGPROCMASK, unix.SIG_SETMASK, uintptr(unsafe.Pointer(&c.sigset)), 0, 8, 0, 0) //nolint:gosec // the address of a system call's argument
	if c.status != statusFD {
		_, _, _ = syscall.RawSyscall6(unix.SYS_DUP3, c.status, statusFD, unix.O_CLOEXEC, 0, 0, 0)
		_, _, _ = syscall.RawSyscall6(unix.SYS_CLOSE, c.status, 0, 0, 0, 0, 0)
		c.status = statusFD
	}
	if c.gated {
		n, _, _ := syscall.RawSyscall6(unix.SYS_READ, c.status, uintptr(unsafe.Pointer(&c.word[0])), 1, 0, 0, 0) //nolint:gosec // the address of a system call's result
		code, data := c.region.program()
		if n != 1 || !execute(c, code, data) {
			return
		}
		tell(c, program.ReportReady, 0, 0)
	}
	c.kept = uint32(unix.ENOENT)
	n, _, _ := syscall.RawSyscall6(unix.SYS_RECVMSG, c.status, uintptr(unsafe.Pointer(&c.message)), unix.MSG_CMSG_CLOEXEC, 0, 0, 0) //nolint:gosec // the address of a system call's argument
	if n != 1 {
		return
	}
	code, data := c.region.program()
	execute(c, code, data)
}

// execute runs a program, and tells of a failure.
//
//go:norace
//go:nosplit
func execute(c *child, code []program.Instruction, data []byte) bool {
	for pc := 0; pc < len(code); pc++ {
		in := &code[pc]
		if in.Flags&(program.FlagStore|program.FlagFail|program.FlagSkip) != 0 {
			if in.Flags&program.FlagFail != 0 {
				tell(c, program.ReportFail, pc, c.kept)
				return false
			}
			if in.Flags&program.FlagStore != 0 {
				v, at := c.slots[in.Args[1]%program.Slots], in.Args[0]
				data[at], data[at+1], data[at+2], data[at+3] = byte(v), byte(v>>8), byte(v>>16), byte(v>>24) //nolint:gosec // its low bytes
			}
			pc += int(in.Jump)
			continue
		}
		errno := call(c, in)
		if errno == 0 {
			continue
		}
		if !tolerated(in, errno) {
			tell(c, program.ReportFail, pc, errno)
			return false
		}
		if in.Flags&program.FlagKeep != 0 && c.kept == uint32(unix.ENOENT) && errno != uint32(unix.ENOENT) && errno != uint32(unix.ENOTDIR) {
			c.kept = errno
		}
		pc += int(in.Jump)
	}
	return true
}

//go:norace
//go:nosplit
func call(c *child, in *program.Instruction) uint32 {
	var a [6]uintptr
	for k := range a {
		v := in.Args[k]
		switch in.Kinds[k] {
		case program.Slot:
			v = c.slots[v%program.Slots]
		case program.File:
			v = uint64(c.files.fds[v%maxFiles]) //nolint:gosec // an open descriptor is not negative
		}
		a[k] = uintptr(v)
	}
	r, _, errno := syscall.RawSyscall6(uintptr(in.Number), a[0], a[1], a[2], a[3], a[4], a[5])
	if errno != 0 {
		return uint32(errno) //nolint:gosec // error numbers are under 4096
	}
	if in.Out != program.NoOut {
		c.slots[in.Out%program.Slots] = uint64(r)
	}
	return 0
}

//go:norace
//go:nosplit
func tolerated(in *program.Instruction, errno uint32) bool {
	for k := range in.Tolerate {
		if in.Tolerate[k] != 0 && uint32(in.Tolerate[k]) == errno {
			return true
		}
	}
	return false
}

// tell reports.
//
//go:norace
//go:nosplit
func tell(c *child, kind uint32, pc int, errno uint32) {
	words := [3]uint32{kind, uint32(pc), errno} //nolint:gosec // an index
	for i := range words {
		for k := range 4 {
			c.report[4*i+k] = byte(words[i] >> (8 * k)) //nolint:gosec // one byte after the other
		}
	}
	_, _, _ = syscall.RawSyscall6(unix.SYS_SENDTO, c.status, uintptr(unsafe.Pointer(&c.report[0])), program.ReportSize, unix.MSG_NOSIGNAL, 0, 0) //nolint:gosec // the address of a system call's argument
}
