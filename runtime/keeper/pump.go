package keeper

import (
	"errors"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"tero.internal/runtime/internal/crilog"
)

// pieceSize is how much output is read at a time: what a pipe holds by default.
const pieceSize = 64 << 10

// diskRetry is how long a full disk is left alone before the next try.
const diskRetry = 100 * time.Millisecond

// output is a container's log with the pumps that fill it.
type output struct {
	pumps sync.WaitGroup
	// abandon is closed when nobody will want the log any more.
	abandon chan struct{}

	mu  sync.Mutex // guards buf and file: one record after the other
	buf []byte
	// file is the log.
	file *os.File
}

// pieces are buffers that are shared by all pumps, so that an idle container has none.
type pieces struct{ pool sync.Pool }

func (p *pieces) get() *[pieceSize]byte {
	if b, ok := p.pool.Get().(*[pieceSize]byte); ok {
		return b
	}
	return new([pieceSize]byte)
}

// pump copies a stream into the log until its end. After source's read deadline
// has passed it takes what is there and ends, also when a writer is left.
func (o *output) pump(source *os.File, stream crilog.Stream, p *pieces) {
	defer func() { _ = source.Close() }()
	raw, err := source.SyscallConn()
	if err != nil {
		return
	}
	for {
		var n int
		var buf *[pieceSize]byte
		read := func(fd uintptr) bool {
			buf = p.get()
			n, err = readOnce(int(fd), buf[:])
			if errors.Is(err, unix.EAGAIN) {
				p.pool.Put(buf)
				buf = nil
				return false
			}
			return true
		}
		if err := raw.Read(read); err != nil {
			if !errors.Is(err, os.ErrDeadlineExceeded) {
				return
			}
			n = 0
			if raw.Control(func(fd uintptr) { read(fd) }) != nil || buf == nil {
				return
			}
		}
		if n > 0 {
			o.write(stream, buf[:n])
		}
		p.pool.Put(buf)
		if n <= 0 { // the end, or EIO of a terminal that nobody has open
			return
		}
	}
}

func readOnce(fd int, buf []byte) (int, error) {
	for {
		n, err := unix.Read(fd, buf)
		if !errors.Is(err, unix.EINTR) {
			return n, err
		}
	}
}

// write appends one piece of output to the log. While the disk refuses, it
// keeps the piece and tries again, so that the container waits on its pipe and
// nothing is lost.
func (o *output) write(stream crilog.Stream, piece []byte) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.buf = crilog.Append(o.buf[:0], time.Now(), stream, piece)
	for rest := o.buf; len(rest) > 0; {
		n, err := o.file.Write(rest)
		rest = rest[n:]
		if err == nil {
			continue
		}
		select {
		case <-o.abandon:
			return
		case <-time.After(diskRetry):
		}
	}
	if cap(o.buf) > 2*pieceSize {
		o.buf = nil
	}
}

// finish ends the pumps of a container that has ended, with everything that it
// wrote in the log.
func (o *output) finish(sources ...*os.File) {
	for _, s := range sources {
		if s != nil {
			_ = s.SetReadDeadline(time.Unix(1, 0))
		}
	}
	o.pumps.Wait()
	o.mu.Lock()
	defer o.mu.Unlock()
	_ = o.file.Close()
	o.buf = nil
}
