package keeperclient

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"

	"tero.internal/common/fault"
)

// The keeper's files in RunDir.
const (
	LogFile  = "keeper.log"
	LockFile = "keeper.lock"
)

// Connect gives a connection to the running keeper of runDir, or to one that it
// starts from the binary at initPath; started is the pid of the latter, else 0.
func Connect(ctx context.Context, runDir, initPath string) (_ *Client, started int, err error) {
	lock, err := os.OpenFile(filepath.Join(runDir, LockFile), os.O_CREATE|os.O_RDWR|unix.O_CLOEXEC, 0o600) //nolint:gosec // the node's own folder
	if err != nil {
		return nil, 0, fmt.Errorf("lock the keeper: %w", err)
	}
	defer func() { _ = lock.Close() }() // unlocks
	if err := Control(lock, func(fd int) error { return IgnoringEINTR(func() error { return unix.Flock(fd, unix.LOCK_EX) }) }); err != nil {
		return nil, 0, fmt.Errorf("lock the keeper: %w", err)
	}
	c, err := Dial(ctx, runDir)
	if !errors.Is(err, unix.ECONNREFUSED) && !errors.Is(err, unix.ENOENT) {
		return c, 0, err
	}
	pid, err := start(ctx, runDir, initPath)
	if err != nil {
		return nil, 0, err
	}
	if c, err = Dial(ctx, runDir); err != nil {
		return nil, 0, fault.New(fault.Internal, "the keeper did not start: %w", err).
			WithHint("see %s", filepath.Join(runDir, LogFile))
	}
	return c, pid, nil
}

// IgnoringEINTR calls f until no signal interrupts it.
func IgnoringEINTR(f func() error) error {
	for {
		if err := f(); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

// start starts tero-init as the keeper, in a session of its own, from a
// sealed copy in memory: nothing that a container could ever open is the file
// on disk (CVE-2019-5736), and replacing the file does not touch the running one.
func start(ctx context.Context, runDir, initPath string) (pid int, err error) {
	listener, err := listen(runDir)
	if err != nil {
		return 0, err
	}
	defer func() { _ = listener.Close() }()
	image, err := sealed(initPath)
	if err != nil {
		return 0, fault.New(fault.Unavailable, "cannot use the init binary %s: %w", initPath, err).
			WithHint("build it with \"make build\", or name it in the configuration (initPath)")
	}
	defer func() { _ = image.Close() }()
	log, err := os.OpenFile(filepath.Join(runDir, LogFile), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600) //nolint:gosec // the node's own folder
	if err != nil {
		return 0, fmt.Errorf("open the keeper's log: %w", err)
	}
	defer func() { _ = log.Close() }()
	var path string
	if err := Control(image, func(fd int) error {
		path = fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), fd)
		return nil
	}); err != nil {
		return 0, err
	}
	cmd := exec.CommandContext(context.WithoutCancel(ctx), path, "keeper") //nolint:gosec // our own sealed copy
	cmd.Args[0] = "tero-init"
	// Each page of the keeper's heap is one to copy in each clone, and to free at each exec.
	cmd.Env = []string{"GOGC=20"}
	cmd.Stdout, cmd.Stderr = log, log
	cmd.ExtraFiles = []*os.File{listener}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return 0, fmt.Errorf("start the keeper: %w", err)
	}
	pid = cmd.Process.Pid
	return pid, cmd.Process.Release()
}

// listen makes the keeper's socket, in place of one that nobody serves.
func listen(runDir string) (*os.File, error) {
	if err := os.Remove(filepath.Join(runDir, SocketFile)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("replace the keeper's socket: %w", err)
	}
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	listener := os.NewFile(uintptr(fd), SocketFile)
	err = unix.Fchmod(fd, 0o600) // the mode that bind gives the name
	if err == nil {
		err = AtSocket(runDir, func(address *unix.SockaddrUnix) error { return unix.Bind(fd, address) })
	}
	if err == nil {
		err = unix.Listen(fd, 16)
	}
	if err != nil {
		_ = listener.Close()
		return nil, fmt.Errorf("make the keeper's socket: %w", err)
	}
	return listener, nil
}

// sealed gives a copy of a file in memory that nobody can change.
func sealed(path string) (_ *os.File, err error) {
	source, err := os.Open(path) //nolint:gosec // the operator's configuration
	if err != nil {
		return nil, err
	}
	defer func() { _ = source.Close() }()
	fd, err := unix.MemfdCreate("tero-init", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING|unix.MFD_EXEC)
	if errors.Is(err, unix.EINVAL) { // kernels before 6.3 lack MFD_EXEC, and need none
		fd, err = unix.MemfdCreate("tero-init", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	}
	if err != nil {
		return nil, os.NewSyscallError("memfd_create", err)
	}
	f := os.NewFile(uintptr(fd), "tero-init")
	if _, err = io.Copy(f, source); err == nil {
		_, err = unix.FcntlInt(uintptr(fd), unix.F_ADD_SEALS, unix.F_SEAL_SEAL|unix.F_SEAL_SHRINK|unix.F_SEAL_GROW|unix.F_SEAL_WRITE)
	}
	if err != nil {
		_ = f.Close()
		return nil, err
	}
	return f, nil
}

// Control runs f with a file's descriptor.
func Control(file *os.File, f func(fd int) error) error {
	raw, err := file.SyscallConn()
	if err != nil {
		return err
	}
	var failed error
	err = raw.Control(func(fd uintptr) { failed = f(int(fd)) })
	return errors.Join(err, failed)
}
