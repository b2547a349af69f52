package sandbox

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"tero.internal/common/atomicfile"
	"tero.internal/common/workload"
	"tero.internal/runtime/internal/prepared"
	"tero.internal/runtime/keeper"
)

// containersDir has the folders of all containers, in StateDir and in RunDir.
const containersDir = "containers"

// The files of a container's folder, beside keeper.LogFile and keeper.ExitFile.
const (
	configFile = "config.json"
	layerDir   = "layer"
	pointsDir  = "points"
)

// description is what Exec needs of a container.
type description struct {
	Config *specs.Spec    `json:"config"`
	Image  workload.Image `json:"image"`
	Layers []string       `json:"layers"`
}

// folder is what of a container is on disk: its log, exit, layer and configuration.
func (n *Native) folder(id workload.ID) string {
	return filepath.Join(n.StateDir, containersDir, string(id))
}

// running is the folder of what means nothing after the machine has gone down:
// the record, and the files that are mounted into the container. It is there
// from the first step of Create to the last of Destroy, unless the machine went
// down. On tmpfs these small files cost next to nothing; ext4 searches for an
// inode that was not deleted of late, the longer the more containers end.
func (n *Native) running(id workload.ID) string {
	return filepath.Join(n.RunDir, containersDir, string(id))
}

// ended tells whether nothing of a run is in the container's folder on disk.
func (n *Native) ended(id workload.ID) bool {
	for _, name := range []string{keeper.ExitFile, configFile} {
		if _, err := os.Lstat(filepath.Join(n.folder(id), name)); !errors.Is(err, fs.ErrNotExist) {
			return false
		}
	}
	return true
}

// write writes a file, which may be there without content. It survives the death
// of this process, not of the machine: no container outlives the machine either.
func write(path string, data []byte) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600) //nolint:gosec // a folder of ours
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	return errors.Join(err, f.Close())
}

func writeJSON(path string, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("encode %s: %w", filepath.Base(path), err)
	}
	return write(path, b)
}

func readJSON(path string, v any) error {
	b, err := os.ReadFile(path) //nolint:gosec // a folder of ours
	if err != nil {
		return err
	}
	if err := json.Unmarshal(b, v); err != nil {
		return fmt.Errorf("decode %s: %w", path, err)
	}
	return nil
}

// loadRecord gives a container's record; see prepared.ReadRecord.
func (n *Native) loadRecord(id workload.ID) (*prepared.Record, error) {
	return prepared.ReadRecord(n.running(id))
}

// loadExit gives a container's exit record; nil when there is none, or when the
// machine went down with its content.
func (n *Native) loadExit(id workload.ID) (*Exit, error) {
	var x Exit
	err := readJSON(filepath.Join(n.folder(id), keeper.ExitFile), &x)
	var syntax *json.SyntaxError
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.As(err, &syntax):
		return nil, nil //nolint:nilnil // none is an answer
	case err != nil:
		return nil, err
	}
	return &x, nil
}

func (n *Native) writeExit(id workload.ID, x Exit) error {
	b, err := json.Marshal(x)
	if err != nil {
		return fmt.Errorf("encode an exit: %w", err)
	}
	return atomicfile.Write(filepath.Join(n.folder(id), keeper.ExitFile), append(b, '\n'), 0o600)
}

// containers gives the ids of all folders.
func (n *Native) containers() ([]workload.ID, error) {
	var ids []workload.ID
	for _, dir := range []string{n.StateDir, n.RunDir} {
		entries, err := os.ReadDir(filepath.Join(dir, containersDir))
		if err != nil {
			return nil, fmt.Errorf("list containers: %w", err)
		}
		for _, e := range entries {
			if id := workload.ID(e.Name()); id.Validate() == nil && e.IsDir() {
				ids = append(ids, id)
			}
		}
	}
	slices.Sort(ids)
	return slices.Compact(ids), nil
}
