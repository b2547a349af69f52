package endpoint

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"slices"
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
	// last is the line that counts for each endpoint that is not gone.
	last map[Key][]byte
}

// crowded is how many lines more than four for each endpoint the file may have
// before it is written anew.
const crowded = 4096

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
	line, err := json.Marshal(Record{State: state, Endpoint: e})
	if err != nil {
		return fmt.Errorf("journal of endpoints: %w", err)
	}
	line = append(line, '\n')
	j.mu.Lock()
	defer j.mu.Unlock()
	n, err := j.file.WriteAt(line, j.size)
	if err != nil { // half a line would be damage to whoever opens the file after the next whole one
		return fmt.Errorf("journal of endpoints: %w", errors.Join(err, j.file.Truncate(j.size)))
	}
	j.size += int64(n)
	j.lines++
	if state == Gone {
		delete(j.last, e.Key())
	} else {
		j.last[e.Key()] = line
	}
	if j.lines > 4*len(j.last)+crowded {
		_ = j.compact() // what is in the file counts until it works
	}
	return nil
}

// Rewrite replaces the file by these endpoints, which are ready.
func (j *Journal) Rewrite(endpoints []*Endpoint) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.last = map[Key][]byte{}
	for _, e := range endpoints {
		line, err := json.Marshal(Record{State: Ready, Endpoint: e})
		if err != nil {
			return fmt.Errorf("journal of endpoints: %w", err)
		}
		j.last[e.Key()] = append(line, '\n')
	}
	return j.compact()
}

// compact replaces the file by the lines that count. The caller holds mu.
func (j *Journal) compact() error {
	all := slices.Concat(slices.Collect(maps.Values(j.last))...)
	f, err := atomicfile.Replace(j.path, all, 0o600)
	if err != nil {
		return fmt.Errorf("journal of endpoints: %w", err)
	}
	if j.file != nil {
		_ = j.file.Close()
	}
	j.file, j.size, j.lines = f, int64(len(all)), len(j.last)
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
