// Package host is the plugin manager: it installs, activates and removes
// plugins and lets the active ones judge launches.
//
//	                 +-> pending-grant --grant--+
//	install: verify -+                          +-> load -> self-tests -> active
//	                 +--------------------------+
//	restart: any of these fails -> quarantined: launches are refused until the
//	plugin is removed or granted anew, since what it would have said is unknown
package host

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/tetratelabs/wazero"

	"tero.internal/common/eventbus"
	"tero.internal/common/fault"
	"tero.internal/common/pluginpkg"
	"tero.internal/plugin-manager/plugin"
	"tero.internal/plugin-manager/registry"
)

// Config says where plugins are kept and whom to trust.
type Config struct {
	// StateDir is the plugin manager's own folder.
	StateDir string
	// TrustDir holds the public keys (NAME.pub, PEM) whose plugins may be loaded.
	TrustDir string
	Log      *slog.Logger
	// Bus gets facts of the types plugin.*; it may be nil.
	Bus *eventbus.Bus
	// WallClock bounds a plugin's call; plugin.DefaultWallClock when 0.
	WallClock time.Duration
}

// State is where a plugin is in its life.
type State string

// The states of an installed plugin.
const (
	Active       State = "active"
	PendingGrant State = "pending-grant"
	Quarantined  State = "quarantined"
)

// Host holds the installed plugins.
type Host struct {
	config   Config
	registry *registry.Registry
	cache    wazero.CompilationCache

	ops    sync.Mutex // one installation, grant or removal at a time; guards closed
	closed bool

	mu      sync.Mutex // guards entries and chain
	entries map[string]*entry
	chain   *chain
}

// entry is one installed plugin. It is replaced, never changed.
type entry struct {
	record   registry.Record
	pkg      *pluginpkg.Package // nil when it could not be read
	state    State
	reason   string
	plugin   *plugin.Plugin // nil unless active
	selfTest int64          // ticks of the self-tests
}

// Open starts the installed plugins. One that cannot be started is
// quarantined; that is not an error.
func Open(ctx context.Context, config Config) (*Host, error) {
	r, err := registry.Open(config.StateDir)
	if err != nil {
		return nil, err
	}
	cache, err := wazero.NewCompilationCacheWithDir(filepath.Join(config.StateDir, "cache"))
	if err != nil {
		return nil, fmt.Errorf("plugin compilation cache: %w", err)
	}
	h := &Host{config: config, registry: r, cache: cache, entries: map[string]*entry{}}
	for _, rec := range r.List() {
		e, err := h.restore(ctx, rec)
		if err == nil && e.state == Active {
			_, err = newChain(append(h.all(), e))
		}
		if err != nil {
			if ctx.Err() != nil {
				return nil, errors.Join(ctx.Err(), h.Close(context.WithoutCancel(ctx)))
			}
			e = h.quarantine(ctx, rec, e, err)
		}
		h.entries[rec.Name] = e
	}
	if h.chain, err = newChain(h.all()); err != nil {
		return nil, errors.Join(err, h.Close(ctx))
	}
	return h, nil
}

// restore verifies and loads a plugin of an earlier run.
func (h *Host) restore(ctx context.Context, rec registry.Record) (*entry, error) {
	p, err := pluginpkg.Open(ctx, h.registry.PackageDir(rec.Digest))
	if err != nil {
		return nil, err
	}
	if p.Digest != rec.Digest || p.Manifest.Name != rec.Name {
		return nil, fault.New(fault.Corrupt, "the stored package is %s %s, not %s %s", p.Manifest.Name, p.Digest, rec.Name, rec.Digest).
			WithHint("remove the plugin and install it again")
	}
	trusted, err := pluginpkg.LoadTrust(h.config.TrustDir)
	if err != nil {
		return nil, err
	}
	signer, err := p.Verify(trusted)
	if err != nil {
		return nil, err
	}
	rec.Signer, rec.KeyID = signer.Name, signer.KeyID
	return h.load(ctx, rec, p)
}

func (h *Host) quarantine(ctx context.Context, rec registry.Record, loaded *entry, err error) *entry {
	e := &entry{record: rec, state: Quarantined, reason: err.Error()}
	if loaded != nil {
		e.pkg = loaded.pkg
		h.closePlugin(ctx, loaded)
	}
	h.config.Log.ErrorContext(ctx, "plugin quarantined; launches are refused", slog.String("plugin", rec.Name), slog.String("error", err.Error()))
	h.publish("plugin.quarantined", e, e.reason)
	return e
}

// load brings a verified plugin to active, or to pending-grant.
func (h *Host) load(ctx context.Context, rec registry.Record, pkg *pluginpkg.Package) (*entry, error) {
	e := &entry{record: rec, pkg: pkg, state: Active}
	if err := pkg.Manifest.CheckSettings(rec.Settings); err != nil {
		return nil, fault.New(fault.Invalid, "plugin %s: %w", rec.Name, err).
			WithHint("the manifest's settingsSchema says what the settings may be")
	}
	if missing := plugin.Missing(pkg.Manifest, rec.Grants); len(missing) > 0 {
		e.state, e.reason = PendingGrant, "required but not granted: "+strings.Join(missing, ", ")
		return e, nil
	}
	p, err := plugin.Load(ctx, plugin.Config{
		Package: pkg, Grants: rec.Grants, Settings: rec.Settings, Cache: h.cache, Log: h.config.Log, WallClock: h.config.WallClock,
	})
	if err != nil {
		return nil, err
	}
	e.plugin = p
	if e.selfTest, err = selfTest(ctx, p); err != nil {
		h.closePlugin(ctx, e)
		return nil, err
	}
	return e, nil
}

// closePlugin frees an entry's plugin, if it has one.
func (h *Host) closePlugin(ctx context.Context, e *entry) {
	if e == nil || e.plugin == nil {
		return
	}
	if err := e.plugin.Close(context.WithoutCancel(ctx)); err != nil {
		h.config.Log.WarnContext(ctx, "plugin not freed", slog.String("plugin", e.record.Name), slog.String("error", err.Error()))
	}
}

// all gives the entries, sorted by name.
func (h *Host) all() []*entry {
	h.mu.Lock()
	defer h.mu.Unlock()
	all := make([]*entry, 0, len(h.entries))
	for _, e := range h.entries {
		all = append(all, e)
	}
	slices.SortFunc(all, func(a, b *entry) int { return strings.Compare(a.record.Name, b.record.Name) })
	return all
}

func (h *Host) get(name string) (*entry, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	e, ok := h.entries[name]
	if !ok {
		return nil, fault.New(fault.NotFound, "no plugin %q is installed", name).WithHint("\"tero plugin ls\" lists the installed ones")
	}
	return e, nil
}

// Close stops all plugins after the calls in progress.
func (h *Host) Close(ctx context.Context) error {
	h.ops.Lock()
	defer h.ops.Unlock()
	if h.closed {
		return nil
	}
	h.closed = true
	h.mu.Lock()
	entries, old := h.entries, h.chain
	h.entries, h.chain = map[string]*entry{}, closedChain()
	h.mu.Unlock()
	old.drain()
	for _, e := range entries {
		h.closePlugin(ctx, e)
	}
	if err := h.cache.Close(ctx); err != nil {
		return fmt.Errorf("close the compilation cache: %w", err)
	}
	return nil
}

// errClosing is for requests that come while the daemon stops.
func errClosing() error {
	return fault.New(fault.Unavailable, "the plugin manager is shutting down").WithHint("try again when the node is up")
}

// publish tells a fact about a plugin.
func (h *Host) publish(kind string, e *entry, message string) {
	if h.config.Bus == nil {
		return
	}
	h.config.Bus.Publish(eventbus.Event{Type: kind, Message: "plugin " + e.record.Name + ": " + message, Attributes: map[string]string{
		"plugin": e.record.Name, "digest": e.record.Digest.String(), "state": string(e.state),
	}})
}
