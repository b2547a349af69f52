package keeper

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"tero.internal/runtime/internal/crilog"
	"tero.internal/runtime/internal/protocol"
	"tero.internal/runtime/internal/spawn"
)

// The files of a container's folder that the keeper writes; LogFile is the log's first.
const (
	LogFile  = "log"
	ExitFile = "exit.json"
	// ExitDraft becomes ExitFile when it is whole; it may be there before.
	ExitDraft = "." + ExitFile
)

// container is a container from OpPrepare to OpForget.
type container struct {
	proc  *spawn.Process
	netns *os.File
	// mntns is held so that the end of the process does not wait until all is
	// unmounted, which takes a grace period of the kernel.
	mntns  *os.File
	folder *os.File
	oom    *os.File // nil when kills for lack of memory cannot be counted
	log    *output
	// ended is closed when exit is valid and recorded.
	ended chan struct{}
	// beginning is held while the process becomes a container, and by who
	// writes of its end.
	beginning sync.Mutex
	forgotten sync.Once

	mu sync.Mutex // guards what follows
	id string
	// stdin is the write end of standard input, or nil; terminal the master of
	// the pseudo-terminal, or nil; sources what the pumps read.
	stdin    *os.File
	terminal *os.File
	sources  []*os.File
	phase    protocol.Phase
	exit     protocol.Exit
}

func (c *container) status() protocol.Status {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := protocol.Status{ID: c.id, Phase: c.phase, PID: int32(c.proc.PID), Exit: c.exit} //nolint:gosec // a pid
	if s.Phase == protocol.Exited {
		s.PID = 0
	}
	return s
}

// prepare clones a process and waits until it is prepared. It gives the file of
// its user namespace.
func (k *Keeper) prepare(req *protocol.Request, files []int) (_ *container, userNS int, err error) {
	prog, err := readProgram(req, files)
	if err != nil {
		return nil, -1, err
	}
	c := &container{
		id: req.ID, phase: protocol.Prepared, ended: make(chan struct{}),
		log: &output{abandon: make(chan struct{}), ending: make(chan struct{})},
	}
	defer func() {
		if err != nil {
			c.closeFiles()
		}
	}()
	if req.OOM != protocol.None {
		oom, err := dup(files[req.OOM])
		if err != nil {
			return nil, -1, err
		}
		c.oom = os.NewFile(uintptr(oom), "oom")
	}
	s := &spawn.Spec{
		Flags: req.CloneFlags, HostID: req.HostID, Size: req.Size, Cgroup: -1, Init: -1,
		Program: prog, Files: files[:req.Program],
	}
	if req.Cgroup != protocol.None {
		s.Cgroup = files[req.Cgroup]
	}
	if c.proc, err = k.spawner.Start(s); err != nil {
		return nil, -1, err
	}
	namespaces := "/proc/" + strconv.Itoa(c.proc.PID) + "/ns/"
	c.netns, err = os.Open(namespaces + "net") //nolint:gosec // of a child
	if err == nil {
		c.mntns, err = os.Open(namespaces + "mnt") //nolint:gosec // as above
	}
	if err == nil {
		userNS, err = unix.Open(namespaces+"user", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	}
	if err != nil {
		c.proc.Kill()
		return nil, -1, err
	}
	k.wg.Go(func() { k.watch(c) })
	return c, userNS, nil
}

// open opens what the container needs in its folder.
func (c *container) open(req *protocol.Request, files []int) error {
	if req.Folder == protocol.None {
		return fmt.Errorf("%w: the folder is missing", protocol.ErrMalformed)
	}
	folder, err := dup(files[req.Folder])
	if err != nil {
		return err
	}
	c.folder = os.NewFile(uintptr(folder), "folder")
	c.log.log, err = openLog(c.folder, req.LogSize, int(req.LogFiles))
	return err
}

// stdio makes the standard streams, and gives the child's ends.
func (c *container) stdio(req *protocol.Request) (theirs []int, err error) {
	if req.Flags&protocol.FlagTerminal != 0 {
		return nil, nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if req.Flags&protocol.FlagInput != 0 {
		p, err := pipe()
		if err != nil {
			return nil, err
		}
		theirs = append(theirs, p[0])
		c.stdin = spawn.Pollable(p[1], "stdin")
	} else {
		null, err := unix.Open("/dev/null", unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			return nil, fmt.Errorf("open /dev/null: %w", err)
		}
		theirs = append(theirs, null)
	}
	for _, name := range []string{"stdout", "stderr"} {
		p, err := pipe()
		if err != nil {
			return theirs, err
		}
		theirs = append(theirs, p[1])
		c.sources = append(c.sources, spawn.Pollable(p[0], name))
	}
	for i, fd := range theirs {
		if i == 0 && c.stdin == nil {
			continue // never change the owner of /dev/null
		}
		if err := unix.Fchown(fd, int(req.UID), int(req.GID)); err != nil { // so that /dev/stdout can be opened
			return theirs, os.NewSyscallError("fchown", err)
		}
	}
	return theirs, nil
}

// begin makes the container req.ID of a prepared process, and waits for the exec.
func (k *Keeper) begin(c *container, req *protocol.Request, files []int) error {
	prog, err := readProgram(req, files)
	if err != nil {
		return err
	}
	c.beginning.Lock()
	defer c.beginning.Unlock()
	if c.status().Phase != protocol.Prepared || c.proc.Settled() {
		return errPhase
	}
	defer c.proc.Settle()
	if err := c.open(req, files); err != nil {
		return err
	}
	theirs, err := c.stdio(req)
	defer protocol.CloseAll(theirs)
	if err != nil {
		return err
	}
	for i, source := range c.sources {
		k.pump(c, source, []crilog.Stream{crilog.Stdout, crilog.Stderr}[i])
	}
	if err := c.proc.Raise(req.Rlimits); err != nil {
		return err
	}
	terminal, err := c.proc.Finish(prog, files[:req.Program], theirs, -1)
	if err == nil && (terminal >= 0) != (req.Flags&protocol.FlagTerminal != 0) {
		err = errors.New("a terminal that is missing or not asked for")
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if terminal >= 0 {
		c.terminal = spawn.Pollable(terminal, "terminal")
		c.sources = append(c.sources, c.terminal)
		k.pump(c, c.terminal, crilog.Stdout)
	}
	if err == nil {
		c.phase = protocol.Running
	}
	return err
}

func (k *Keeper) pump(c *container, source *os.File, stream crilog.Stream) {
	c.log.pumps.Go(func() { c.log.pump(source, stream, &k.pieces) })
}

// watch waits for the container's end, empties its output and records the exit.
func (k *Keeper) watch(c *container) {
	exit, err := spawn.Wait(c.proc.Pidfd)
	c.beginning.Lock() // what was being made of it is made, or has failed
	defer c.beginning.Unlock()
	id := c.status().ID
	if err != nil {
		k.log.Print("wait for ", id, ": ", err)
		exit = protocol.Exit{Code: 255, At: time.Now().UnixNano()}
	}
	c.log.finish(c.sources...)
	exit.OOM = c.oomKills() > 0
	for c.folder != nil {
		err := writeExit(c.folder, exit)
		if err == nil || errors.Is(err, unix.ENOENT) { // the folder is gone: nobody will look
			break
		}
		k.log.Print("record the exit of ", id, ": ", err)
		select {
		case <-c.log.abandon:
		case <-time.After(diskRetry):
			continue
		}
		break
	}
	c.mu.Lock()
	c.exit, c.phase = exit, protocol.Exited
	if c.stdin != nil {
		_ = c.stdin.Close()
		c.stdin = nil
	}
	c.mu.Unlock()
	close(c.ended)
}

// oomKills counts the processes of the cgroup that were killed for lack of memory.
func (c *container) oomKills() int {
	if c.oom == nil {
		return 0
	}
	buf := make([]byte, 1024)
	n, _ := c.oom.ReadAt(buf, 0)
	for line := range bytes.Lines(buf[:max(n, 0)]) {
		if v, ok := bytes.CutPrefix(bytes.TrimSpace(line), []byte("oom_kill ")); ok {
			kills, _ := strconv.Atoi(string(v))
			return kills
		}
	}
	return 0
}

// writeExit makes the exit record: written whole, then named. It survives the
// death of every process, not of the machine: it is there for a terod that was
// not, and what outlives the machine is in terod's own journal before anybody
// is told of the exit. So it is not synced, which took a quarter of an exit.
func writeExit(folder *os.File, exit protocol.Exit) error {
	var b []byte
	b = append(b, `{"code":`...)
	b = strconv.AppendInt(b, int64(exit.Code), 10)
	b = append(b, `,"signal":`...)
	b = strconv.AppendInt(b, int64(exit.Signal), 10)
	b = append(b, `,"oomKilled":`...)
	b = strconv.AppendBool(b, exit.OOM)
	b = append(b, `,"at":"`...)
	b = time.Unix(0, exit.At).UTC().AppendFormat(b, time.RFC3339Nano)
	b = append(b, "\"}\n"...)
	return spawn.Control(folder, func(dir int) error {
		fd, err := unix.Openat(dir, ExitDraft, unix.O_CREAT|unix.O_TRUNC|unix.O_WRONLY|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0o600)
		if err != nil {
			return err
		}
		f := os.NewFile(uintptr(fd), ExitDraft)
		_, err = f.Write(b)
		if err = errors.Join(err, f.Close()); err != nil {
			return err
		}
		return unix.Renameat(dir, ExitDraft, dir, ExitFile)
	})
}

// forget kills what is left and closes everything. Who calls it while another
// does waits with that: nothing writes to the container's folder afterwards.
func (c *container) forget() {
	c.forgotten.Do(func() {
		_ = spawn.Signal(c.proc.Pidfd, unix.SIGKILL)
		close(c.log.abandon)
		<-c.ended
		c.proc.Close()
		c.closeFiles()
	})
}

func (c *container) closeFiles() {
	for _, f := range append([]*os.File{c.netns, c.mntns, c.folder, c.oom, c.terminal, c.log.log.file, c.stdin}, c.sources...) {
		if f != nil {
			_ = f.Close()
		}
	}
}

func dup(fd int) (int, error) {
	d, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 3)
	if err != nil {
		return -1, os.NewSyscallError("dup", err)
	}
	return d, nil
}
