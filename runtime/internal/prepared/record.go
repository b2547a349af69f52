package prepared

import (
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"tero.internal/runtime/internal/cgroup"
	"tero.internal/runtime/internal/idmap"
)

// RecordFile is in a running folder, beside the rootfs.EtcFiles.
const RecordFile = "record.json"

// Record is what Destroy needs, written before anything else is made.
type Record struct {
	// Name is what the sandbox is called before it becomes a container, and
	// what its cgroup is called ever after.
	Name   string       `json:"name"`
	Slot   idmap.Slot   `json:"slot"`
	Cgroup cgroup.Group `json:"cgroup"`
}

// ReadRecord gives the record in a running folder; nil when there is none, as after a
// Create that ended before its first step, or when the machine was started anew.
func ReadRecord(running string) (*Record, error) {
	var r Record
	b, err := os.ReadFile(filepath.Join(running, RecordFile)) //nolint:gosec // a folder of ours
	if err == nil {
		err = json.Unmarshal(b, &r)
	}
	var syntax *json.SyntaxError
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.As(err, &syntax): // ended before, or in, its first write
		return nil, nil //nolint:nilnil // none is an answer
	case err != nil:
		return nil, err
	}
	return &r, nil
}

// write writes the record, which must not be there yet. It survives the death of
// this process, not of the machine: no container outlives the machine either.
func (r *Record) write(running string) error {
	b, err := json.Marshal(r)
	if err != nil {
		return err
	}
	f, err := os.OpenFile(filepath.Join(running, RecordFile), os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600) //nolint:gosec // a folder of ours
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	return errors.Join(err, f.Close())
}
