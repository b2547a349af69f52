package ipam

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"tero.internal/common/atomicfile"
	"tero.internal/common/fault"
)

// journal is a file of one lease a line; the last line about an address counts.
type journal struct {
	path  string
	file  *os.File
	size  int64
	lines int
	// unnamed is true while a crash of the machine could bring back the file
	// that was at path before this one.
	unnamed bool
}

// openJournal reads the leases, oldest first. A last line that a crash cut off
// was never acknowledged and is left out; any other that cannot be read is an error.
func openJournal(path string) (*journal, []Lease, error) {
	data, err := os.ReadFile(path) //nolint:gosec // the manager's own file
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, nil, fmt.Errorf("leases: %w", err)
	}
	var out []Lease
	for number := 1; len(data) > 0; number++ {
		line, rest, whole := bytes.Cut(data, []byte("\n"))
		data = rest
		var l Lease
		if err := json.Unmarshal(line, &l); err != nil || !l.Address.IsValid() {
			if !whole {
				break
			}
			return nil, nil, fault.New(fault.Corrupt, "%s:%d: not a lease: %.60q", path, number, line).
				WithHint("restore the file, or remove it when no container runs")
		}
		out = append(out, l)
	}
	return &journal{path: path}, out, nil
}

func encode(l Lease) ([]byte, error) {
	b, err := json.Marshal(l)
	if err != nil {
		return nil, fmt.Errorf("lease: %w", err)
	}
	return append(b, '\n'), nil
}

// append adds a line, and waits for the disk if it must be durable. On an
// error the file is as it was.
func (j *journal) append(l Lease, durable bool) error {
	b, err := encode(l)
	if err != nil {
		return err
	}
	if durable {
		if err := j.name(); err != nil {
			return err
		}
	}
	_, err = j.file.WriteAt(b, j.size)
	if err == nil && durable {
		err = unix.Fdatasync(int(j.file.Fd()))
	}
	if err != nil {
		_ = j.file.Truncate(j.size)
		return j.fault(err)
	}
	j.size += int64(len(b))
	j.lines++
	return nil
}

func (j *journal) fault(err error) error {
	if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) {
		return fault.New(fault.Exhausted, "no room on the disk to write a lease to %s: %w", j.path, err).WithHint("free some space")
	}
	return fmt.Errorf("write lease: %w", err)
}

// rewrite replaces the file by the leases that count.
func (j *journal) rewrite(leases []Lease) error {
	var all []byte
	for _, l := range leases {
		b, err := encode(l)
		if err != nil {
			return err
		}
		all = append(all, b...)
	}
	f, err := atomicfile.Replace(j.path, all, 0o600)
	if err != nil {
		return j.fault(err)
	}
	if j.file != nil {
		_ = j.file.Close()
	}
	j.file, j.size, j.lines, j.unnamed = f, int64(len(all)), len(leases), true
	return j.name()
}

// name makes the name of a file that rewrite made durable.
func (j *journal) name() error {
	if !j.unnamed {
		return nil
	}
	if err := atomicfile.SyncDir(filepath.Dir(j.path)); err != nil {
		return j.fault(err)
	}
	j.unnamed = false
	return nil
}

func (j *journal) close() error {
	if j.file == nil {
		return nil
	}
	return j.file.Close()
}
