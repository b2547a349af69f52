// Package keeper is the process that is the parent of all containers. It
// outlives terod: it clones the containers' processes, pumps their output into
// their logs, reaps them and records how they ended, and tells terod when there
// is one. It imports next to nothing, so that it is small to clone and to trust.
//
//	prepare-> Prepared --start--> Running --end--> Exited --forget--> (gone)
//	             |                                    ^
//	             +-----------------end----------------+
package keeper

import (
	"errors"
	"fmt"
	"log"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"tero.internal/runtime/internal/protocol"
	"tero.internal/runtime/internal/spawn"
)

var (
	errPhase   = errors.New("not in this phase")
	errUnknown = errors.New("unknown container")
	errExists  = errors.New("the container exists")
	errBusy    = errors.New("containers exist")
)

// Keeper keeps containers.
type Keeper struct {
	log     *log.Logger
	spawner *spawn.Spawner
	pieces  pieces
	wg      sync.WaitGroup // watchers of processes

	mu         sync.Mutex // guards what follows
	containers map[string]*container
	// pending are the ids whose creation is under way.
	pending   map[string]bool
	processes map[uint32]*process
	lastToken uint32
	conn      *os.File
	shutdown  bool
}

// process is a further process in a container. It is killed when the connection
// over which it was asked for ends: that has its streams, and nobody else could
// ask for its exit.
type process struct {
	container string
	conn      *os.File
	proc      *spawn.Process
	ended     chan struct{} // closed when exit is valid
	exit      protocol.Exit
}

// New gives a keeper without containers that logs to l.
func New(l *log.Logger) (*Keeper, error) {
	if err := heedSignals(); err != nil {
		return nil, err
	}
	spawner, err := spawn.New()
	if err != nil {
		return nil, err
	}
	return &Keeper{
		log: l, spawner: spawner, containers: map[string]*container{}, pending: map[string]bool{},
		processes: map[uint32]*process{},
	}, nil
}

// Serve serves terod, one connection at a time, a new one replacing the old,
// until OpShutdown.
func (k *Keeper) Serve(listener *os.File) error {
	defer k.wg.Wait()
	raw, err := listener.SyscallConn()
	if err != nil {
		return err
	}
	failing := false
	for {
		fd, refused, err := accept(raw)
		k.mu.Lock()
		done := k.shutdown
		k.mu.Unlock()
		if done {
			return nil
		}
		if err != nil {
			return fmt.Errorf("accept: %w", err)
		}
		if refused != nil { // for lack of descriptors or memory, say: the connection waits in the queue
			if !failing {
				k.log.Print("accept, trying again: ", refused)
			}
			failing = true
			<-time.After(acceptRetry)
			continue
		}
		failing = false
		if err := checkPeer(fd); err != nil {
			k.log.Print(err)
			_ = unix.Close(fd)
			continue
		}
		conn := os.NewFile(uintptr(fd), "terod")
		k.mu.Lock()
		if k.conn != nil {
			_ = k.conn.Close()
		}
		k.conn = conn
		k.mu.Unlock()
		k.wg.Go(func() { k.serve(conn, listener) })
	}
}

// acceptRetry is how long a failed accept is left alone before the next try.
const acceptRetry = 50 * time.Millisecond

// accept waits for a connection. It gives what the kernel refused it for, which
// may pass, apart from err, which does not.
func accept(listener syscall.RawConn) (fd int, refused, err error) {
	err = listener.Read(func(l uintptr) bool {
		refused = unix.EINTR
		for errors.Is(refused, unix.EINTR) || errors.Is(refused, unix.ECONNABORTED) {
			fd, _, refused = unix.Accept4(int(l), unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK)
		}
		return !errors.Is(refused, unix.EAGAIN)
	})
	return fd, refused, err
}

// checkPeer lets only root and this process's own user in.
func checkPeer(fd int) error {
	cred, err := unix.GetsockoptUcred(fd, unix.SOL_SOCKET, unix.SO_PEERCRED)
	if err != nil {
		return os.NewSyscallError("SO_PEERCRED", err)
	}
	if cred.Uid != 0 && int(cred.Uid) != os.Geteuid() {
		return fmt.Errorf("connection of user %d refused", cred.Uid)
	}
	return nil
}

// serve answers the requests of one connection.
func (k *Keeper) serve(conn, listener *os.File) {
	buf := make([]byte, protocol.MaxMessage)
	for {
		n, files, err := protocol.Receive(conn, buf)
		if err != nil || n == 0 {
			protocol.CloseAll(files)
			break
		}
		req, err := protocol.DecodeRequest(buf[:n], len(files))
		if err != nil {
			protocol.CloseAll(files)
			k.log.Print(err)
			break
		}
		k.wg.Go(func() {
			k.answer(conn, req, files)
			if req.Op == protocol.OpShutdown {
				k.stopWhenAsked(conn, listener)
			}
		})
	}
	k.mu.Lock()
	if k.conn == conn {
		k.conn = nil
	}
	for token, p := range k.processes {
		if p.conn == conn {
			k.abandon(token, p)
		}
	}
	k.mu.Unlock()
	_ = conn.Close()
}

func (k *Keeper) stopWhenAsked(conn, listener *os.File) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.shutdown {
		_ = conn.Close()
		_ = listener.Close()
	}
}

// answer does what a request asks and replies.
func (k *Keeper) answer(conn *os.File, req *protocol.Request, files []int) {
	r := &protocol.Reply{Seq: req.Seq}
	send, err := k.handle(conn, req, r, files)
	protocol.CloseAll(files)
	if err != nil {
		describe(r, err)
	}
	var fds []int
	if send >= 0 {
		fds = []int{send}
	}
	if err := protocol.Send(conn, r.Encode(), fds); err != nil && !errors.Is(err, os.ErrClosed) && !errors.Is(err, unix.EPIPE) {
		k.log.Print("reply: ", err)
	}
	protocol.CloseAll(fds)
}

// describe puts an error into a reply.
func describe(r *protocol.Reply, err error) {
	var step *spawn.StepError
	var clone *spawn.CloneError
	switch {
	case errors.As(err, &step):
		r.Code, r.At, r.Errno = protocol.Step, step.At, step.Errno
	case errors.As(err, &clone):
		r.Code, r.Errno = protocol.Clone, clone.Errno
	case errors.Is(err, spawn.ErrDied):
		r.Code = protocol.Died
	case errors.Is(err, errUnknown), errors.Is(err, unix.ESRCH):
		r.Code = protocol.Unknown
	case errors.Is(err, errPhase), errors.Is(err, errExists), errors.Is(err, errBusy):
		r.Code = protocol.WrongPhase
	default:
		r.Code = protocol.Internal
	}
	r.Text = err.Error()
}

// handle does what a request asks. It gives a file to send, or -1.
func (k *Keeper) handle(conn *os.File, req *protocol.Request, r *protocol.Reply, files []int) (send int, err error) {
	switch req.Op {
	case protocol.OpHello:
		r.PID, r.Number = int32(os.Getpid()), protocol.Version //nolint:gosec // a pid
		return -1, nil
	case protocol.OpPrepare:
		return k.add(req, r, files)
	case protocol.OpStart:
		return -1, k.name(req, files)
	case protocol.OpList:
		return -1, k.list(conn, req, r)
	case protocol.OpExec:
		return k.exec(conn, req, r, files)
	case protocol.OpShutdown:
		return -1, k.stop()
	case protocol.OpForget:
		return -1, k.forget(req.ID, req.From)
	}
	if req.Token != 0 {
		return -1, k.handleProcess(req, r)
	}
	k.mu.Lock()
	c := k.containers[req.ID]
	k.mu.Unlock()
	if c == nil {
		return -1, errUnknown
	}
	switch req.Op {
	case protocol.OpSignal:
		return -1, spawn.Signal(c.proc.Pidfd, unix.Signal(req.Number))
	case protocol.OpWait:
		<-c.ended
		r.Exit = c.status().Exit
		return -1, nil
	case protocol.OpInput:
		return c.input()
	case protocol.OpCloseInput:
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.stdin != nil {
			err = c.stdin.Close()
			c.stdin = nil
		}
		return -1, err
	}
	return -1, fmt.Errorf("%w: request %d", protocol.ErrMalformed, req.Op)
}

// add prepares a process. It gives the file of its user namespace.
func (k *Keeper) add(req *protocol.Request, r *protocol.Reply, files []int) (int, error) {
	k.mu.Lock()
	if k.containers[req.ID] != nil || k.pending[req.ID] || k.shutdown {
		k.mu.Unlock()
		return -1, errExists
	}
	k.pending[req.ID] = true
	k.mu.Unlock()
	c, userNS, err := k.prepare(req, files)
	k.mu.Lock()
	defer k.mu.Unlock()
	delete(k.pending, req.ID)
	if err != nil {
		return -1, err
	}
	k.containers[req.ID] = c
	r.PID = int32(c.proc.PID) //nolint:gosec // a pid
	return userNS, spawn.Control(c.netns, func(fd int) error {
		r.Number = int32(fd) //nolint:gosec // a descriptor
		return nil
	})
}

// name gives a prepared process the name of its container, and begins that.
func (k *Keeper) name(req *protocol.Request, files []int) error {
	k.mu.Lock()
	c := k.containers[req.From]
	switch {
	case c == nil && k.containers[req.ID] == nil:
		k.mu.Unlock()
		return errUnknown
	case c == nil || k.containers[req.ID] != nil:
		k.mu.Unlock()
		return errPhase
	}
	delete(k.containers, req.From)
	k.containers[req.ID] = c
	c.mu.Lock()
	c.id = req.ID
	c.mu.Unlock()
	k.mu.Unlock()
	return k.begin(c, req, files)
}

func (k *Keeper) list(conn *os.File, req *protocol.Request, r *protocol.Reply) error {
	k.mu.Lock()
	var all []protocol.Status
	for id, c := range k.containers {
		if req.ID == "" || req.ID == id {
			all = append(all, c.status())
		}
	}
	k.mu.Unlock()
	for len(all) > protocol.MaxStatuses {
		part := &protocol.Reply{Seq: r.Seq, More: true, Statuses: all[:protocol.MaxStatuses]}
		if err := protocol.Send(conn, part.Encode(), nil); err != nil {
			return err
		}
		all = all[protocol.MaxStatuses:]
	}
	r.Statuses = all
	return nil
}

func (c *container) input() (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	f := c.terminal
	if f == nil {
		f = c.stdin
	}
	if f == nil {
		return -1, errPhase
	}
	send := -1
	err := spawn.Control(f, func(fd int) (err error) {
		send, err = dup(fd)
		return err
	})
	return send, err
}

// forget forgets a container, or the prepared process that it was to be made of.
func (k *Keeper) forget(id, from string) error {
	k.mu.Lock()
	if k.containers[id] == nil && from != "" {
		id = from
	}
	c, pending := k.containers[id], k.pending[id]
	k.mu.Unlock()
	if pending { // it may come to be yet
		return errPhase
	}
	if c == nil {
		return errUnknown
	}
	c.forget()
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.containers[id] == c {
		delete(k.containers, id)
	}
	for token, p := range k.processes {
		if p.container == id {
			k.abandon(token, p)
		}
	}
	return nil
}

func (k *Keeper) stop() error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if len(k.containers)+len(k.pending) > 0 {
		return errBusy
	}
	k.shutdown = true
	return nil
}
