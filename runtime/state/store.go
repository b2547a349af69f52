package state

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"

	"github.com/opencontainers/go-digest"

	"tero.internal/common/atomicfile"
	"tero.internal/common/fault"
	"tero.internal/common/workload"
)

// journalName is the one file of a store: JSON lines, appended. The last line
// of a container counts.
const journalName = "containers.jsonl"

// compactAfter is how many lines more than there are containers the journal
// may hold before it is written anew.
const compactAfter = 4096

// entry is one line of the journal: a container as it is now, or its removal.
type entry struct {
	Put    *Container  `json:"put,omitempty"`
	Remove workload.ID `json:"remove,omitempty"`
}

// Store holds the records in memory and in the journal. It is for one process
// at a time; the daemon's lock on the state directory sees to that.
type Store struct {
	path string

	mu      sync.Mutex // guards what follows
	journal *os.File
	size    int64 // bytes of whole lines in the journal
	lines   int
	// nextCompact is how many lines there must be before a compaction that
	// failed is tried again.
	nextCompact int
	byID        map[workload.ID]Container
}

// Open reads the journal in dir, making both when they are not there. A last
// line that a crash cut short is dropped; any other fault in it is a fault of
// kind Corrupt that names the line.
func Open(dir string) (*Store, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("state: %w", err)
	}
	if err := atomicfile.Sweep(dir); err != nil {
		return nil, fmt.Errorf("state: %w", err)
	}
	s := &Store{path: filepath.Join(dir, journalName), byID: map[workload.ID]Container{}}
	f, err := os.OpenFile(s.path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, storeFault(s.path, err)
	}
	s.journal = f
	if err := s.open(); err != nil {
		_ = f.Close()
		return nil, err
	}
	return s, nil
}

// open reads the journal and cuts off what a crash left of a last line. It
// writes nothing else, so that a node starts on a full disk too.
func (s *Store) open() error {
	b, err := io.ReadAll(s.journal)
	if err != nil {
		return fmt.Errorf("state: %w", err)
	}
	if err := s.replay(b); err != nil {
		return err
	}
	s.size = int64(bytes.LastIndexByte(b, '\n') + 1)
	if s.size < int64(len(b)) {
		if err := s.journal.Truncate(s.size); err != nil {
			return fmt.Errorf("state: %w", err)
		}
	}
	return nil
}

func (s *Store) replay(b []byte) error {
	r := bufio.NewReader(bytes.NewReader(b))
	for n := 1; ; n++ {
		line, err := r.ReadBytes('\n')
		if errors.Is(err, io.EOF) { // what follows the last line feed was never acknowledged
			return nil
		}
		s.lines = n
		var e entry
		if err := json.Unmarshal(line, &e); err != nil {
			return fault.New(fault.Corrupt, "%s line %d is damaged: %w", s.path, n, err).
				WithHint("restore the file, or move it away: its containers are then unknown to TERO and removed from the kernel")
		}
		if e.Put != nil {
			s.byID[e.Put.ID] = *e.Put
		} else {
			delete(s.byID, e.Remove)
		}
	}
}

// compact writes the journal anew with one line a container.
func (s *Store) compact() error {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	for _, c := range s.byID {
		if err := enc.Encode(entry{Put: &c}); err != nil {
			return err
		}
	}
	f, err := atomicfile.Replace(s.path, b.Bytes(), 0o600)
	if err != nil {
		return err
	}
	_ = s.journal.Close()
	s.journal, s.size, s.lines = f, int64(b.Len()), len(s.byID)
	return atomicfile.SyncDir(filepath.Dir(s.path))
}

// append adds a line whole or not at all.
func (s *Store) append(e entry, durable bool) error {
	line, err := json.Marshal(e)
	if err != nil {
		return err
	}
	line = append(line, '\n')
	_, err = s.journal.WriteAt(line, s.size)
	if err == nil && durable {
		err = s.journal.Sync()
	}
	if err != nil {
		if terr := s.journal.Truncate(s.size); terr != nil {
			err = errors.Join(err, terr)
		}
		return storeFault(s.path, err)
	}
	s.size += int64(len(line))
	s.lines++
	return nil
}

func storeFault(path string, err error) error {
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		return fault.New(fault.Exhausted, "cannot record the container in %s: the disk is full: %w", path, err).
			WithHint("free space on that file system; nothing was changed")
	}
	return fmt.Errorf("state: %w", err)
}

// Add records a new container. Its name must be free, or that of one that is
// leaving: fault Exists otherwise.
func (s *Store) Add(c Container) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, o := range s.byID {
		if o.Spec.Name == c.Spec.Name && !o.Leaving() {
			return fault.New(fault.Exists, "the name %q is taken by container %s", c.Spec.Name, o.ID.Short()).
				WithHint("remove it with \"tero rm %s\", or choose another name with --name", c.Spec.Name)
		}
	}
	// Not yet durable: a machine that loses power has no container to undo.
	if err := s.append(entry{Put: &c}, false); err != nil {
		return err
	}
	s.byID[c.ID] = c
	return nil
}

// Update changes a container's record and makes it durable. It gives the new
// record; fault NotFound when there is none.
func (s *Store) Update(id workload.ID, change func(*Container)) (Container, error) {
	return s.update(id, change, true)
}

// Removing records that the removal of a container has begun; it is nil for an
// unknown one. Like Remove, it survives the daemon's death and need not survive
// the machine's.
func (s *Store) Removing(id workload.ID) error {
	_, err := s.update(id, func(c *Container) { c.Removing = true }, false)
	if fault.KindOf(err) == fault.NotFound {
		return nil
	}
	return err
}

func (s *Store) update(id workload.ID, change func(*Container), durable bool) (Container, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c, ok := s.byID[id]
	if !ok {
		return Container{}, notFound(string(id))
	}
	change(&c)
	if err := s.append(entry{Put: &c}, durable); err != nil {
		return Container{}, err
	}
	s.byID[id] = c
	return c, nil
}

// Remove forgets a container; it is nil for an unknown one.
func (s *Store) Remove(id workload.ID) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.byID[id]; !ok {
		return nil
	}
	if err := s.append(entry{Remove: id}, false); err != nil {
		return err
	}
	delete(s.byID, id)
	if s.lines > len(s.byID)+compactAfter && s.lines >= s.nextCompact {
		if err := s.compact(); err != nil {
			// The container is forgotten all the same, and no line is lost: try
			// again when the disk has had some time.
			s.nextCompact = s.lines + compactAfter
		}
	}
	return nil
}

// Find gives the container with that name, id, or unique prefix of an id. Of a
// name, one that is leaving comes last. The fault is NotFound, or Invalid when
// several ids start so.
func (s *Store) Find(key string) (Container, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if key == "" {
		return Container{}, fault.New(fault.Invalid, "no container named").WithHint("list them with \"tero ps -a\"")
	}
	// An id comes first: a name may have the form of another container's id, and
	// who is asked about a key and who acts on it must mean the same container.
	if c, ok := s.byID[workload.ID(key)]; ok {
		return c, nil
	}
	var match []Container
	var named *Container
	for id, c := range s.byID {
		if c.Spec.Name == key {
			if named == nil || named.Leaving() && (!c.Leaving() || c.Created.After(named.Created)) {
				named = &c
			}
			continue
		}
		if strings.HasPrefix(string(id), key) {
			match = append(match, c)
		}
	}
	if named != nil {
		return *named, nil
	}
	switch len(match) {
	case 0:
		return Container{}, notFound(key)
	case 1:
		return match[0], nil
	}
	return Container{}, fault.New(fault.Invalid, "%d containers have an id that starts with %q", len(match), key).
		WithHint("give more digits, or the name")
}

func notFound(key string) error {
	return fault.New(fault.NotFound, "there is no container %q", key).WithHint("list them with \"tero ps -a\"")
}

// List gives all containers, oldest first.
func (s *Store) List() []Container {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make([]Container, 0, len(s.byID))
	for _, c := range s.byID {
		out = append(out, c)
	}
	slices.SortFunc(out, func(a, b Container) int {
		if d := a.Created.Compare(b.Created); d != 0 {
			return d
		}
		return strings.Compare(string(a.ID), string(b.ID))
	})
	return out
}

// UsersOf names the containers that use the image with that manifest.
func (s *Store) UsersOf(image digest.Digest) []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var names []string
	for _, c := range s.byID {
		if c.Image.Digest == image {
			names = append(names, c.Spec.Name)
		}
	}
	slices.Sort(names)
	return names
}

// Close closes the journal.
func (s *Store) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.journal.Close()
}
