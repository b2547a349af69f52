// Package volume keeps named volumes: folders of the node that outlive the
// containers they are mounted in.
//
// A volume is the folder DIR/NAME with its record, volume.json, and its files,
// data. It appears by one rename and vanishes by another, so that a crash
// leaves a whole volume or none; what was being made or removed has a name
// that begins with a dot, and the next start clears it away.
package volume

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"tero.internal/common/atomicfile"
	"tero.internal/common/fault"
	"tero.internal/common/workload"
	"tero.internal/runtime/state"
)

// Local is the one driver there is: a folder on the node's disk.
const Local = "local"

const (
	recordFile = "volume.json"
	dataDir    = "data"
)

// Volume is a named volume.
type Volume struct {
	// Name is a DNS label.
	Name    string            `json:"name"`
	Driver  string            `json:"driver"`
	Labels  map[string]string `json:"labels,omitempty"`
	Created time.Time         `json:"created"`
}

// Status is a volume with what is known of its use.
type Status struct {
	Volume
	// Path has its files.
	Path string
	// Containers have it mounted, running or not.
	Containers []workload.ID
}

// Owner is whom the folder of a new volume belongs to, in the ids of containers.
type Owner struct {
	UID, GID uint32
	// Mode has the permission bits.
	Mode uint32
}

// Store has the volumes of one node. It is for one process at a time.
type Store struct {
	dir string

	mu      sync.Mutex // guards what follows
	volumes map[string]Volume
	// holds has the containers that have a volume mounted.
	holds map[string]map[workload.ID]bool
}

// Open reads the volumes in dir and clears away what a crash left half made or
// half removed.
func Open(dir string) (*Store, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fault.New(fault.Unavailable, "the folder of the volumes cannot be made: %w", err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("read the volumes: %w", err)
	}
	s := &Store{dir: dir, volumes: map[string]Volume{}, holds: map[string]map[workload.ID]bool{}}
	for _, e := range entries {
		path := filepath.Join(dir, e.Name())
		if strings.HasPrefix(e.Name(), ".") {
			if err := os.RemoveAll(path); err != nil {
				return nil, fmt.Errorf("clear away a removed volume: %w", err)
			}
			continue
		}
		b, err := os.ReadFile(filepath.Join(path, recordFile)) //nolint:gosec // a folder of ours
		var v Volume
		if err == nil {
			err = json.Unmarshal(b, &v)
		}
		if err == nil && v.Name != e.Name() {
			err = fmt.Errorf("it names the volume %q", v.Name)
		}
		if err != nil {
			return nil, fault.New(fault.Corrupt, "the record of volume %s is damaged: %w", path, err).
				WithHint("restore %s, or move the folder away: the volume is then unknown", recordFile)
		}
		s.volumes[v.Name] = v
	}
	return s, nil
}

// Create makes an empty volume; a fault of kind Exists when there is one.
func (s *Store) Create(name, driver string, labels map[string]string) (Status, error) {
	if driver != "" && driver != Local {
		return Status{}, fault.New(fault.Unsupported, "volume driver %q does not exist", driver).WithHint("the only one is %q", Local)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.volumes[name]; ok {
		return Status{}, fault.New(fault.Exists, "volume %q exists", name)
	}
	if err := s.create(Volume{Name: name, Driver: Local, Labels: labels}, Owner{Mode: 0o755}); err != nil {
		return Status{}, err
	}
	return s.status(name), nil
}

// create makes a volume on disk. The caller holds mu.
func (s *Store) create(v Volume, owner Owner) (err error) {
	if err := workload.ValidateName(v.Name); err != nil {
		return fault.New(fault.Invalid, "volume: %w", err)
	}
	v.Created = time.Now().UTC()
	record, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("make volume %s: %w", v.Name, err)
	}
	dir, err := os.MkdirTemp(s.dir, ".new-")
	if err != nil {
		return explainDisk(v.Name, err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(explainDisk(v.Name, err), os.RemoveAll(dir))
		}
	}()
	data := filepath.Join(dir, dataDir)
	if err := os.Mkdir(data, 0o700); err != nil {
		return err
	}
	if err := errors.Join(os.Lchown(data, int(owner.UID), int(owner.GID)), unix.Chmod(data, owner.Mode)); err != nil {
		return err
	}
	if err := atomicfile.Write(filepath.Join(dir, recordFile), record, 0o600); err != nil {
		return err
	}
	if err := unix.Renameat2(unix.AT_FDCWD, dir, unix.AT_FDCWD, filepath.Join(s.dir, v.Name), unix.RENAME_NOREPLACE); err != nil {
		return err
	}
	if err := atomicfile.SyncDir(s.dir); err != nil {
		return err
	}
	s.volumes[v.Name] = v
	return nil
}

func explainDisk(name string, err error) error {
	if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) {
		return fault.New(fault.Exhausted, "volume %s: the disk of the state directory is full: %w", name, err).
			WithHint("make room, or remove containers, volumes and images")
	}
	return fmt.Errorf("make volume %s: %w", name, err)
}

// status gives a volume that exists. The caller holds mu.
func (s *Store) status(name string) Status {
	return Status{
		Volume: s.volumes[name], Path: s.path(name),
		Containers: slices.Sorted(maps.Keys(s.holds[name])),
	}
}

func (s *Store) path(name string) string { return filepath.Join(s.dir, name, dataDir) }

// List gives the volumes by name.
func (s *Store) List() []Status {
	s.mu.Lock()
	defer s.mu.Unlock()
	var list []Status
	for _, name := range slices.Sorted(maps.Keys(s.volumes)) {
		list = append(list, s.status(name))
	}
	return list
}

// Find gives one volume.
func (s *Store) Find(name string) (Status, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.volumes[name]; !ok {
		return Status{}, notFound(name)
	}
	return s.status(name), nil
}

func notFound(name string) error {
	return fault.New(fault.NotFound, "there is no volume %q", name).WithHint("\"tero volume ls\" lists them")
}

// Remove removes a volume that no container has mounted, with its files.
func (s *Store) Remove(name string) error {
	s.mu.Lock()
	gone, err := s.hide(name)
	s.mu.Unlock()
	if err != nil {
		return err
	}
	if err := os.RemoveAll(gone); err != nil {
		return fmt.Errorf("volume %s is removed, but not all of its files, which %s still has: %w", name, gone, err)
	}
	return nil
}

// hide takes a volume away from everybody and gives the folder that is left to
// be deleted. The caller holds mu.
func (s *Store) hide(name string) (string, error) {
	if _, ok := s.volumes[name]; !ok {
		return "", notFound(name)
	}
	if n := len(s.holds[name]); n > 0 {
		first := slices.Min(slices.Collect(maps.Keys(s.holds[name])))
		return "", fault.New(fault.Conflict, "volume %q is mounted in %d containers, such as %s", name, n, first.Short()).
			WithHint("remove them first: \"tero rm %s\"", first.Short())
	}
	gone, err := os.MkdirTemp(s.dir, ".gone-")
	if err != nil {
		return "", fmt.Errorf("remove volume %s: %w", name, err)
	}
	if err := os.Rename(filepath.Join(s.dir, name), filepath.Join(gone, name)); err != nil {
		return "", errors.Join(fmt.Errorf("remove volume %s: %w", name, err), os.Remove(gone))
	}
	delete(s.volumes, name)
	return gone, atomicfile.SyncDir(s.dir)
}

// Prune removes every volume with all of the labels that no container has
// mounted, and names those that it removed.
func (s *Store) Prune(labels map[string]string) (removed []string, err error) {
	for _, v := range s.List() {
		if !has(v.Labels, labels) {
			continue
		}
		err := s.Remove(v.Name)
		switch fault.KindOf(err) {
		case fault.Conflict, fault.NotFound: // in use, or gone meanwhile
			continue
		}
		if err != nil {
			return removed, err
		}
		removed = append(removed, v.Name)
	}
	return removed, nil
}

func has(labels, want map[string]string) bool {
	for k, v := range want {
		if got, ok := labels[k]; !ok || got != v {
			return false
		}
	}
	return true
}

// Use holds a volume for a container until Release, and gives the folder with
// its files. A volume that does not exist is made, for owner. undo takes the
// hold back, unless the container had it before.
func (s *Store) Use(ctx context.Context, name string, container workload.ID, owner Owner) (path string, undo func(), err error) {
	if err := ctx.Err(); err != nil {
		return "", nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.volumes[name]; !ok {
		if err := s.create(Volume{Name: name, Driver: Local}, owner); err != nil {
			return "", nil, err
		}
	}
	if s.holds[name][container] {
		return s.path(name), func() {}, nil
	}
	s.hold(name, container)
	return s.path(name), func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.release(name, container)
	}, nil
}

// Restore holds what the recorded containers had before a restart.
func (s *Store) Restore(containers []state.Container) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range containers {
		for _, m := range c.Spec.Mounts {
			if m.Type == workload.MountVolume {
				s.hold(m.Source, c.ID)
			}
		}
	}
}

// hold keeps a volume from being removed. The caller holds mu.
func (s *Store) hold(name string, container workload.ID) {
	if s.holds[name] == nil {
		s.holds[name] = map[workload.ID]bool{}
	}
	s.holds[name][container] = true
}

// Release ends every hold of a container.
func (s *Store) Release(container workload.ID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for name := range s.holds {
		s.release(name, container)
	}
}

// release ends one hold. The caller holds mu.
func (s *Store) release(name string, container workload.ID) {
	delete(s.holds[name], container)
	if len(s.holds[name]) == 0 {
		delete(s.holds, name)
	}
}
