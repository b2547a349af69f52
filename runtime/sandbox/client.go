package sandbox

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"

	"golang.org/x/sys/unix"

	"tero.internal/common/fault"
	"tero.internal/runtime/internal/protocol"
)

// errLost is a connection that ended.
var errLost = errors.New("the connection to the keeper was lost")

// client is a connection to the keeper. Calls may be made at the same time.
type client struct {
	conn *os.File
	pid  int
	done chan struct{} // closed when the connection has ended

	mu      sync.Mutex // guards seq and waiting
	seq     uint32
	waiting map[uint32]chan answer // nil when the connection has ended
}

type answer struct {
	reply *protocol.Reply
	file  *os.File
}

// dial connects to the keeper behind RunDir's socket.
func dial(ctx context.Context, runDir string) (*client, error) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	err = atSocket(runDir, func(address *unix.SockaddrUnix) error { return unix.Connect(fd, address) })
	if err == nil {
		err = unix.SetNonblock(fd, true)
	}
	if err != nil {
		_ = unix.Close(fd)
		return nil, err
	}
	c := &client{
		conn: os.NewFile(uintptr(fd), "keeper"), done: make(chan struct{}),
		waiting: map[uint32]chan answer{},
	}
	go c.read()
	hello, _, err := c.call(ctx, &protocol.Request{Op: protocol.OpHello}, nil)
	if err == nil && hello.Number != protocol.Version {
		err = fault.New(fault.Conflict, "the running keeper (process %d) speaks version %d, this terod %d", hello.PID, hello.Number, protocol.Version).
			WithHint("remove the containers with the terod that started them, then restart")
	}
	if err != nil {
		c.close()
		return nil, err
	}
	c.pid = int(hello.PID)
	return c, nil
}

// read hands out replies until the connection ends.
func (c *client) read() {
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

func (c *client) close() {
	_ = c.conn.Close()
	<-c.done
}

// alive tells whether calls can still be answered; none can once one was told
// that the connection is lost.
func (c *client) alive() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.waiting != nil
}

// call sends a request and waits for its reply. A reply that says why the
// keeper did not do it is a *refusal.
func (c *client) call(ctx context.Context, req *protocol.Request, files []*os.File) (*protocol.Reply, *os.File, error) {
	if len(files) == 0 {
		req.Program, req.Folder, req.OOM, req.Cgroup = protocol.None, protocol.None, protocol.None, protocol.None
	}
	ch := make(chan answer, 1)
	c.mu.Lock()
	if c.waiting == nil {
		c.mu.Unlock()
		return nil, nil, errLost
	}
	c.seq++
	req.Seq = c.seq
	c.waiting[req.Seq] = ch
	c.mu.Unlock()
	if err := c.send(req, files); err != nil {
		c.mu.Lock()
		delete(c.waiting, req.Seq)
		c.mu.Unlock()
		return nil, nil, fmt.Errorf("%w: %w", errLost, err)
	}
	select {
	case a, ok := <-ch:
		if !ok {
			return nil, nil, errLost
		}
		if a.reply.Code != protocol.OK {
			return nil, nil, &refusal{a.reply}
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

func (c *client) send(req *protocol.Request, files []*os.File) error {
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

// refusal is a reply that says why the keeper did not do something.
type refusal struct{ reply *protocol.Reply }

func (r *refusal) Error() string { return "keeper: " + r.reply.Text }

// code gives the keeper's error code of err, or OK when it has none.
func code(err error) protocol.ErrorCode {
	if r, ok := errors.AsType[*refusal](err); ok {
		return r.reply.Code
	}
	return protocol.OK
}

// control runs f with a file's descriptor.
func control(file *os.File, f func(fd int) error) error {
	raw, err := file.SyscallConn()
	if err != nil {
		return err
	}
	var failed error
	err = raw.Control(func(fd uintptr) { failed = f(int(fd)) })
	return errors.Join(err, failed)
}
