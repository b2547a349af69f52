// Package ring keeps the newest records of a kind in bounded space on disk. A
// record that Append returned for survives the death of the process at any
// moment; after a power failure the newest may be missing, never damaged ones
// taken for good.
//
// It is two files of lines, NAME.log and the one before it, NAME.old.log:
//
//	CRC32C(hex) SP mark SP id SP payload LF
//
// When NAME.log is full it takes the place of NAME.old.log.
package ring

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"

	"tero.internal/common/atomicfile"
)

// ErrNotFound is an id that no record has (any more).
var ErrNotFound = errors.New("no such record")

// ErrAmbiguous is the beginning of more than one id.
var ErrAmbiguous = errors.New("more than one record has an id that begins so")

// maxLine bounds a record.
const maxLine = 1 << 20

// Ring is one ring. It is safe for use by many goroutines.
type Ring struct {
	path, oldPath string
	max           int64 // bytes of each file

	mu           sync.Mutex // guards all below
	current, old *os.File   // old is nil until the first change
	size         int64
	entries      []entry // oldest first
	skipped      int
}

type entry struct {
	id   string
	mark byte
	at   int64
	n    int
	old  bool
}

// Open opens or makes the ring NAME in dir; it holds at most max bytes on disk.
func Open(dir, name string, max int64) (*Ring, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("open ring: %w", err)
	}
	r := &Ring{path: filepath.Join(dir, name+".log"), oldPath: filepath.Join(dir, name+".old.log"), max: max / 2}
	var err error
	if r.old, err = os.OpenFile(r.oldPath, os.O_RDONLY, 0); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("open ring: %w", err)
	}
	if r.old != nil {
		if _, err := r.load(r.old, true); err != nil {
			return nil, errors.Join(err, r.Close())
		}
	}
	if r.current, err = os.OpenFile(r.path, os.O_RDWR|os.O_CREATE, 0o600); err != nil {
		return nil, errors.Join(fmt.Errorf("open ring: %w", err), r.Close())
	}
	if r.size, err = r.load(r.current, false); err == nil {
		err = r.current.Truncate(r.size) // what a killed writer left half done
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open ring: %w", err), r.Close())
	}
	return r, nil
}

// load reads the entries of a file and gives where its last whole line ends.
func (r *Ring) load(f *os.File, old bool) (end int64, err error) {
	br := bufio.NewReaderSize(f, 64<<10)
	for {
		line, err := br.ReadBytes('\n')
		if errors.Is(err, io.EOF) {
			return end, nil
		}
		if err != nil {
			return end, fmt.Errorf("read %s: %w", f.Name(), err)
		}
		if mark, id, payload, ok := decode(line); ok {
			at := end + int64(len(line)-len(payload)-1)
			r.entries = append(r.entries, entry{id: id, mark: mark, at: at, n: len(payload), old: old})
		} else {
			r.skipped++
		}
		end += int64(len(line))
	}
}

func decode(line []byte) (mark byte, id string, payload []byte, ok bool) {
	sum, rest, found := bytes.Cut(bytes.TrimSuffix(line, []byte("\n")), []byte(" "))
	if !found || len(rest) < 4 || rest[1] != ' ' {
		return 0, "", nil, false
	}
	want, err := strconv.ParseUint(string(sum), 16, 32)
	if err != nil || uint32(want) != checksum(rest) {
		return 0, "", nil, false
	}
	name, payload, found := bytes.Cut(rest[2:], []byte(" "))
	return rest[0], string(name), payload, found
}

func checksum(b []byte) uint32 { return crc32.Checksum(b, crc32.MakeTable(crc32.Castagnoli)) }

// Skipped is how many damaged lines Open found and left out.
func (r *Ring) Skipped() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.skipped
}

// Append adds a record. mark is a letter that Newest can select by; payload
// has no line feed, id no space.
func (r *Ring) Append(id string, mark byte, payload []byte) error {
	body := make([]byte, 0, len(payload)+len(id)+16)
	body = append(body, mark, ' ')
	body = append(body, id...)
	body = append(body, ' ')
	head := 9 + len(body)
	body = append(body, payload...)
	line := fmt.Appendf(make([]byte, 0, len(body)+10), "%08x %s\n", checksum(body), body)
	if bytes.IndexByte(body, '\n') >= 0 || strings.ContainsAny(id, " \n") || id == "" || len(line) > maxLine {
		return fmt.Errorf("append to %s: the record has no proper form", r.path)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.current == nil {
		return fmt.Errorf("append to %s: %w", r.path, os.ErrClosed)
	}
	if r.size > 0 && r.size+int64(len(line)) > r.max {
		if err := r.turn(); err != nil {
			return err
		}
	}
	if _, err := r.current.WriteAt(line, r.size); err != nil {
		// The next record goes over what was written of this one.
		return errors.Join(fmt.Errorf("append to %s: %w", r.path, err), r.current.Truncate(r.size))
	}
	r.entries = append(r.entries, entry{id: id, mark: mark, at: r.size + int64(head), n: len(payload)})
	r.size += int64(len(line))
	return nil
}

// turn begins a new file and forgets the records of the older.
func (r *Ring) turn() error {
	if err := r.current.Sync(); err != nil {
		return fmt.Errorf("sync %s: %w", r.path, err)
	}
	fresh, err := os.CreateTemp(filepath.Dir(r.path), "."+filepath.Base(r.path)+"-")
	if err != nil {
		return fmt.Errorf("begin a new %s: %w", r.path, err)
	}
	if err = os.Rename(r.path, r.oldPath); err == nil {
		err = os.Rename(fresh.Name(), r.path)
	}
	if err == nil {
		err = atomicfile.SyncDir(filepath.Dir(r.path))
	}
	if err != nil {
		return errors.Join(fmt.Errorf("begin a new %s: %w", r.path, err), fresh.Close(), os.Remove(fresh.Name()))
	}
	if r.old != nil {
		_ = r.old.Close() // only ever read
	}
	r.old, r.current, r.size = r.current, fresh, 0
	var kept []entry
	for _, e := range r.entries {
		if !e.old {
			e.old = true
			kept = append(kept, e)
		}
	}
	r.entries = kept
	return nil
}

// Get gives the record with an id, or with the only id that begins so.
func (r *Ring) Get(id string) ([]byte, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	found := -1
	for i, e := range slices.Backward(r.entries) {
		switch {
		case e.id == id:
			return r.read(e)
		case !strings.HasPrefix(e.id, id):
		case found >= 0 && r.entries[found].id != e.id:
			return nil, ErrAmbiguous
		case found < 0:
			found = i
		}
	}
	if found < 0 {
		return nil, ErrNotFound
	}
	return r.read(r.entries[found])
}

// Newest gives up to limit records, newest first; only those with the mark
// when it is not 0.
func (r *Ring) Newest(limit int, mark byte) ([][]byte, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	var out [][]byte
	for i := len(r.entries) - 1; i >= 0 && len(out) < limit; i-- {
		if e := r.entries[i]; mark == 0 || e.mark == mark {
			b, err := r.read(e)
			if err != nil {
				return out, err
			}
			out = append(out, b)
		}
	}
	return out, nil
}

func (r *Ring) read(e entry) ([]byte, error) {
	f := r.current
	if e.old {
		f = r.old
	}
	if f == nil {
		return nil, fmt.Errorf("read record %s: %w", e.id, os.ErrClosed)
	}
	b := make([]byte, e.n)
	if _, err := f.ReadAt(b, e.at); err != nil {
		return nil, fmt.Errorf("read record %s: %w", e.id, err)
	}
	return b, nil
}

// Close makes everything durable and closes the files.
func (r *Ring) Close() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	var errs []error
	if r.current != nil {
		errs = append(errs, r.current.Sync(), r.current.Close())
	}
	if r.old != nil {
		errs = append(errs, r.old.Close())
	}
	r.current, r.old = nil, nil
	return errors.Join(errs...)
}
