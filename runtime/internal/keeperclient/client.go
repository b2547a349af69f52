// Package keeperclient is terod's side of the conversation with the keeper.
package keeperclient

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"tero.internal/common/fault"
	"tero.internal/runtime/internal/protocol"
)

// ErrLost is a connection that ended.
var ErrLost = errors.New("the connection to the keeper was lost")

// ErrSilent is a keeper that is there and does not answer.
var ErrSilent = errors.New("the keeper does not answer")

// Client is a connection to the keeper. Calls may be made at the same time.
type Client struct {
	conn *os.File
	// PID is the keeper.
	PID  int
	done chan struct{} // closed when the connection has ended

	mu      sync.Mutex // guards seq and waiting
	seq     uint32
	waiting map[uint32]chan answer // nil when the connection has ended
}

type answer struct {
	reply *protocol.Reply
	file  *os.File
}

// patience is how long a keeper may take to answer at all; dialRetry how long
// one that did not let a connection in is left alone before the next try.
const (
	patience  = 5 * time.Second
	dialRetry = 10 * time.Millisecond
)

// Dial connects to the keeper behind runDir's socket. Its error is ENOENT or
// ECONNREFUSED when there is none, ErrSilent when there is one all the same.
func Dial(ctx context.Context, runDir string) (*Client, error) {
	return dialWithin(ctx, runDir, patience)
}

// dialWithin is Dial with another patience.
func dialWithin(ctx context.Context, runDir string, patience time.Duration) (*Client, error) {
	within, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for {
		c, err := dial(within, runDir)
		// A connection that was let in and lost was another's that came first, or
		// the keeper's end, after which there is nobody to connect to. EAGAIN is
		// a full queue.
		if errors.Is(err, ErrLost) || errors.Is(err, unix.EAGAIN) {
			select {
			case <-time.After(dialRetry):
				continue
			case <-within.Done():
				err = within.Err()
			}
		}
		if err != nil && within.Err() != nil && ctx.Err() == nil {
			return nil, fault.New(fault.Unavailable, "%w within %v (%s)", ErrSilent, patience, filepath.Join(runDir, SocketFile)).
				WithHint("see %s; when it stays so, end the process tero-init, with which its containers end", filepath.Join(runDir, LogFile))
		}
		return c, err
	}
}

// dial tries once.
func dial(ctx context.Context, runDir string) (*Client, error) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	if err := AtSocket(runDir, func(address *unix.SockaddrUnix) error { return unix.Connect(fd, address) }); err != nil {
		_ = unix.Close(fd)
		return nil, err
	}
	c := &Client{
		conn: os.NewFile(uintptr(fd), "keeper"), done: make(chan struct{}),
		waiting: map[uint32]chan answer{},
	}
	go c.read()
	hello, _, err := c.Call(ctx, &protocol.Request{Op: protocol.OpHello}, nil)
	if err == nil && hello.Number != protocol.Version {
		err = fault.New(fault.Conflict, "the running keeper (process %d) speaks version %d, this terod %d", hello.PID, hello.Number, protocol.Version).
			WithHint("remove the containers with the terod that started them, then restart")
	}
	if err != nil {
		c.Close()
		return nil, err
	}
	c.PID = int(hello.PID)
	return c, nil
}

// read hands out replies until the connection ends.
func (c *Client) read() {
	defer close(c.done)
	buf := make([]byte, protocol.MaxMessage)
	more := map[uint32][]protocol.Status{}
	for {
		n, files, err := protocol.Receive(c.conn, buf)
		if err != nil || n == 0 {
			break
		}
		reply, err := protocol.DecodeReply(buf[:n])
		if err != nil || len(files) > 1 {
			protocol.CloseAll(files)
			break
		}
		if reply.More {
			more[reply.Seq] = append(more[reply.Seq], reply.Statuses...)
			continue
		}
		reply.Statuses = append(more[reply.Seq], reply.Statuses...)
		delete(more, reply.Seq)
		a := answer{reply: reply}
		if len(files) == 1 {
			a.file = os.NewFile(uintptr(files[0]), "from keeper")
		}
		c.mu.Lock()
		ch := c.waiting[reply.Seq]
		delete(c.waiting, reply.Seq)
		c.mu.Unlock()
		if ch != nil {
			ch <- a // has room for one
		} else if a.file != nil {
			_ = a.file.Close()
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, ch := range c.waiting {
		close(ch)
	}
	c.waiting = nil
	_ = c.conn.Close()
}

// Done is closed when the connection has ended.
func (c *Client) Done() <-chan struct{} { return c.done }

// Close ends the connection.
func (c *Client) Close() {
	_ = c.conn.Close()
	<-c.done
}

// Alive tells whether calls can still be answered; none can once one was told
// that the connection is lost.
func (c *Client) Alive() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.waiting != nil
}

// Call sends a request and waits for its reply. A reply that says why the
// keeper did not do it is a *Refusal.
func (c *Client) Call(ctx context.Context, req *protocol.Request, files []*os.File) (*protocol.Reply, *os.File, error) {
	if len(files) == 0 {
		req.Program, req.Folder, req.OOM, req.Cgroup = protocol.None, protocol.None, protocol.None, protocol.None
	}
	ch := make(chan answer, 1)
	c.mu.Lock()
	if c.waiting == nil {
		c.mu.Unlock()
		return nil, nil, ErrLost
	}
	c.seq++
	req.Seq = c.seq
	c.waiting[req.Seq] = ch
	c.mu.Unlock()
	if err := c.send(req, files); err != nil {
		c.mu.Lock()
		delete(c.waiting, req.Seq)
		c.mu.Unlock()
		if !errors.Is(err, unix.EPIPE) && !errors.Is(err, unix.ECONNRESET) && !errors.Is(err, os.ErrClosed) {
			return nil, nil, fmt.Errorf("ask the keeper: %w", err)
		}
		c.Close() // so that Alive knows it before the caller does
		return nil, nil, fmt.Errorf("%w: %w", ErrLost, err)
	}
	select {
	case a, ok := <-ch:
		if !ok {
			return nil, nil, ErrLost
		}
		if a.reply.Code != protocol.OK {
			return nil, nil, &Refusal{a.reply}
		}
		return a.reply, a.file, nil
	case <-ctx.Done():
		c.mu.Lock()
		delete(c.waiting, req.Seq)
		c.mu.Unlock()
		select {
		case a := <-ch:
			if a.file != nil {
				_ = a.file.Close()
			}
		default:
		}
		return nil, nil, ctx.Err()
	}
}

func (c *Client) send(req *protocol.Request, files []*os.File) error {
	fds := make([]int, len(files))
	for i, f := range files {
		raw, err := f.SyscallConn()
		if err != nil {
			return err
		}
		if err := raw.Control(func(fd uintptr) { fds[i] = int(fd) }); err != nil {
			return err
		}
	}
	err := protocol.Send(c.conn, req.Encode(), fds)
	for _, f := range files {
		_ = f.Name() // keeps f open until it is sent
	}
	return err
}

// Refusal is a reply that says why the keeper did not do something.
type Refusal struct{ Reply *protocol.Reply }

func (r *Refusal) Error() string { return "keeper: " + r.Reply.Text }

// Code gives the keeper's error code of err, or OK when it has none.
func Code(err error) protocol.ErrorCode {
	if r, ok := errors.AsType[*Refusal](err); ok {
		return r.Reply.Code
	}
	return protocol.OK
}

// SocketFile is the keeper's socket in its folder.
const SocketFile = "keeper.sock"

// AtSocket calls f with the address of the keeper's socket, however long the
// path of runDir is: a unix address has room for 107 bytes only.
func AtSocket(runDir string, f func(*unix.SockaddrUnix) error) error {
	dir, err := unix.Open(runDir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open %s: %w", runDir, err)
	}
	defer func() { _ = unix.Close(dir) }()
	return f(&unix.SockaddrUnix{Name: fmt.Sprintf("/proc/self/fd/%d/%s", dir, SocketFile)})
}
