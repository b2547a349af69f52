package setup

import (
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"

	"tero.internal/common/fault"
)

// KernelHint tells which kernels have all that is needed; see docs/decisions on
// why there are no detours for older ones.
const KernelHint = "use Linux 5.19 or newer (6.1 and newer are tested), outside of a filter that hides its calls; \"tero doctor\" says what is missing"

// missingCalls gives the system calls that the class cannot do without and that
// are not there.
func missingCalls() []string {
	var missing []string
	for _, c := range []struct {
		name string
		call func() unix.Errno
	}{
		{"clone3", func() unix.Errno { // refused for its size before anything is made
			_, _, errno := unix.Syscall(unix.SYS_CLONE3, 0, 0, 0)
			return errno
		}},
		{"openat2", func() unix.Errno {
			_, _, errno := unix.Syscall6(unix.SYS_OPENAT2, 0, 0, 0, 0, 0, 0)
			return errno
		}},
		{"close_range", func() unix.Errno { // with its flag of 5.11, on descriptors that no process has
			_, _, errno := unix.Syscall(unix.SYS_CLOSE_RANGE, 1<<30, 1<<30, unix.CLOSE_RANGE_CLOEXEC)
			if errno == unix.EINVAL {
				return unix.ENOSYS
			}
			return errno
		}},
		{"mount_setattr", func() unix.Errno {
			_, _, errno := unix.Syscall6(unix.SYS_MOUNT_SETATTR, 0, 0, 0, 0, 0, 0)
			return errno
		}},
		{"seccomp", func() unix.Errno {
			action := uint32(unix.SECCOMP_RET_KILL_PROCESS)
			_, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_GET_ACTION_AVAIL, 0, uintptr(unsafe.Pointer(&action))) //nolint:gosec // seccomp(2) takes a pointer
			return errno
		}},
	} {
		if errno := c.call(); errno == unix.ENOSYS || errno == unix.EOPNOTSUPP {
			missing = append(missing, c.name)
		}
	}
	return missing
}

// CheckCalls refuses a kernel without the system calls that all containers need.
func CheckCalls() error {
	if missing := missingCalls(); missing != nil {
		return fault.New(fault.Unsupported, "this kernel cannot run containers of the native class: it has no %s", strings.Join(missing, ", ")).WithHint(KernelHint)
	}
	return nil
}
