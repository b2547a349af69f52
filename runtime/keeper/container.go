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
)

// The files of a container's folder that the keeper writes; LogFile is the log's first.
const (
	LogFile  = "log"
	ExitFile = "exit.json"
)

// container is a container from Create to Forget.
type container struct {
	id     string
	proc   *spawned
	netns  *os.File
	folder *os.File
	oom    *os.File // nil when kills for lack of memory cannot be counted
	log    *output
	// stdin is the write end of standard input, or nil; terminal the master of
	// the pseudo-terminal, or nil; sources what the pumps read.
	terminal *os.File
	sources  []*os.File
	// ended is closed when exit is valid and recorded.
	ended chan struct{}

	mu       sync.Mutex // guards what follows
	stdin    *os.File
	phase    protocol.Phase
	starting bool
	exit     protocol.Exit
}

func (c *container) status() protocol.Status {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := protocol.Status{ID: c.id, Phase: c.phase, PID: int32(c.proc.pid), Exit: c.exit} //nolint:gosec // a pid
	if s.Phase == protocol.Exited {
		s.PID = 0
	}
	return s
}

// create clones a container's process and waits until it is set up.
func (k *Keeper) create(req *protocol.Request, files []int) (_ *container, err error) {
	if req.Program == protocol.None || req.Folder == protocol.None {
		return nil, fmt.Errorf("%w: a file is missing", protocol.ErrMalformed)
	}
	c := &container{
		id: req.ID, phase: protocol.Created, ended: make(chan struct{}),
		log: &output{abandon: make(chan struct{}), ending: make(chan struct{})},
	}
	defer func() {
		if err != nil {
			c.closeFiles()
		}
	}()
	if err := c.open(req, files); err != nil {
		return nil, err
	}
	theirs, err := c.stdio(req)
	defer protocol.CloseAll(theirs)
	if err != nil {
		return nil, err
	}
	s := &spawn{req: req, files: files, stdio: [3]int{-1, -1, -1}, init: -1}
	copy(s.stdio[:], theirs)
	if c.proc, err = k.start(s); err != nil {
		return nil, err
	}
	terminal, err := c.ready()
	if err == nil && (terminal >= 0) != (req.Flags&protocol.FlagTerminal != 0) {
		err = errors.New("a terminal that is missing or not asked for")
	}
	if err == nil {
		c.netns, err = os.Open("/proc/" + strconv.Itoa(c.proc.pid) + "/ns/net")
	}
	if err != nil {
		if terminal >= 0 {
			_ = unix.Close(terminal)
		}
		c.proc.kill()
		return nil, err
	}
	if terminal >= 0 {
		c.terminal = pollable(terminal, "terminal")
		c.sources = []*os.File{c.terminal}
	}
	for i, source := range c.sources {
		c.log.pumps.Go(func() { c.log.pump(source, []crilog.Stream{crilog.Stdout, crilog.Stderr}[i], &k.pieces) })
	}
	k.wg.Go(func() { k.watch(c) })
	return c, nil
}

// open opens what the container needs in its folder.
func (c *container) open(req *protocol.Request, files []int) error {
	folder, err := dup(files[req.Folder])
	if err != nil {
		return err
	}
	c.folder = os.NewFile(uintptr(folder), "folder")
	if req.OOM != protocol.None {
		oom, err := dup(files[req.OOM])
		if err != nil {
			return err
		}
		c.oom = os.NewFile(uintptr(oom), "oom")
	}
	c.log.log, err = openLog(c.folder, req.LogSize, int(req.LogFiles))
	return err
}

// stdio makes the standard streams, and gives the child's ends.
func (c *container) stdio(req *protocol.Request) (theirs []int, err error) {
	if req.Flags&protocol.FlagTerminal != 0 {
		return nil, nil
	}
	if req.Flags&protocol.FlagInput != 0 {
		p, err := pipe()
		if err != nil {
			return nil, err
		}
		theirs = append(theirs, p[0])
		c.stdin = pollable(p[1], "stdin")
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
		c.sources = append(c.sources, pollable(p[0], name))
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

// ready opens the first gate and waits until the child is at the second.
func (c *container) ready() (terminal int, err error) { return c.proc.ready() }

func (p *spawned) ready() (terminal int, err error) {
	if err := p.open(); err != nil {
		return -1, errDied
	}
	ready, terminal, err := p.report()
	if err == nil && !ready {
		err = errDied
	}
	return terminal, err
}

// begin opens the second gate and waits for the exec.
func (c *container) begin() error {
	c.mu.Lock()
	if c.phase != protocol.Created || c.starting {
		c.mu.Unlock()
		return errPhase
	}
	c.starting = true
	c.mu.Unlock()
	if err := c.proc.open(); err != nil {
		return errDied
	}
	_, _, err := c.proc.report()
	c.mu.Lock()
	defer c.mu.Unlock()
	if err == nil && c.phase == protocol.Created {
		c.phase = protocol.Running
	}
	return err
}

// watch waits for the container's end, empties its output and records the exit.
func (k *Keeper) watch(c *container) {
	exit, err := wait(c.proc.pidfd)
	if err != nil {
		k.log.Print("wait for ", c.id, ": ", err)
		exit = protocol.Exit{Code: 255, At: time.Now().UnixNano()}
	}
	c.log.finish(c.sources...)
	exit.OOM = c.oomKills() > 0
	for {
		err := writeExit(c.folder, exit)
		if err == nil || errors.Is(err, unix.ENOENT) { // the folder is gone: nobody will look
			break
		}
		k.log.Print("record the exit of ", c.id, ": ", err)
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
	return control(folder, func(dir int) error {
		const temporary = "." + ExitFile
		fd, err := unix.Openat(dir, temporary, unix.O_CREAT|unix.O_TRUNC|unix.O_WRONLY|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0o600)
		if err != nil {
			return err
		}
		f := os.NewFile(uintptr(fd), temporary)
		_, err = f.Write(b)
		if err = errors.Join(err, f.Close()); err != nil {
			return err
		}
		return unix.Renameat(dir, temporary, dir, ExitFile)
	})
}

// forget kills what is left and closes everything.
func (c *container) forget() {
	_ = signal(c.proc.pidfd, unix.SIGKILL)
	close(c.log.abandon)
	<-c.ended
	c.proc.close()
	c.closeFiles()
}

func (c *container) closeFiles() {
	for _, f := range append([]*os.File{c.netns, c.folder, c.oom, c.terminal, c.log.log.file, c.stdin}, c.sources...) {
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
