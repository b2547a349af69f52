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
	// until it is closed and all before was delivered, or the log's folder is
	// removed. With nil the reader ends at the end of the log.
	Until <-chan struct{}
	// Tail is how many of the last lines are wanted: 0 for all, TailNone for
	// none of what is there already.
	Tail int64
	// Since leaves out older records.
	Since time.Time
}

// TailNone is Options.Tail for only what is still to come.
const TailNone = -1

// maxRecord bounds a line of a log: a piece with its stamp.
const maxRecord = MaxPiece + 128

// Read gives the records of a log. It ends with an error only once; when ctx
// ends, with ctx's. What is no record, as half a line after a crash, is left out.
// Output is valid until the next record.
func Read(ctx context.Context, path string, o Options) iter.Seq2[Record, error] {
	return func(yield func(Record, error) bool) {
		if err := read(ctx, path, o, func(r Record) bool { return yield(r, nil) }); err != nil {
			yield(Record{}, err)
		}
	}
}

// read calls yield until it gives false or the log ends.
func read(ctx context.Context, path string, o Options, yield func(Record) bool) error {
	f, err := os.Open(path) //nolint:gosec // the caller's log
	if err != nil {
		return fmt.Errorf("open log: %w", err)
	}
	defer func() { _ = f.Close() }()
	var changes *watch
	if o.Until != nil {
		if changes, err = newWatch(ctx, path, o.Until); err != nil {
			return err
		}
		defer changes.close()
	}
	if o.Tail != 0 {
		at, err := tailOffset(f, o.Tail)
		if err != nil {
			return err
		}
		if _, err := f.Seek(at, io.SeekStart); err != nil {
			return fmt.Errorf("read log: %w", err)
		}
	}
	r := &reader{buf: bufio.NewReaderSize(f, maxRecord)}
	for {
		ended := o.Until == nil || closed(o.Until)
		for {
			if err := ctx.Err(); err != nil {
				return err
			}
			record, err := r.next()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				return fmt.Errorf("read log: %w", err)
			}
			if !record.At.Before(o.Since) && !yield(record) {
				return nil
			}
		}
		if ended {
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

// reader reads records from a file that grows.
type reader struct {
	buf  *bufio.Reader
	half []byte // a record whose end is not there yet
	skip bool   // in a line that is too long to be a record
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

// tailOffset gives where the last n lines of output begin.
func tailOffset(f *os.File, n int64) (int64, error) {
	if n < 0 {
		at, err := f.Seek(0, io.SeekEnd)
		return at, err
	}
	starts := make([]int64, 0, min(n, 1024)) // of the last n lines, a ring once it is full
	buf := bufio.NewReaderSize(f, maxRecord)
	var at int64
	var first int64
	open := false // open: the line goes on
	for {
		line, err := buf.ReadSlice('\n')
		if len(line) > 0 && !open {
			if int64(len(starts)) < n {
				starts = append(starts, at)
			} else {
				starts[first] = at
				first = (first + 1) % n
			}
		}
		at += int64(len(line))
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil && !errors.Is(err, bufio.ErrBufferFull) {
			return 0, fmt.Errorf("read log: %w", err)
		}
		open = !bytes.Contains(line, []byte(" F "))
		if record, err := Parse(line); err == nil {
			open = record.Partial()
		}
	}
	if len(starts) == 0 {
		return at, nil
	}
	return starts[first], nil
}

// watch tells about changes in a folder, by inotify(7).
type watch struct {
	path  string
	file  *os.File
	until <-chan struct{}
	done  chan struct{}
	waker sync.WaitGroup
	buf   [4096]byte
}

// newWatch watches the folder of the log at path; the end of ctx and of until wake the waiter too.
func newWatch(ctx context.Context, path string, until <-chan struct{}) (*watch, error) {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return nil, os.NewSyscallError("inotify_init1", err)
	}
	file := os.NewFile(uintptr(fd), "inotify")
	_, err = unix.InotifyAddWatch(fd, filepath.Dir(path), unix.IN_MODIFY|unix.IN_DELETE|unix.IN_ONLYDIR)
	if err != nil {
		_ = file.Close()
		return nil, &fs.PathError{Op: "inotify_add_watch", Path: filepath.Dir(path), Err: err}
	}
	w := &watch{path: path, file: file, until: until, done: make(chan struct{})}
	w.waker.Go(func() {
		select {
		case <-ctx.Done():
		case <-until:
		case <-w.done:
		}
		_ = file.SetReadDeadline(time.Unix(1, 0))
	})
	return w, nil
}

// close ends the watch. The kernel makes who closes an inotify file wait for a
// grace period of its readers, 5 to 16 ms here: nobody waits for that.
func (w *watch) close() {
	close(w.done)
	w.waker.Wait()
	go func() { _ = w.file.Close() }()
}

// wait waits for changes; gone tells that the log was removed. (The folder does
// not tell of its own end as long as the open log holds it.)
func (w *watch) wait(ctx context.Context) (gone bool, err error) {
	n, err := w.file.Read(w.buf[:])
	if ctx.Err() != nil {
		return false, ctx.Err()
	}
	if errors.Is(err, os.ErrDeadlineExceeded) && closed(w.until) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("watch log: %w", err)
	}
	const size = unix.SizeofInotifyEvent
	for b := w.buf[:n]; len(b) >= size; {
		if binary.NativeEndian.Uint32(b[4:])&(unix.IN_DELETE|unix.IN_IGNORED) != 0 {
			if _, err := os.Lstat(w.path); errors.Is(err, fs.ErrNotExist) {
				return true, nil
			}
		}
		b = b[min(size+int(binary.NativeEndian.Uint32(b[12:])), len(b)):]
	}
	return false, nil
}
