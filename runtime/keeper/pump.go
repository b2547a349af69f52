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

// bufferSize is about how much of the log is written at a time.
const bufferSize = 2 * pieceSize

// output is a container's log with the pumps that fill it.
type output struct {
	pumps sync.WaitGroup
	// abandon is closed when nobody will want the log any more; ending when the
	// container has ended.
	abandon, ending chan struct{}

	mu  sync.Mutex // guards what follows: one record after the other
	buf []byte
	log rotating
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
	for now := time.Now(); len(piece) > 0; {
		o.buf, piece = crilog.AppendSome(o.buf[:0], bufferSize, now, stream, piece)
		if o.log.full(len(o.buf)) && !o.log.rotate(o) {
			return
		}
		for rest := o.buf; len(rest) > 0; {
			n, err := o.log.write(rest)
			rest = rest[n:]
			if err != nil && !o.pause(diskRetry) {
				return
			}
		}
	}
	if cap(o.buf) > 2*pieceSize {
		o.buf = nil
	}
}

// pause waits before another try; false when there is no use in one.
func (o *output) pause(d time.Duration) bool {
	select {
	case <-o.abandon:
		return false
	case <-time.After(d):
		return true
	}
}

// finish ends the pumps of a container that has ended, with everything that it
// wrote in the log.
func (o *output) finish(sources ...*os.File) {
	close(o.ending)
	for _, s := range sources {
		if s != nil {
			_ = s.SetReadDeadline(time.Unix(1, 0))
		}
	}
	o.pumps.Wait()
	o.mu.Lock()
	defer o.mu.Unlock()
	o.log.close()
	o.buf = nil
}
