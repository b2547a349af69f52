package keeper

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strconv"
	"unsafe"

	"golang.org/x/sys/unix"

	"tero.internal/runtime/internal/program"
	"tero.internal/runtime/internal/protocol"
)

// spawn describes a process to clone.
type spawn struct {
	req   *protocol.Request
	files []int
	// stdio are the child's standard streams; -1 for a terminal's.
	stdio [3]int
	// init is the pidfd of the container to join, or -1.
	init int
}

// spawned is a process that waits at its first gate, or later.
type spawned struct {
	pid    int
	pidfd  *os.File
	gate   *os.File // a byte opens the next gate
	status *os.File // reports, and the end of file on exec
}

func (p *spawned) close() {
	_ = p.gate.Close()
	_ = p.status.Close()
	_ = p.pidfd.Close()
}

// stepError is a failed instruction.
type stepError struct {
	at    uint32
	errno unix.Errno
}

func (e *stepError) Error() string { return fmt.Sprintf("step %d: %v", e.at, e.errno) }

// cloneError is a failed clone3.
type cloneError struct{ errno unix.Errno }

func (e *cloneError) Error() string { return "clone3: " + e.errno.Error() }

// errDied is a child that ended without a report.
var errDied = errors.New("the process was killed while it was being set up")

// start clones the process; it waits at the first gate.
func (k *Keeper) start(s *spawn) (_ *spawned, err error) {
	encoded, err := readProgram(s.files[s.req.Program])
	if err != nil {
		return nil, err
	}
	prog, err := program.Decode(encoded, len(s.files))
	if err != nil {
		return nil, err
	}
	gate, err := pipe()
	if err != nil {
		return nil, err
	}
	status, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		protocol.CloseAll(gate[:])
		return nil, os.NewSyscallError("socketpair", err)
	}
	defer protocol.CloseAll([]int{gate[0], status[1]})
	keep := []int{gate[0], status[1]}
	own := [program.OwnFiles]int{gate[0], status[1], s.stdio[0], s.stdio[1], s.stdio[2], s.init}
	for i, fd := range s.files {
		if prog.Refers(i) {
			keep = append(keep, fd)
		}
	}
	keep = append(keep, own[program.OwnStdin:]...)
	c := &child{
		data: prog.Data, gaps: gaps(keep), kept: uint32(unix.ENOENT),
		gate: uintptr(gate[0]), status: uintptr(status[1]),
	}
	prog.Link(uintptr(unsafe.Pointer(unsafe.SliceData(prog.Data))), s.files, own) //nolint:gosec // heap memory does not move
	c.code = prog.Code
	pid, pidfd, err := k.clone(s, c)
	if err != nil {
		protocol.CloseAll([]int{gate[1], status[0]})
		return nil, err
	}
	p := &spawned{
		pid: pid, pidfd: pollable(pidfd, "pidfd"),
		gate: os.NewFile(uintptr(gate[1]), "gate"), status: pollable(status[0], "status"),
	}
	if err := k.prepare(s.req, pid); err != nil {
		p.kill()
		return nil, err
	}
	return p, nil
}

// clone calls clone3 on a thread whose children go into the container's pid
// namespace, if one is to be joined.
func (k *Keeper) clone(s *spawn, c *child) (pid, pidfd int, err error) {
	args := &cloneArgs{
		Flags:      s.req.CloneFlags | unix.CLONE_PIDFD | unix.CLONE_CLEAR_SIGHAND,
		ExitSignal: uint64(unix.SIGCHLD),
	}
	if i := s.req.Cgroup; i != protocol.None {
		args.Flags |= unix.CLONE_INTO_CGROUP
		args.Cgroup = uint64(s.files[i]) //nolint:gosec // an open descriptor
	}
	runtime.LockOSThread()
	if s.init >= 0 {
		if err := unix.Setns(s.init, unix.CLONE_NEWPID); err != nil {
			runtime.UnlockOSThread()
			return 0, 0, os.NewSyscallError("setns", err)
		}
	}
	var all, old unix.Sigset_t
	for i := range all.Val {
		all.Val[i] = ^all.Val[i]
	}
	if err := unix.PthreadSigmask(unix.SIG_SETMASK, &all, &old); err != nil {
		return 0, 0, os.NewSyscallError("sigmask", err) // the thread stays locked and ends with its goroutine
	}
	r, errno := clone(args, c)
	runtime.KeepAlive(c)
	if err := unix.PthreadSigmask(unix.SIG_SETMASK, &old, nil); err != nil {
		return 0, 0, os.NewSyscallError("sigmask", err)
	}
	if s.init >= 0 {
		if err := unix.Setns(k.pidns, unix.CLONE_NEWPID); err != nil {
			return 0, 0, os.NewSyscallError("setns back", err)
		}
	}
	runtime.UnlockOSThread()
	if errno != 0 {
		return 0, 0, &cloneError{errno}
	}
	return int(r), int(c.pidfd), nil
}

// prepare does what a child cannot do itself, and opens its first gate.
func (k *Keeper) prepare(req *protocol.Request, pid int) error {
	if req.CloneFlags&unix.CLONE_NEWUSER != 0 {
		if err := writeMaps(pid, req.HostID, req.Size); err != nil {
			return err
		}
	}
	for _, l := range req.Rlimits {
		limit := unix.Rlimit{Cur: l.Soft, Max: l.Hard}
		if err := unix.Prlimit(pid, int(l.Resource), &limit, nil); err != nil {
			return fmt.Errorf("set resource limit %d: %w", l.Resource, err)
		}
	}
	return nil
}

func writeMaps(pid int, host, size uint32) error {
	line := "0 " + strconv.FormatUint(uint64(host), 10) + " " + strconv.FormatUint(uint64(size), 10)
	for _, name := range []string{"uid_map", "gid_map"} {
		if err := os.WriteFile("/proc/"+strconv.Itoa(pid)+"/"+name, []byte(line), 0); err != nil {
			return err
		}
	}
	return nil
}

// open opens the next gate.
func (p *spawned) open() error {
	_, err := p.gate.Write([]byte{1})
	return err
}

// report waits for the child's word: ready, with the terminal that it may have
// sent, or nil at the end of file, which is the exec.
func (p *spawned) report() (ready bool, terminal int, err error) {
	var buf [64]byte
	n, files, err := protocol.Receive(p.status, buf[:])
	if err != nil {
		return false, -1, err
	}
	if n == 0 {
		protocol.CloseAll(files)
		return false, -1, nil
	}
	r, err := program.ParseReport(buf[:n])
	switch {
	case err != nil:
	case !r.Ready:
		err = &stepError{r.At, r.Errno}
	case len(files) == 1:
		return true, files[0], nil
	case len(files) == 0:
		return true, -1, nil
	default:
		err = errors.New("more files than one with a report")
	}
	protocol.CloseAll(files)
	return false, -1, err
}

// kill ends a process that was not handed out yet, and waits for its end.
func (p *spawned) kill() {
	_ = signal(p.pidfd, unix.SIGKILL)
	_, _ = wait(p.pidfd)
	p.close()
}

// gaps gives the ranges of descriptors from 3 that are not in keep.
func gaps(keep []int) [][2]uint32 {
	slices.Sort(keep)
	var list [][2]uint32
	next := uint32(3)
	for _, fd := range keep {
		if fd < 0 || uint32(fd) < next { //nolint:gosec // a descriptor
			continue
		}
		if uint32(fd) > next { //nolint:gosec // a descriptor
			list = append(list, [2]uint32{next, uint32(fd) - 1}) //nolint:gosec // a descriptor
		}
		next = uint32(fd) + 1 //nolint:gosec // a descriptor
	}
	return append(list, [2]uint32{next, ^uint32(0)})
}

// readProgram reads a whole memory file.
func readProgram(fd int) ([]byte, error) {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return nil, os.NewSyscallError("fstat", err)
	}
	if st.Size <= 0 || st.Size > program.MaxSize {
		return nil, fmt.Errorf("program of %d bytes", st.Size)
	}
	b := make([]byte, st.Size)
	for at := 0; at < len(b); {
		n, err := unix.Pread(fd, b[at:], int64(at))
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil || n == 0 {
			return nil, fmt.Errorf("read program at %d: %w", at, err)
		}
		at += n
	}
	return b, nil
}

// pipe gives a pipe whose ends both block.
func pipe() ([2]int, error) {
	var p [2]int
	if err := unix.Pipe2(p[:], unix.O_CLOEXEC); err != nil {
		return p, os.NewSyscallError("pipe2", err)
	}
	return p, nil
}

// pollable gives a file that goroutines can wait on.
func pollable(fd int, name string) *os.File {
	_ = unix.SetNonblock(fd, true)
	return os.NewFile(uintptr(fd), name)
}
