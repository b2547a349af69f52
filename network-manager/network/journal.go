package network

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

// The states of an endpoint in the journal:
//
//	making ──▶ ready ──▶ gone
//	   └──────────────────▲
//
// What is "making" after a crash was never acknowledged, and is removed.
const (
	stateMaking = "making"
	stateReady  = "ready"
	stateGone   = "gone"
)

type record struct {
	State    string    `json:"state"`
	Endpoint *Endpoint `json:"endpoint"`
}

// journal is a file of one record a line; the last about an endpoint counts. It
// lies on a tmpfs and is not synced: it has to outlive the process, not the
// machine, because no endpoint outlives that.
type journal struct {
	path string

	mu    sync.Mutex // guards file and lines
	file  *os.File
	lines int
}

// openJournal reads the endpoints that are not gone. A last line that is cut
// off is left out: its endpoint was not acknowledged.
func openJournal(path string) (*journal, map[key]record, error) {
	data, err := os.ReadFile(path) //nolint:gosec // the manager's own file
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, nil, fmt.Errorf("journal of endpoints: %w", err)
	}
	out := map[key]record{}
	for number := 1; len(data) > 0; number++ {
		line, rest, whole := bytes.Cut(data, []byte("\n"))
		data = rest
		var r record
		if err := json.Unmarshal(line, &r); err != nil || r.Endpoint == nil || !r.Endpoint.Address.Is4() {
			if !whole {
				break
			}
			return nil, nil, fault.New(fault.Corrupt, "%s:%d: not a record of an endpoint: %.60q", path, number, line).
				WithHint("remove the file when no container runs")
		}
		if r.State == stateGone {
			delete(out, r.Endpoint.key())
			continue
		}
		out[r.Endpoint.key()] = r
	}
	return &journal{path: path}, out, nil
}

// write adds a record.
func (j *journal) write(state string, e *Endpoint) error {
	b, err := json.Marshal(record{State: state, Endpoint: e})
	if err != nil {
		return fmt.Errorf("journal of endpoints: %w", err)
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	if _, err := j.file.Write(append(b, '\n')); err != nil {
		return fmt.Errorf("journal of endpoints: %w", err)
	}
	j.lines++
	return nil
}

// crowded tells whether most of the file is about what is gone.
func (j *journal) crowded(endpoints int) bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.lines > 4*endpoints+4096
}

// rewrite replaces the file by these endpoints, which are ready.
func (j *journal) rewrite(endpoints []record) error {
	var all []byte
	for _, r := range endpoints {
		b, err := json.Marshal(r)
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
	f, err := os.OpenFile(j.path, os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		return fmt.Errorf("journal of endpoints: %w", err)
	}
	if j.file != nil {
		_ = j.file.Close()
	}
	j.file, j.lines = f, len(endpoints)
	return nil
}

func (j *journal) close() error {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.file.Close()
}
