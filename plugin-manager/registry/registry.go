// Package registry keeps the installed plugins on disk: a record for each, and
// its package as an OCI layout.
//
//	installed.json           the records, replaced atomically
//	packages/<sha256>/       the OCI layout of a package, by its digest
//	packages/.incoming-*/    a package that is being received
//
// A record is written after its package is durable and removed before it, so
// that a crash leaves at most a package without a record, which Open removes.
package registry

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"

	"tero.internal/common/atomicfile"
	"tero.internal/common/fault"
	"tero.internal/common/pluginpkg"
)

const schema = "tero.plugins/v1"

// Record is what the operator decided about one plugin.
type Record struct {
	Name   string        `json:"name"`
	Digest digest.Digest `json:"digest"`
	// Signer and KeyID are of the key that the package was verified with.
	Signer    string          `json:"signer"`
	KeyID     string          `json:"keyId"`
	Grants    []string        `json:"grants"`
	Settings  json.RawMessage `json:"settings"`
	Installed time.Time       `json:"installed"`
}

type file struct {
	Schema  string   `json:"schema"`
	Plugins []Record `json:"plugins"`
}

// Registry is the folder of installed plugins.
type Registry struct {
	dir string

	mu      sync.Mutex // guards records and installed.json
	records map[string]Record
}

// Open reads the registry at dir, which it makes, and removes what crashes left.
func Open(dir string) (*Registry, error) {
	r := &Registry{dir: dir, records: map[string]Record{}}
	if err := os.MkdirAll(r.packages(), 0o700); err != nil {
		return nil, fmt.Errorf("plugin registry: %w", err)
	}
	if err := atomicfile.Sweep(r.dir); err != nil {
		return nil, fmt.Errorf("plugin registry: %w", err)
	}
	b, err := os.ReadFile(r.file())
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return nil, fmt.Errorf("plugin registry: %w", err)
	default:
		var f file
		err := json.Unmarshal(b, &f)
		if err == nil && f.Schema != schema {
			err = fmt.Errorf("schema %q", f.Schema)
		}
		if err != nil {
			return nil, fault.New(fault.Corrupt, "%s is not a plugin registry of schema %s: %w", r.file(), schema, err).
				WithHint("restore it from a backup, or remove it and install the plugins again")
		}
		for _, rec := range f.Plugins {
			r.records[rec.Name] = rec
		}
	}
	return r, r.collect()
}

func (r *Registry) file() string     { return filepath.Join(r.dir, "installed.json") }
func (r *Registry) packages() string { return filepath.Join(r.dir, "packages") }

// PackageDir is the OCI layout of a package.
func (r *Registry) PackageDir(d digest.Digest) string {
	return filepath.Join(r.packages(), d.Encoded())
}

// collect removes packages that no record names.
func (r *Registry) collect() error {
	keep := map[string]bool{}
	for _, rec := range r.records {
		if err := rec.Digest.Validate(); err != nil {
			return fault.New(fault.Corrupt, "%s: digest of plugin %s: %w", r.file(), rec.Name, err).
				WithHint("remove the entry and install the plugin again")
		}
		keep[rec.Digest.Encoded()] = true
	}
	entries, err := os.ReadDir(r.packages())
	if err != nil {
		return fmt.Errorf("plugin registry: %w", err)
	}
	for _, e := range entries {
		if !keep[e.Name()] {
			if err := os.RemoveAll(filepath.Join(r.packages(), e.Name())); err != nil {
				return fmt.Errorf("plugin registry: %w", err)
			}
		}
	}
	return nil
}

// List gives the records, sorted by name.
func (r *Registry) List() []Record {
	r.mu.Lock()
	defer r.mu.Unlock()
	var all []Record
	for _, rec := range r.records {
		all = append(all, rec)
	}
	slices.SortFunc(all, func(a, b Record) int { return strings.Compare(a.Name, b.Name) })
	return all
}

// Incoming is a package that was received but is not kept yet.
type Incoming struct {
	// Package is read but not verified.
	Package *pluginpkg.Package
	dir     string
}

// Discard removes it, unless it was kept.
func (i *Incoming) Discard() error { return os.RemoveAll(i.dir) }

// Receive takes a tar of a package's OCI layout. Discard what it gives.
func (r *Registry) Receive(ctx context.Context, tar io.Reader) (_ *Incoming, err error) {
	dir, err := os.MkdirTemp(r.packages(), ".incoming-")
	if err != nil {
		return nil, fmt.Errorf("receive plugin: %w", err)
	}
	in := &Incoming{dir: dir}
	defer func() {
		if err != nil {
			err = errors.Join(err, in.Discard())
		}
	}()
	if err := pluginpkg.ReadTar(ctx, tar, dir); err != nil {
		return nil, err
	}
	if in.Package, err = pluginpkg.Open(ctx, dir); err != nil {
		return nil, err
	}
	return in, nil
}

// Keep stores a package for good; one that is there already stays.
func (r *Registry) Keep(in *Incoming) error {
	to := r.PackageDir(in.Package.Digest)
	if err := os.RemoveAll(to); err != nil { // of an earlier, removed installation
		return fmt.Errorf("store plugin: %w", err)
	}
	if err := os.Rename(in.dir, to); err != nil {
		return fmt.Errorf("store plugin: %w", err)
	}
	return atomicfile.SyncDir(r.packages())
}

// Put writes a record.
func (r *Registry) Put(rec Record) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	old, had := r.records[rec.Name]
	r.records[rec.Name] = rec
	if err := r.write(); err != nil {
		if delete(r.records, rec.Name); had {
			r.records[rec.Name] = old
		}
		return err
	}
	return nil
}

// Delete removes a record, then its package.
func (r *Registry) Delete(name string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	old, ok := r.records[name]
	if !ok {
		return nil
	}
	delete(r.records, name)
	if err := r.write(); err != nil {
		r.records[name] = old
		return err
	}
	return os.RemoveAll(r.PackageDir(old.Digest))
}

// write replaces installed.json; the caller holds mu.
func (r *Registry) write() error {
	f := file{Schema: schema, Plugins: []Record{}}
	for _, rec := range r.records {
		f.Plugins = append(f.Plugins, rec)
	}
	slices.SortFunc(f.Plugins, func(a, b Record) int { return strings.Compare(a.Name, b.Name) })
	b, err := json.MarshalIndent(f, "", "  ")
	if err != nil {
		return fmt.Errorf("plugin registry: %w", err)
	}
	return atomicfile.Write(r.file(), append(b, '\n'), 0o600)
}
