package crilog

import (
	"errors"
	"os"
	"sync"
)

// Holds hold logs from before their writer begins, for readers that will hold
// them later. The zero value is ready.
type Holds struct {
	mu    sync.Mutex          // guards files
	files map[string]*os.File // by path; nil before Begin
}

// Ask asks for the log at path to be held.
func (h *Holds) Ask(path string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.files == nil {
		h.files = map[string]*os.File{}
	}
	h.files[path] = nil
}

// Begin holds the log at path, whose writer is about to begin, if Ask asked for it.
func (h *Holds) Begin(path string) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if f, asked := h.files[path]; !asked || f != nil {
		return nil
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDONLY, 0o600) //nolint:gosec // a log of ours
	if err != nil {
		return err
	}
	if err := Hold(f); err != nil {
		return errors.Join(err, f.Close())
	}
	h.files[path] = f
	return nil
}

// Release ends the hold, if there is one.
func (h *Holds) Release(path string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if f := h.files[path]; f != nil {
		_ = f.Close()
	}
	delete(h.files, path)
}

// Close ends all holds.
func (h *Holds) Close() {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, f := range h.files {
		if f != nil {
			_ = f.Close()
		}
	}
	h.files = nil
}
