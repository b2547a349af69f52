package seccomp

import (
	"cmp"
	"slices"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

//go:generate go run ./gencalls

// abi is a set of system call numbers and the way that arguments are passed.
type abi int

// The ABIs that a kernel of ours can have, in the order of the table of calls.
const (
	x8664 abi = iota
	x86
	x32
	aarch64
	arm
	abiCount = 5
)

// x32Bit marks the calls of x32, which share x86_64's audit architecture.
const x32Bit = 0x40000000

// call is a system call: its name, and its number on each ABI or -1.
type call struct {
	name string
	nr   [abiCount]int64
}

// findCall looks a name up in the generated table, which is sorted.
func findCall(name string) (call, bool) {
	i, ok := slices.BinarySearchFunc(calls[:], name, func(c call, n string) int { return cmp.Compare(c.name, n) })
	if !ok {
		return call{}, false
	}
	return calls[i], true
}

// audit gives the architecture as the kernel tells it to filters.
func (a abi) audit() uint32 {
	return [abiCount]uint32{
		unix.AUDIT_ARCH_X86_64, unix.AUDIT_ARCH_I386, unix.AUDIT_ARCH_X86_64, unix.AUDIT_ARCH_AARCH64, unix.AUDIT_ARCH_ARM,
	}[a]
}

// settled is the last number that Linux 4.20 had: whatever lies above it is
// new enough that programs must expect a kernel without it.
func (a abi) settled() int64 {
	return [abiCount]int64{334, 386, x32Bit | 547, 293, 401}[a]
}

// narrow tells whether arguments are 32 bits wide.
func (a abi) narrow() bool { return a == x86 || a == arm }

// parseArch gives the ABI of an OCI architecture, if it is one of ours.
func parseArch(arch specs.Arch) (abi, bool) {
	switch arch {
	case specs.ArchX86_64:
		return x8664, true
	case specs.ArchX86:
		return x86, true
	case specs.ArchX32:
		return x32, true
	case specs.ArchAARCH64:
		return aarch64, true
	case specs.ArchARM:
		return arm, true
	}
	return 0, false
}

// runsOn tells whether a kernel of the native ABI can run programs of a.
func (a abi) runsOn(native abi) bool {
	if native == x8664 {
		return a == x8664 || a == x86 || a == x32
	}
	return a == aarch64 || a == arm
}

// multiplexed are the calls that x86 also, or only, has behind socketcall(2)
// and ipc(2): the first argument of those says which is meant.
func multiplexed(name string) (via string, number uint64) {
	for i, n := range []string{
		"socket", "bind", "connect", "listen", "accept", "getsockname", "getpeername", "socketpair", "send", "recv",
		"sendto", "recvfrom", "shutdown", "setsockopt", "getsockopt", "sendmsg", "recvmsg", "accept4", "recvmmsg", "sendmmsg",
	} {
		if n == name {
			return "socketcall", uint64(i + 1)
		}
	}
	switch name {
	case "semop":
		return "ipc", 1
	case "semget":
		return "ipc", 2
	case "semctl":
		return "ipc", 3
	case "semtimedop":
		return "ipc", 4
	case "msgsnd":
		return "ipc", 11
	case "msgrcv":
		return "ipc", 12
	case "msgget":
		return "ipc", 13
	case "msgctl":
		return "ipc", 14
	case "shmat":
		return "ipc", 21
	case "shmdt":
		return "ipc", 22
	case "shmget":
		return "ipc", 23
	case "shmctl":
		return "ipc", 24
	}
	return "", 0
}
