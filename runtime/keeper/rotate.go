package keeper

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"tero.internal/runtime/internal/crilog"
	"tero.internal/runtime/internal/spawn"
)

// rotating is the row of files of one log (see crilog), of which the last is
// written to. It holds no more than maxFiles of maxSize bytes, plus one that is
// empty while a reader is waited for.
type rotating struct {
	folder          *os.File
	file            *os.File
	oldest, current int
	size, maxSize   int64 // 0: no limit
	maxFiles        int
}

// openLog opens a container's log, after what may be there already.
func openLog(folder *os.File, maxSize int64, maxFiles int) (rotating, error) {
	r := rotating{folder: folder, maxSize: maxSize, maxFiles: max(maxFiles, 1)}
	err := spawn.Control(folder, func(fd int) error {
		numbers, err := crilog.Numbers("/proc/self/fd/"+strconv.Itoa(fd), LogFile)
		if err == nil && len(numbers) > 0 {
			r.oldest, r.current = numbers[0], numbers[len(numbers)-1]
		}
		return err
	})
	if err != nil {
		return r, err
	}
	if r.file, err = r.open(r.current, unix.O_CREAT|unix.O_WRONLY|unix.O_APPEND); err != nil {
		return r, err
	}
	st, err := r.file.Stat()
	if err != nil {
		_ = r.file.Close()
		return r, fmt.Errorf("open the log: %w", err)
	}
	r.size = st.Size()
	return r, nil
}

// open opens one of the files.
func (r *rotating) open(number, flags int) (f *os.File, err error) {
	name := crilog.Name(LogFile, number)
	err = spawn.Control(r.folder, func(dir int) error {
		fd, err := unix.Openat(dir, name, flags|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0o600)
		if err != nil {
			return fmt.Errorf("open the log %s: %w", name, err)
		}
		f = os.NewFile(uintptr(fd), name)
		return nil
	})
	return f, err
}

// full tells whether n bytes more are too much for the file. They are whole
// records, so that none is torn.
func (r *rotating) full(n int) bool {
	return r.maxSize > 0 && r.size > 0 && r.size+int64(n) > r.maxSize
}

func (r *rotating) write(b []byte) (int, error) {
	n, err := r.file.Write(b)
	r.size += int64(n)
	return n, err
}

// readerPause is how long a reader is waited for before the next look.
const readerPause = 2 * time.Millisecond

// rotate goes on with another file, and removes the oldest when there are too
// many: not before its readers are through, for whom the container waits, unless
// it has ended. What it can have left in its pipes by then has its bounds. It is
// false when nobody wants the log any more.
func (r *rotating) rotate(o *output) bool {
	for {
		next, err := r.open(r.current+1, unix.O_CREAT|unix.O_EXCL|unix.O_WRONLY|unix.O_APPEND)
		if err == nil {
			_ = r.file.Close()
			r.file, r.size = next, 0
			r.current++
			break
		}
		if !o.pause(diskRetry) {
			return false
		}
	}
	for r.current-r.oldest >= r.maxFiles {
		removed, err := r.removeOldest()
		switch {
		case err != nil:
			if !o.pause(diskRetry) {
				return false
			}
		case removed:
			r.oldest++
		case ended(o.ending):
			return true
		case !o.pause(readerPause):
			return false
		}
	}
	return true
}

// removeOldest removes the oldest file, unless a reader holds it.
func (r *rotating) removeOldest() (removed bool, err error) {
	f, err := r.open(r.oldest, unix.O_RDONLY)
	if errors.Is(err, unix.ENOENT) {
		return true, nil
	}
	if err != nil {
		return false, err
	}
	defer func() { _ = f.Close() }()
	if held, err := crilog.Held(f); err != nil || held {
		return false, err
	}
	err = spawn.Control(r.folder, func(dir int) error {
		return unix.Unlinkat(dir, crilog.Name(LogFile, r.oldest), 0)
	})
	return err == nil, err
}

func (r *rotating) close() {
	if r.file != nil {
		_ = r.file.Close()
		r.file = nil
	}
}

func ended(ch chan struct{}) bool {
	select {
	case <-ch:
		return true
	default:
		return false
	}
}
