package endpoint

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"sync"

	"tero.internal/common/atomicfile"
	"tero.internal/common/fault"
)

// State is how far an endpoint is, by the journal:
//
//	making ──▶ ready ──▶ gone
//	   └──────────────────▲
//
// What is "making" after a crash was never acknowledged, and is removed.
type State string

// The states.
const (
	Making State = "making"
	Ready  State = "ready"
	Gone   State = "gone"
)

// Record is one line of the journal.
type Record struct {
	State    State     `json:"state"`
	Endpoint *Endpoint `json:"endpoint"`
}

// Journal is a file of one record a line; the last about an endpoint counts. It
// lies on a tmpfs and is not synced: it has to outlive the process, not the
// machine, because no endpoint outlives that.
type Journal struct {
	path string

	mu    sync.Mutex // guards what follows
	file  *os.File
	size  int64 // bytes of whole lines in file
	lines int
}

// OpenJournal reads the endpoints that are not gone. Write wants Rewrite first. A last line that is cut
// off is left out: its endpoint was not acknowledged.
func OpenJournal(path string) (*Journal, map[Key]Record, error) {
	data, err := os.ReadFile(path) //nolint:gosec // the manager's own file
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, nil, fmt.Errorf("journal of endpoints: %w", err)
	}
	out := map[Key]Record{}
	for number := 1; len(data) > 0; number++ {
		line, rest, whole := bytes.Cut(data, []byte("\n"))
		data = rest
		var r Record
		if err := json.Unmarshal(line, &r); err != nil || r.Endpoint == nil || !r.Endpoint.Address.Is4() {
			if !whole {
				break
			}
			return nil, nil, fault.New(fault.Corrupt, "%s:%d: not a record of an endpoint: %.60q", path, number, line).
				WithHint("remove the file when no container runs")
		}
		if r.State == Gone {
			delete(out, r.Endpoint.Key())
			continue
		}
		out[r.Endpoint.Key()] = r
	}
	return &Journal{path: path}, out, nil
}

// Write adds a record.
func (j *Journal) Write(state State, e *Endpoint) error {
	b, err := json.Marshal(Record{State: state, Endpoint: e})
	if err != nil {
		return fmt.Errorf("journal of endpoints: %w", err)
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	n, err := j.file.WriteAt(append(b, '\n'), j.size)
	if err != nil { // half a line would be damage to whoever opens the file after the next whole one
		return fmt.Errorf("journal of endpoints: %w", errors.Join(err, j.file.Truncate(j.size)))
	}
	j.size += int64(n)
	j.lines++
	return nil
}

// Crowded tells whether most of the file is about what is gone.
func (j *Journal) Crowded(endpoints int) bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.lines > 4*endpoints+4096
}

// Rewrite replaces the file by these endpoints, which are ready.
func (j *Journal) Rewrite(endpoints []*Endpoint) error {
	var all []byte
	for _, e := range endpoints {
		b, err := json.Marshal(Record{State: Ready, Endpoint: e})
		if err != nil {
			return fmt.Errorf("journal of endpoints: %w", err)
		}
		all = append(append(all, b...), '\n')
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	if err := atomicfile.Write(j.path, all, 0o600); err != nil {
		return fmt.Errorf("journal of endpoints: %w", err)
	}
	f, err := os.OpenFile(j.path, os.O_WRONLY, 0)
	if err != nil {
		return fmt.Errorf("journal of endpoints: %w", err)
	}
	if j.file != nil {
		_ = j.file.Close()
	}
	j.file, j.size, j.lines = f, int64(len(all)), len(endpoints)
	return nil
}

// Close closes the file.
func (j *Journal) Close() error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.file == nil {
		return nil
	}
	return j.file.Close()
}
