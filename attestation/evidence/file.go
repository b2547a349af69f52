package evidence

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"

	"tero.internal/attestation/internal/disk"
	"tero.internal/attestation/record"
	"tero.internal/common/fault"
)

// growth is how far ahead the log's space is reserved, so that most records
// change no metadata and fdatasync has only their own block to write.
const growth = 256 << 10

// logFile is the launch log on disk: record.Header, records, and then zeros to
// its end. A record never begins with a zero byte.
type logFile struct {
	f *os.File
	// size is where the next record goes; space is how long the file is.
	size, space int64
}

// openLogFile opens or makes the log and locks it against a second daemon.
func openLogFile(path string) (*logFile, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, 0o600) //nolint:gosec // the path is made of the state directory and a constant.
	if err != nil {
		return nil, disk.Fault("open the launch log", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		_ = f.Close()
		return nil, fault.New(fault.Exists, "the launch log %s is in use by another process: %w", path, err).
			WithHint("stop the terod that runs with this state directory, or give this one another --state-dir")
	}
	fi, err := f.Stat()
	if err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("open the launch log: %w", err)
	}
	return &logFile{f: f, space: fi.Size()}, nil
}

// scan gives each record in turn and where it ends. Its error is what is wrong
// with the first record that cannot be read: a write that a crash tore, or
// tampering; only the register can tell which. size is then where it begins.
func (l *logFile) scan(each func(e *record.Entry, end int64)) error {
	header := record.Header()
	buf := make([]byte, 0, 1<<20)
	r := io.NewSectionReader(l.f, 0, l.space)
	fill := func() error {
		n, err := io.ReadFull(r, buf[len(buf):cap(buf)])
		buf = buf[:len(buf)+n]
		if errors.Is(err, io.ErrUnexpectedEOF) {
			return io.EOF
		}
		return err
	}
	end := fill()
	if end != nil && !errors.Is(end, io.EOF) {
		return end
	}
	if rest, ok := bytes.CutPrefix(buf, header); ok {
		l.size = int64(len(header))
		buf = append(buf[:0], rest...)
	} else if zero(buf) && errors.Is(end, io.EOF) {
		return nil
	} else {
		return errors.New("the launch log does not begin as it must")
	}
	rest := buf
	for n := 0; ; n++ {
		e, after, err := record.Decode(rest)
		if errors.Is(err, record.ErrShort) && end == nil {
			buf = append(buf[:0], rest...)
			if end = fill(); end != nil && !errors.Is(end, io.EOF) {
				return end
			}
			rest = buf
			e, after, err = record.Decode(rest)
		}
		if err != nil {
			if l.onlyZeros() {
				return nil
			}
			return fmt.Errorf("record %d: %w", n, err)
		}
		l.size += int64(len(rest) - len(after))
		each(&e, l.size)
		rest = after
	}
}

// onlyZeros tells whether nothing but reserved space follows the records.
func (l *logFile) onlyZeros() bool {
	buf := make([]byte, 64<<10)
	for at := l.size; at < l.space; {
		n, err := l.f.ReadAt(buf[:min(int64(len(buf)), l.space-at)], at)
		if !zero(buf[:n]) || (err != nil && !errors.Is(err, io.EOF)) {
			return false
		}
		if n == 0 {
			break
		}
		at += int64(n)
	}
	return true
}

func zero(b []byte) bool {
	for _, c := range b {
		if c != 0 {
			return false
		}
	}
	return true
}

// append adds b and makes it durable. After an error the log is as it was.
func (l *logFile) append(b []byte) error {
	err := l.reserve(int64(len(b)))
	if err == nil {
		_, err = l.f.WriteAt(b, l.size)
	}
	if err == nil {
		err = unix.Fdatasync(int(l.f.Fd()))
	}
	if err != nil {
		if undo := l.cut(); undo != nil {
			err = fmt.Errorf("%w (and taking it back failed: %w)", err, undo)
		}
		return disk.Fault("write the launch log", err)
	}
	l.size += int64(len(b))
	l.space = max(l.space, l.size)
	return nil
}

// reserve makes room for n more bytes.
func (l *logFile) reserve(n int64) error {
	need := l.size + n - l.space
	if need <= 0 {
		return nil
	}
	var err error
	for _, more := range []int64{max(need, growth), need} {
		err = unix.Fallocate(int(l.f.Fd()), 0, l.space, more)
		if err == nil {
			l.space += more
			return nil
		}
		if errors.Is(err, unix.EOPNOTSUPP) {
			return nil // the write itself makes the room
		}
	}
	return fmt.Errorf("reserve space: %w", err)
}

// cut removes what follows the records.
func (l *logFile) cut() error {
	if err := l.f.Truncate(l.size); err != nil {
		return err
	}
	l.space = l.size
	return nil
}
