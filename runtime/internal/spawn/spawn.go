// Package spawn clones processes that run programs of raw system calls: into new
// namespaces, or into those of a running container.
package spawn

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strconv"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"

	"tero.internal/runtime/internal/program"
	"tero.internal/runtime/internal/protocol"
)

// Spawner clones processes.
type Spawner struct {
	pidns int // this process's own pid namespace
	// cloning is held from when the stack that a child needs is shown to it until
	// it is hidden again: stacks of several clones may lie in the same pages.
	cloning sync.Mutex
	clones  int // guarded by cloning
}

// New gives a spawner.
func New() (*Spawner, error) {
	pidns, err := unix.Open("/proc/self/ns/pid", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open the pid namespace: %w", err)
	}
	return &Spawner{pidns: pidns}, nil
}

// Spec describes a process to clone.
type Spec struct {
	Flags uint64 // CLONE_NEW*
	// HostID is what id 0 of a new user namespace is outside, Size how many follow.
	HostID, Size uint32
	// Cgroup is the v2 folder to be born in, or -1.
	Cgroup int
	// Init is the pidfd of the container to join, or -1.
	Init int
	// Program is what the process runs first, with its Files; nil for nothing.
	Program *program.Program
	Files   []int
}

// Process is a process that waits for the program that finishes it, or executes.
type Process struct {
	PID    int
	Pidfd  *os.File
	status *os.File // gates and files in, reports out, and the end of file on exec
	region *region
}

// Close closes what belongs to the process, which may run on.
func (p *Process) Close() {
	_ = p.Pidfd.Close()
	p.Settle()
}

// Settle closes what only setting up needs.
func (p *Process) Settle() {
	_ = p.status.Close()
	if p.region != nil {
		p.region.unmap()
		p.region = nil
	}
}

// Settled tells whether the process has had its second program.
func (p *Process) Settled() bool { return p.region == nil }

// StepError is a failed instruction.
type StepError struct {
	At    uint32
	Errno unix.Errno
}

func (e *StepError) Error() string { return fmt.Sprintf("step %d: %v", e.At, e.Errno) }

// CloneError is a failed clone3.
type CloneError struct{ Errno unix.Errno }

func (e *CloneError) Error() string { return "clone3: " + e.Errno.Error() }

// ErrDied is a child that ended without a report.
var ErrDied = errors.New("the process was killed while it was being set up")

// Start clones a process, and waits until it has run its first program.
func (s *Spawner) Start(spec *Spec) (_ *Process, err error) {
	status, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("socketpair", err)
	}
	p := &Process{}
	if p.region, err = newRegion(); err != nil {
		protocol.CloseAll(status[:])
		return nil, err
	}
	pidfd := -1
	if err = p.region.lay(spec, status[1]); err == nil {
		p.PID, pidfd, err = s.clone(spec, &p.region.child)
	}
	protocol.CloseAll(status[1:]) // so that the death of the child is the end of the file
	if err != nil {
		protocol.CloseAll(status[:1])
		p.region.unmap()
		return nil, err
	}
	p.Pidfd, p.status = Pollable(pidfd, "pidfd"), Pollable(status[0], "status")
	if err = p.region.hide(); err == nil && spec.Flags&unix.CLONE_NEWUSER != 0 {
		err = writeMaps(p.PID, spec.HostID, spec.Size)
	}
	if err == nil && spec.Program != nil {
		err = p.first()
	}
	if err != nil {
		p.Kill()
		return nil, err
	}
	return p, nil
}

// clone calls clone3 on a thread whose children go into the container's pid
// namespace, if one is to be joined.
func (s *Spawner) clone(spec *Spec, c *child) (pid, pidfd int, err error) {
	args := &cloneArgs{
		Flags:      spec.Flags | unix.CLONE_PIDFD | unix.CLONE_CLEAR_SIGHAND,
		ExitSignal: uint64(unix.SIGCHLD),
	}
	if spec.Cgroup >= 0 {
		args.Flags |= unix.CLONE_INTO_CGROUP
		args.Cgroup = uint64(spec.Cgroup)
	}
	runtime.LockOSThread()
	if spec.Init >= 0 {
		if err := unix.Setns(spec.Init, unix.CLONE_NEWPID); err != nil {
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
	s.cloning.Lock()
	s.hideMemory()
	r, errno := clone(args, c)
	s.cloning.Unlock()
	if err := unix.PthreadSigmask(unix.SIG_SETMASK, &old, nil); err != nil {
		return 0, 0, os.NewSyscallError("sigmask", err)
	}
	if spec.Init >= 0 {
		if err := unix.Setns(s.pidns, unix.CLONE_NEWPID); err != nil {
			return 0, 0, os.NewSyscallError("setns back", err)
		}
	}
	runtime.UnlockOSThread()
	if errno != 0 {
		return 0, 0, &CloneError{errno}
	}
	return int(r), int(c.pidfd), nil
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

// first opens the gate of the first program and waits for its end.
func (p *Process) first() error {
	if err := protocol.Send(p.status, []byte{1}, nil); err != nil {
		return ErrDied
	}
	ready, _, err := p.report()
	if err == nil && !ready {
		err = ErrDied
	}
	return err
}

// Finish hands over the second program with its files, and waits until it
// executes the payload. It gives the terminal that the program sent, or -1.
func (p *Process) Finish(prog *program.Program, files []int, stdio []int, init int) (terminal int, err error) {
	own := [program.OwnFiles]int{-1, -1, -1, -1, -1}
	all := slices.Clone(files)
	for i, fd := range stdio {
		own[program.OwnStdin+i] = len(all)
		all = append(all, fd)
	}
	if init >= 0 {
		own[program.OwnInit] = len(all)
		all = append(all, init)
	}
	if len(all) > maxFiles {
		return -1, fmt.Errorf("%d files are more than the %d that a process can be sent", len(all), maxFiles)
	}
	if err := p.region.put(prog, statusFD, own); err != nil {
		return -1, err
	}
	if err := protocol.Send(p.status, []byte{1}, all); err != nil {
		return -1, ErrDied
	}
	terminal = -1
	for {
		sent, file, err := p.report()
		if err == nil && sent && (file < 0 || terminal >= 0) {
			err = errors.New("a report that nobody asked for")
		}
		if err != nil {
			protocol.CloseAll(slices.DeleteFunc([]int{file, terminal}, func(fd int) bool { return fd < 0 }))
			return -1, err
		}
		if !sent { // the end of file: the exec, or the death before
			return terminal, nil
		}
		terminal = file
	}
}

// Raise raises the hard limits that are to be above the keeper's own, which the
// process itself may not; its program then sets them all.
func (p *Process) Raise(limits []protocol.Rlimit) error {
	for _, l := range limits {
		var now unix.Rlimit
		if err := unix.Prlimit(p.PID, int(l.Resource), nil, &now); err != nil {
			return fmt.Errorf("look at resource limit %d: %w", l.Resource, err)
		}
		if l.Hard <= now.Max {
			continue
		}
		if err := unix.Prlimit(p.PID, int(l.Resource), &unix.Rlimit{Cur: now.Cur, Max: l.Hard}, nil); err != nil {
			return fmt.Errorf("raise resource limit %d: %w", l.Resource, err)
		}
	}
	return nil
}

// report waits for the child's word: that it is ready, with the file that it
// may have sent, or that it has failed; ready is false at the end of file.
func (p *Process) report() (ready bool, file int, err error) {
	var buf [64]byte
	n, files, err := protocol.Receive(p.status, buf[:])
	if errors.Is(err, unix.ECONNRESET) { // it ended before it read what it was sent
		return false, -1, nil
	}
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
		err = &StepError{r.At, r.Errno}
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

// Kill ends a process that was not handed out yet, and waits for its end.
func (p *Process) Kill() {
	_ = Signal(p.Pidfd, unix.SIGKILL)
	_, _ = Wait(p.Pidfd)
	p.Close()
}

// hideMemory keeps this process's memory from the children that are cloned from
// now on: they do not touch it, each page of it would have to be copied when it
// is written to next, and its tables at each clone. What the Go runtime maps later
// is hidden a few clones later. The caller holds cloning.
func (s *Spawner) hideMemory() {
	const often = 16
	if s.clones++; s.clones%often != 1 {
		return
	}
	spans, err := private()
	if err != nil {
		return // then they are copied
	}
	for _, m := range spans {
		_, _, _ = syscall.RawSyscall6(unix.SYS_MADVISE, m.start, m.end-m.start, unix.MADV_DONTFORK, 0, 0, 0)
	}
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

// Pollable gives a file that goroutines can wait on.
func Pollable(fd int, name string) *os.File {
	_ = unix.SetNonblock(fd, true)
	return os.NewFile(uintptr(fd), name)
}
