package crilog

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"time"
)

// start is a place in a log to read on from.
type start struct {
	number int
	file   *os.File
	offset int64
}

// begin opens the log where the options want it read from.
func (l *files) begin(o *Options) (s start, err error) {
	switch {
	case o.Tail == 0:
		s.number, s.file, err = l.oldest()
		if err == nil && !o.Since.IsZero() {
			return l.skip(s, o.Since)
		}
		return s, err
	case o.Tail < 0:
		if s.number, s.file, err = l.newest(); err != nil {
			return s, err
		}
		s.offset, err = s.file.Seek(0, io.SeekEnd)
	default:
		s, err = l.tail(o.Tail)
	}
	if err != nil && s.file != nil {
		_ = s.file.Close()
	}
	return s, err
}

// clockStep is how far the times of records and of files may lie apart: the
// kernel gives files the time of its last tick.
const clockStep = time.Second

// skip leaves out files that were last written to before since.
func (l *files) skip(s start, since time.Time) (start, error) {
	for {
		st, err := s.file.Stat()
		if err != nil {
			_ = s.file.Close()
			return s, fmt.Errorf("read log: %w", err)
		}
		if !st.ModTime().Add(clockStep).Before(since) {
			return s, nil
		}
		number, file, err := l.next(s.number, s.file)
		if err != nil {
			_ = s.file.Close()
			return s, err
		}
		if file == nil {
			return s, nil
		}
		s.number, s.file = number, file
	}
}

// tail finds where the last lines begin, from the end on backwards.
func (l *files) tail(lines int64) (start, error) {
	number, file, err := l.newest()
	if err != nil {
		return start{}, err
	}
	t := tailer{want: lines}
	for {
		found, err := t.scan(file)
		if err != nil {
			_ = file.Close()
			return start{}, err
		}
		if found {
			if t.inNewer { // the line begins with the file after this one
				return l.step(number, file)
			}
			return start{number, file, t.at}, nil
		}
		if number == 0 {
			return start{number, file, 0}, nil
		}
		older, err := l.open(number - 1)
		if errors.Is(err, fs.ErrNotExist) {
			return start{number, file, 0}, nil
		}
		if err != nil {
			_ = file.Close()
			return start{}, err
		}
		_ = file.Close()
		number, file, t.inNewer = number-1, older, true
	}
}

func (l *files) step(number int, file *os.File) (start, error) {
	n, next, err := l.next(number, file)
	if err != nil || next == nil {
		_ = file.Close()
		return start{}, errors.Join(err, fs.ErrNotExist)
	}
	return start{n, next, 0}, nil
}

// tailer looks for the beginning of a line, counted from the end.
type tailer struct {
	want int64
	// at is where the record that was seen last begins; inNewer says that it is
	// the first of the file after this one. seen is false before the first.
	at            int64
	seen, inNewer bool
}

// tailChunk is how much of a file is looked at a time.
const tailChunk = 64 << 10

// scan goes back through a file; it is true when at is what was looked for.
func (t *tailer) scan(f *os.File) (bool, error) {
	end, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return false, fmt.Errorf("read log: %w", err)
	}
	var tail []byte // the beginning of what was looked at, whose own beginning was not
	for begin := end; begin > 0; {
		n := min(begin, tailChunk)
		begin -= n
		chunk := make([]byte, n, int(n)+len(tail))
		if _, err := f.ReadAt(chunk, begin); err != nil {
			return false, fmt.Errorf("read log: %w", err)
		}
		chunk = append(chunk, tail...)
		first := 0
		if begin > 0 {
			first = bytes.IndexByte(chunk, '\n') + 1
		}
		for to := len(chunk); to > first; {
			from := bytes.LastIndexByte(chunk[:to-1], '\n') + 1
			if t.record(chunk[from:to], begin+int64(from)) {
				return true, nil
			}
			to = from
		}
		tail = bytes.Clone(chunk[:first])
	}
	return false, nil
}

// record takes the record before the one that was seen last.
func (t *tailer) record(line []byte, at int64) bool {
	r, err := Parse(line)
	if err != nil {
		return false
	}
	if t.seen && !r.Partial() { // what was seen last begins a line
		if t.want--; t.want == 0 {
			return true
		}
	}
	t.at, t.seen, t.inNewer = at, true, false
	return false
}
