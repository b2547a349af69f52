package keeper

import (
	"fmt"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// sigaction is the kernel's struct sigaction of 64-bit Linux, as rt_sigaction
// takes it.
type sigaction struct {
	handler  uintptr
	flags    uint64
	restorer uintptr
	mask     uint64
}

const (
	sigIgnore  = 1 // SIG_IGN
	maxSignal  = 64
	sigsetSize = 8
)

// heedSignals sets every signal that this process was started to ignore back to
// its default, since containers inherit what their parent ignores: GNU make, for
// one, starts its children with signals 32 and 33 ignored, and Go's own
// signal package does not touch those.
func heedSignals() error {
	for sig := uintptr(1); sig <= maxSignal; sig++ {
		if sig == uintptr(unix.SIGKILL) || sig == uintptr(unix.SIGSTOP) {
			continue
		}
		var now sigaction
		if _, _, errno := syscall.RawSyscall6(unix.SYS_RT_SIGACTION, sig, 0, uintptr(unsafe.Pointer(&now)), sigsetSize, 0, 0); errno != 0 { //nolint:gosec // the kernel fills the struct
			return fmt.Errorf("look at signal %d: %w", sig, errno)
		}
		if now.handler != sigIgnore {
			continue
		}
		standard := sigaction{}
		if _, _, errno := syscall.RawSyscall6(unix.SYS_RT_SIGACTION, sig, uintptr(unsafe.Pointer(&standard)), 0, sigsetSize, 0, 0); errno != 0 { //nolint:gosec // the kernel reads it
			return fmt.Errorf("heed signal %d: %w", sig, errno)
		}
	}
	return nil
}
