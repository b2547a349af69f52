package keeper

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

// child is all that the child of a clone touches. It is laid out before, since
// the child may neither allocate nor grow its stack.
type child struct {
	code   []program.Instruction
	data   []byte
	gaps   [][2]uint32
	gate   uintptr
	status uintptr
	slots  [program.Slots]uint64
	kept   uint32
	word   [1]byte
	report [program.ReportSize]byte
	sigset uint64
	pidfd  int32 // set by the kernel, in the parent
}

// clone makes a process that runs c, and gives its pid. In the child it does not
// return. The caller's signals must be blocked.
//
// This function and what it calls run in the child with a copy of this
// process's memory but none of its other threads: no allocation, no write
// barrier, no stack growth, no race detector, only raw system calls.
//
//go:noinline
//go:norace
//go:nosplit
func clone(args *cloneArgs, c *child) (uintptr, syscall.Errno) {
	args.Pidfd = uint64(uintptr(unsafe.Pointer(&c.pidfd)))                                                                 //nolint:gosec // the address of a system call's result
	pid, _, errno := syscall.RawSyscall6(unix.SYS_CLONE3, uintptr(unsafe.Pointer(args)), unsafe.Sizeof(*args), 0, 0, 0, 0) //nolint:gosec // the address of a system call's argument
	if errno != 0 || pid != 0 {
		return pid, errno
	}
	run(c)
	for {
		_, _, _ = syscall.RawSyscall6(unix.SYS_EXIT_GROUP, 127, 0, 0, 0, 0, 0)
	}
}

// run closes the files that are not the child's, waits for the first gate and
// runs the program. It returns only on a failure.
//
//go:norace
//go:nosplit
func run(c *child) {
	for i := range c.gaps {
		_, _, _ = syscall.RawSyscall6(unix.SYS_CLOSE_RANGE, uintptr(c.gaps[i][0]), uintptr(c.gaps[i][1]), 0, 0, 0, 0)
	}
	_, _, _ = syscall.RawSyscall6(unix.SYS_RT_SIGPROCMASK, unix.SIG_SETMASK, uintptr(unsafe.Pointer(&c.sigset)), 0, 8, 0, 0) //nolint:gosec // the address of a system call's argument
	n, _, _ := syscall.RawSyscall6(unix.SYS_READ, c.gate, uintptr(unsafe.Pointer(&c.word[0])), 1, 0, 0, 0)                   //nolint:gosec // the address of a system call's result
	if n != 1 {
		return
	}
	for pc := 0; pc < len(c.code); pc++ {
		in := &c.code[pc]
		if in.Flags&(program.FlagStore|program.FlagFail|program.FlagSkip) != 0 {
			if in.Flags&program.FlagFail != 0 {
				fail(c, pc, c.kept)
				return
			}
			if in.Flags&program.FlagStore != 0 {
				v, at := c.slots[in.Args[1]%program.Slots], in.Args[0]
				c.data[at], c.data[at+1], c.data[at+2], c.data[at+3] = byte(v), byte(v>>8), byte(v>>16), byte(v>>24) //nolint:gosec // its low bytes
			}
			pc += int(in.Jump)
			continue
		}
		errno := call(c, in)
		if errno == 0 {
			continue
		}
		if errno == endOfFile {
			return
		}
		if !tolerated(in, errno) {
			fail(c, pc, errno)
			return
		}
		if in.Flags&program.FlagKeep != 0 && c.kept == uint32(unix.ENOENT) && errno != uint32(unix.ENOENT) && errno != uint32(unix.ENOTDIR) {
			c.kept = errno
		}
		pc += int(in.Jump)
	}
}

// endOfFile is call's word for a gate whose keeper is gone.
const endOfFile = ^uint32(0)

//go:norace
//go:nosplit
func call(c *child, in *program.Instruction) uint32 {
	var a [6]uintptr
	for k := range a {
		v := in.Args[k]
		if in.Kinds[k] == program.Slot {
			v = c.slots[v%program.Slots]
		}
		a[k] = uintptr(v)
	}
	r, _, errno := syscall.RawSyscall6(uintptr(in.Number), a[0], a[1], a[2], a[3], a[4], a[5])
	if errno != 0 {
		return uint32(errno) //nolint:gosec // error numbers are under 4096
	}
	if in.Flags&program.FlagEOF != 0 && r == 0 {
		return endOfFile
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

//go:norace
//go:nosplit
func fail(c *child, pc int, errno uint32) {
	words := [3]uint32{program.ReportFail, uint32(pc), errno} //nolint:gosec // an index
	for i := range words {
		for k := range 4 {
			c.report[4*i+k] = byte(words[i] >> (8 * k)) //nolint:gosec // one byte after the other
		}
	}
	_, _, _ = syscall.RawSyscall6(unix.SYS_WRITE, c.status, uintptr(unsafe.Pointer(&c.report[0])), program.ReportSize, 0, 0, 0) //nolint:gosec // the address of a system call's argument
}
