package crilog

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Name gives the name of a log's file by its number; base is the first one's.
func Name(base string, number int) string {
	if number == 0 {
		return base
	}
	return base + "." + strconv.Itoa(number)
}

// Numbers gives the numbers of a log's files in a folder, in order.
func Numbers(folder, base string) ([]int, error) {
	entries, err := os.ReadDir(folder)
	if err != nil {
		return nil, fmt.Errorf("list the files of a log: %w", err)
	}
	var list []int
	for _, e := range entries {
		rest, ok := strings.CutPrefix(e.Name(), base)
		if !ok {
			continue
		}
		number := 0
		if rest != "" {
			if number, err = strconv.Atoi(strings.TrimPrefix(rest, ".")); err != nil || Name(base, number) != e.Name() {
				continue
			}
		}
		list = append(list, number)
	}
	slices.Sort(list)
	return list, nil
}

// files are the files of one log, as a reader sees them.
type files struct {
	folder, base string
	keep         bool // see Options.Keep
}

func (l *files) numbers() ([]int, error) { return Numbers(l.folder, l.base) }

// open opens a file of the log; fs.ErrNotExist when it is gone, or is about to.
func (l *files) open(number int) (*os.File, error) {
	f, err := os.Open(filepath.Join(l.folder, Name(l.base, number)))
	if err != nil || !l.keep {
		return f, err
	}
	if err := Hold(f); err != nil {
		_ = f.Close()
		return nil, err
	}
	return f, nil
}

// oldest opens the oldest file that is there.
func (l *files) oldest() (int, *os.File, error) { return l.pick(func(n []int) int { return n[0] }) }

// newest opens the newest.
func (l *files) newest() (int, *os.File, error) {
	return l.pick(func(n []int) int { return n[len(n)-1] })
}

func (l *files) pick(which func([]int) int) (int, *os.File, error) {
	for {
		numbers, err := l.numbers()
		if err != nil {
			return 0, nil, err
		}
		if len(numbers) == 0 {
			return 0, nil, fmt.Errorf("open log: %w", &fs.PathError{Op: "open", Path: filepath.Join(l.folder, l.base), Err: fs.ErrNotExist})
		}
		n := which(numbers)
		f, err := l.open(n)
		if !errors.Is(err, fs.ErrNotExist) {
			return n, f, err
		}
	}
}

// after gives the next file's number; false when there is none.
func (l *files) after(number int) (int, bool, error) {
	if _, err := os.Lstat(filepath.Join(l.folder, Name(l.base, number+1))); err == nil {
		return number + 1, true, nil
	}
	numbers, err := l.numbers()
	if errors.Is(err, fs.ErrNotExist) { // the log was removed
		return 0, false, nil
	}
	i, _ := slices.BinarySearch(numbers, number+1)
	if err != nil || i == len(numbers) {
		return 0, false, err
	}
	return numbers[i], true, nil
}

// next opens the file after one that was read, and gives that up; it gives nil
// when there is none. Without keep some between the two may be gone.
func (l *files) next(number int, f *os.File) (int, *os.File, error) {
	for {
		n, ok, err := l.after(number)
		if err != nil || !ok {
			return number, nil, err
		}
		following, err := l.open(n)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return number, nil, err
		}
		_ = f.Close()
		return n, following, nil
	}
}

// Hold keeps the writer from removing a file of a log, and what comes after it,
// until the file is closed. It gives fs.ErrNotExist for one that was removed, or
// is being.
func Hold(f *os.File) error {
	return flock(f, func(fd int) error {
		var st unix.Stat_t
		err := lock(fd, unix.LOCK_SH)
		if err == nil {
			err = unix.Fstat(fd, &st)
		}
		if errors.Is(err, unix.EWOULDBLOCK) || err == nil && st.Nlink == 0 {
			return fs.ErrNotExist
		}
		return err
	})
}

// Held tells whether a reader holds the file. When none does, none can any more.
func Held(f *os.File) (held bool, err error) {
	err = flock(f, func(fd int) error { return lock(fd, unix.LOCK_EX) })
	if errors.Is(err, unix.EWOULDBLOCK) {
		return true, nil
	}
	return false, err
}

func lock(fd, how int) error {
	for {
		if err := unix.Flock(fd, how|unix.LOCK_NB); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

func flock(f *os.File, do func(fd int) error) error {
	raw, err := f.SyscallConn()
	if err != nil {
		return err
	}
	var failed error
	if err := raw.Control(func(fd uintptr) { failed = do(int(fd)) }); err != nil {
		return err
	}
	return failed
}
