package main

import (
	"fmt"
	"syscall"
	"unsafe"
)

// size gives the rows and columns of the terminal.
func size() string {
	var w [4]uint16
	_, _, e := syscall.RawSyscall(syscall.SYS_IOCTL, 0, syscall.TIOCGWINSZ, uintptr(unsafe.Pointer(&w)))
	if e != 0 {
		return e.Error()
	}
	return fmt.Sprint(w[0], "x", w[1])
}
