package spawn

import (
	"errors"
	"os"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"tero.internal/runtime/internal/protocol"
)

// Wait waits for the end of a child and reaps it.
func Wait(pidfd *os.File) (protocol.Exit, error) {
	raw, err := pidfd.SyscallConn()
	if err != nil {
		return protocol.Exit{}, err
	}
	var info unix.Siginfo
	var waited error
	err = raw.Read(func(fd uintptr) bool {
		info = unix.Siginfo{}
		waited = unix.EINTR
		for errors.Is(waited, unix.EINTR) {
			waited = unix.Waitid(unix.P_PIDFD, int(fd), &info, unix.WEXITED|unix.WNOHANG, nil)
		}
		return waited != nil || info.Signo != 0
	})
	if err = errors.Join(err, waited); err != nil {
		return protocol.Exit{}, err
	}
	exit := protocol.Exit{At: time.Now().UnixNano()}
	status := *(*int32)(unsafe.Add(unsafe.Pointer(&info), siginfoStatus)) //nolint:gosec // x/sys has no field for it
	if info.Code == cldExited {
		exit.Code = status
	} else {
		exit.Code, exit.Signal = 128+status, status
	}
	return exit, nil
}

const (
	// siginfoStatus is the offset of si_status in siginfo_t of 64-bit Linux.
	siginfoStatus = 24
	// cldExited is CLD_EXITED.
	cldExited = 1
)

// Signal sends sig to the process of a pidfd; ESRCH when it is gone.
func Signal(pidfd *os.File, sig unix.Signal) error {
	raw, err := pidfd.SyscallConn()
	if err != nil {
		return err
	}
	var sent error
	err = raw.Control(func(fd uintptr) {
		sent = unix.PidfdSendSignal(int(fd), sig, nil, 0)
	})
	return errors.Join(err, sent)
}

// Control runs f with the file's descriptor.
func Control(file *os.File, f func(fd int) error) error {
	raw, err := file.SyscallConn()
	if err != nil {
		return err
	}
	var failed error
	err = raw.Control(func(fd uintptr) { failed = f(int(fd)) })
	return errors.Join(err, failed)
}
