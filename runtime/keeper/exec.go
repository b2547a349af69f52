package keeper

import (
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"tero.internal/runtime/internal/protocol"
	"tero.internal/runtime/internal/spawn"
)

// exec clones a process into a running container. It gives its terminal, or -1.
func (k *Keeper) exec(conn *os.File, req *protocol.Request, r *protocol.Reply, files []int) (terminal int, err error) {
	k.mu.Lock()
	c := k.containers[req.ID]
	k.mu.Unlock()
	if c == nil {
		return -1, errUnknown
	}
	if c.status().Phase != protocol.Running {
		return -1, errPhase
	}
	prog, err := readProgram(req, files)
	if err != nil {
		return -1, err
	}
	if len(files) < int(req.Program)+1 || req.Flags&protocol.FlagStdio != 0 && len(files) < int(req.Program)+4 {
		return -1, fmt.Errorf("%w: a file is missing", protocol.ErrMalformed)
	}
	s := &spawn.Spec{Cgroup: -1}
	if req.Cgroup != protocol.None {
		s.Cgroup = files[req.Cgroup]
	}
	var stdio []int
	if req.Flags&protocol.FlagStdio != 0 {
		stdio = files[len(files)-3:]
	}
	var proc *spawn.Process
	terminal = -1
	err = spawn.Control(c.proc.Pidfd, func(fd int) (err error) {
		s.Init = fd
		if proc, err = k.spawner.Start(s); err == nil {
			err = proc.Raise(req.Rlimits)
		}
		if err == nil {
			terminal, err = proc.Finish(prog, files[:req.Program], stdio, fd)
		}
		return err
	})
	if err == nil && terminal >= 0 {
		if err = checkTerminal(terminal); err == nil {
			err = unix.SetNonblock(terminal, true)
		}
	}
	if err != nil {
		if terminal >= 0 {
			_ = unix.Close(terminal)
		}
		if proc != nil {
			proc.Kill()
		}
		return -1, err
	}
	proc.Settle()
	k.keep(&process{container: req.ID, conn: conn, proc: proc, ended: make(chan struct{})}, r)
	return terminal, nil
}

// keep takes note of a process that executes, and waits for its end.
func (k *Keeper) keep(p *process, r *protocol.Reply) {
	k.mu.Lock()
	k.lastToken++
	r.Token, r.PID = k.lastToken, int32(p.proc.PID) //nolint:gosec // a pid
	k.processes[r.Token] = p
	if k.conn != p.conn { // who asked has gone meanwhile
		k.abandon(r.Token, p)
	}
	k.mu.Unlock()
	k.wg.Go(func() {
		exit, err := spawn.Wait(p.proc.Pidfd)
		if err != nil {
			k.log.Print("wait for a process of ", p.container, ": ", err)
			exit = protocol.Exit{Code: 255, At: time.Now().UnixNano()}
		}
		p.exit = exit
		close(p.ended)
	})
}

// abandon kills a process that nobody will ask for any more, and forgets it
// when it has ended. The caller holds mu.
func (k *Keeper) abandon(token uint32, p *process) {
	_ = spawn.Signal(p.proc.Pidfd, unix.SIGKILL)
	delete(k.processes, token)
	k.wg.Go(func() {
		<-p.ended
		_ = p.proc.Pidfd.Close()
	})
}

// checkTerminal makes sure that what a container gave as a terminal is one, and
// not a file that somebody inside put in its place.
func checkTerminal(fd int) error {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFCHR || st.Rdev != unix.Mkdev(5, 2) {
		return errors.New("the container's /dev/ptmx is not a terminal multiplexer")
	}
	_, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	return err
}

// handleProcess serves requests for a process of OpExec.
func (k *Keeper) handleProcess(req *protocol.Request, r *protocol.Reply) error {
	k.mu.Lock()
	p := k.processes[req.Token]
	k.mu.Unlock()
	if p == nil {
		return errUnknown
	}
	switch req.Op {
	case protocol.OpSignal:
		return spawn.Signal(p.proc.Pidfd, unix.Signal(req.Number))
	case protocol.OpWait:
		<-p.ended
		r.Exit = p.exit
		k.mu.Lock()
		delete(k.processes, req.Token)
		k.mu.Unlock()
		_ = p.proc.Pidfd.Close()
		return nil
	}
	return fmt.Errorf("%w: request %d", protocol.ErrMalformed, req.Op)
}
