package crilog

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Options say what of a log is wanted.
type Options struct {
	// Until makes the reader wait for further records at the end of the log
	// until it is closed and all before was delivered, or the log is removed.
	// With nil the reader ends at the end of the log.
	Until <-chan struct{}
	// Tail is how many of the last lines are wanted: 0 for all, TailNone for
	// none of what is there already.
	Tail int64
	// Since leaves out older records; Before ends the reading, and the waiting.
	Since, Before time.Time
	// Keep makes the writer wait before it removes a file that was not read yet.
	Keep bool
	// Opened, if set, is called once when the first file is open, and held with Keep.
	Opened func()
}

// TailNone is Options.Tail for only what is still to come.
const TailNone = -1

// maxRecord bounds a line of a log: a piece with its stamp.
const maxRecord = MaxPiece + 128

// Read gives the records of a log, whose first file has that path. It ends with
// an error only once; when ctx ends, with ctx's. What is no record, as half a
// line after a crash, is left out. Output is valid until the next record.
func Read(ctx context.Context, path string, o Options) iter.Seq2[Record, error] {
	return func(yield func(Record, error) bool) {
		if err := read(ctx, path, o, func(r Record) bool { return yield(r, nil) }); err != nil {
			yield(Record{}, err)
		}
	}
}

// read calls yield until it gives false or the log ends.
func read(ctx context.Context, path string, o Options, yield func(Record) bool) error {
	l := &files{folder: filepath.Dir(path), base: filepath.Base(path), keep: o.Keep}
	var changes *watch
	if o.Until != nil {
		var err error
		if changes, err = newWatch(ctx, l, o.Until, o.Before); err != nil {
			return err
		}
		defer changes.close()
	}
	at, err := l.begin(&o)
	if err != nil {
		return err
	}
	defer func() { _ = at.file.Close() }()
	if o.Opened != nil {
		o.Opened()
	}
	if _, err := at.file.Seek(at.offset, io.SeekStart); err != nil {
		return fmt.Errorf("read log: %w", err)
	}
	r := &reader{
		options: &o, yield: yield, buf: bufio.NewReaderSize(at.file, bufferSize),
		dropped: at.number > 0 && o.Tail == 0 && o.Since.IsZero(),
	}
	for {
		ended := o.Until == nil || closed(o.Until)
		_, more, err := l.after(at.number) // looked for first: what is there now ends this file
		if err != nil {
			return err
		}
		if over, err := r.readAll(ctx); err != nil || over {
			return err
		}
		if more {
			number, file, err := l.next(at.number, at.file)
			if err != nil {
				return err
			}
			if file != nil {
				r.enter(file, number > at.number+1)
				at.number, at.file = number, file
				continue
			}
		}
		if ended || !o.Before.IsZero() && !time.Now().Before(o.Before) {
			return nil
		}
		if gone, err := changes.wait(ctx); err != nil || gone {
			return err
		}
	}
}

func closed(ch <-chan struct{}) bool {
	select {
	case <-ch:
		return true
	default:
		return false
	}
}

// bufferSize is how much is read at a time; a record at least.
const bufferSize = 64 << 10

// reader reads records from files that grow.
type reader struct {
	options *Options
	yield   func(Record) bool

	buf     *bufio.Reader
	half    []byte // a record whose end is not there yet
	skip    bool   // in a line that is too long to be a record
	dropped bool   // for the next record
}

// enter goes on with the next file.
func (r *reader) enter(f io.Reader, dropped bool) {
	r.buf.Reset(f)
	r.half, r.skip, r.dropped = nil, false, r.dropped || dropped
}

// readAll delivers what is there; over tells that no more is wanted.
func (r *reader) readAll(ctx context.Context) (over bool, err error) {
	for {
		if err := ctx.Err(); err != nil {
			return true, err
		}
		record, err := r.next()
		if errors.Is(err, io.EOF) {
			return false, nil
		}
		if err != nil {
			return true, fmt.Errorf("read log: %w", err)
		}
		if !r.options.Before.IsZero() && !record.At.Before(r.options.Before) {
			return true, nil
		}
		if record.At.Before(r.options.Since) {
			continue
		}
		record.Dropped, r.dropped = r.dropped, false
		waiting, _ := r.buf.Peek(r.buf.Buffered())
		record.Last = bytes.IndexByte(waiting, '\n') < 0
		if !r.yield(record) {
			return true, nil
		}
	}
}

// next gives the next whole record, or io.EOF for now.
func (r *reader) next() (Record, error) {
	for {
		line, err := r.buf.ReadSlice('\n')
		if err != nil && !errors.Is(err, bufio.ErrBufferFull) {
			r.half = append(r.half, line...)
			return Record{}, err
		}
		if len(r.half) > 0 {
			line = append(r.half, line...)
			r.half = nil
		}
		switch {
		case err != nil || len(line) > maxRecord:
			r.skip = err != nil
			continue
		case r.skip:
			r.skip = false
			continue
		}
		if record, err := Parse(line); err == nil {
			return record, nil
		}
	}
}

// watch tells about changes in a folder, by inotify(7). A user has 128 of these
// by default: who gets none looks again and again.
type watch struct {
	log    *files
	file   *os.File
	until  <-chan struct{}
	before time.Time
	done   chan struct{}
	waker  sync.WaitGroup
	buf    [4096]byte
}

// newWatch watches the folder of a log; the end of ctx and of until, and the time
// before, if it is one, wake the waiter too.
func newWatch(ctx context.Context, l *files, until <-chan struct{}, before time.Time) (*watch, error) {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if errors.Is(err, unix.EMFILE) {
		return &watch{log: l, until: until, before: before}, nil
	}
	if err != nil {
		return nil, os.NewSyscallError("inotify_init1", err)
	}
	file := os.NewFile(uintptr(fd), "inotify")
	_, err = unix.InotifyAddWatch(fd, l.folder, unix.IN_MODIFY|unix.IN_CREATE|unix.IN_DELETE|unix.IN_ONLYDIR)
	if err != nil {
		_ = file.Close()
		return nil, &fs.PathError{Op: "inotify_add_watch", Path: l.folder, Err: err}
	}
	w := &watch{log: l, before: before, file: file, until: until, done: make(chan struct{})}
	w.waker.Go(func() {
		var late <-chan time.Time
		if !before.IsZero() {
			late = time.After(time.Until(before))
		}
		select {
		case <-ctx.Done():
		case <-until:
		case <-late:
		case <-w.done:
		}
		_ = file.SetReadDeadline(time.Unix(1, 0))
	})
	return w, nil
}

// close ends the watch. The kernel makes who closes an inotify file wait for a
// grace period of its readers, 5 to 16 ms here: nobody waits for that.
func (w *watch) close() {
	if w.file == nil {
		return
	}
	close(w.done)
	w.waker.Wait()
	go func() { _ = w.file.Close() }()
}

// lookEvery is how often who gets no inotify file looks.
const lookEvery = 50 * time.Millisecond

// wait waits for changes; gone tells that the log was removed. (The folder does
// not tell of its own end as long as the open log holds it.)
func (w *watch) wait(ctx context.Context) (gone bool, err error) {
	if w.file == nil {
		select {
		case <-ctx.Done():
			return false, ctx.Err()
		case <-w.until:
			return false, nil
		case <-time.After(lookEvery):
			return w.gone(), nil
		}
	}
	n, err := w.file.Read(w.buf[:])
	if ctx.Err() != nil {
		return false, ctx.Err()
	}
	if errors.Is(err, os.ErrDeadlineExceeded) && (closed(w.until) || !w.before.IsZero()) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("watch log: %w", err)
	}
	const size = unix.SizeofInotifyEvent
	for b := w.buf[:n]; len(b) >= size; {
		if binary.NativeEndian.Uint32(b[4:])&(unix.IN_DELETE|unix.IN_IGNORED) != 0 && w.gone() {
			return true, nil
		}
		b = b[min(size+int(binary.NativeEndian.Uint32(b[12:])), len(b)):]
	}
	return false, nil
}

// gone tells whether no file of the log is left.
func (w *watch) gone() bool {
	numbers, err := w.log.numbers()
	return errors.Is(err, fs.ErrNotExist) || err == nil && len(numbers) == 0
}
