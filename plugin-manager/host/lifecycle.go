package host

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"maps"
	"slices"
	"time"

	"tero.internal/common/fault"
	"tero.internal/common/pluginpkg"
	"tero.internal/plugin-manager/registry"
)

// Decision is what the operator decides about a plugin.
type Decision struct {
	// Settings is the configuration as JSON; {} when empty.
	Settings json.RawMessage
	// Grants are the capabilities that the plugin gets.
	Grants []string
	// GrantRequired grants, besides, all that the manifest requires.
	GrantRequired bool
}

// Install verifies, stores and activates the plugin in a tar of its package's
// OCI layout. Nothing is left of one that is refused.
func (h *Host) Install(ctx context.Context, tar io.Reader, d Decision) (_ Info, err error) {
	in, err := h.registry.Receive(ctx, tar) // before the lock: a slow client holds up nobody
	if err != nil {
		return Info{}, err
	}
	defer func() { err = errors.Join(err, in.Discard()) }()
	h.ops.Lock()
	defer h.ops.Unlock()
	if h.closed {
		return Info{}, errClosing()
	}
	m := in.Package.Manifest
	trusted, err := pluginpkg.LoadTrust(h.config.TrustDir)
	if err != nil {
		return Info{}, err
	}
	signer, err := in.Package.Verify(trusted)
	if err != nil {
		return Info{}, err
	}
	if old, err := h.get(m.Name); err == nil {
		return Info{}, fault.New(fault.Exists, "a plugin %s is installed already, with digest %s", m.Name, old.record.Digest).
			WithHint("remove it first with \"tero plugin rm %s\"", m.Name)
	}
	grants, err := checkGrants(m, d)
	if err != nil {
		return Info{}, err
	}
	rec := registry.Record{
		Name: m.Name, Digest: in.Package.Digest, Signer: signer.Name, KeyID: signer.KeyID,
		Grants: grants, Settings: d.Settings, Installed: time.Now().UTC().Truncate(time.Second),
	}
	if len(rec.Settings) == 0 {
		rec.Settings = json.RawMessage("{}")
	}
	e, err := h.load(ctx, rec, in.Package)
	if err != nil {
		return Info{}, err
	}
	if err := h.adopt(ctx, e, func() error {
		if err := h.registry.Keep(in); err != nil {
			return err
		}
		return h.registry.Put(rec)
	}); err != nil {
		return Info{}, err
	}
	h.publish("plugin.installed", e, "installed, "+string(e.state))
	return e.info(), nil
}

// Grant replaces a plugin's grants, and with that loads it anew.
func (h *Host) Grant(ctx context.Context, name string, d Decision) (Info, error) {
	h.ops.Lock()
	defer h.ops.Unlock()
	if h.closed {
		return Info{}, errClosing()
	}
	old, err := h.get(name)
	if err != nil {
		return Info{}, err
	}
	rec := old.record
	pkg, err := pluginpkg.Open(ctx, h.registry.PackageDir(rec.Digest))
	if err != nil {
		return Info{}, err
	}
	if rec.Grants, err = checkGrants(pkg.Manifest, d); err != nil {
		return Info{}, err
	}
	e, err := h.restore(ctx, rec)
	if err != nil {
		return Info{}, err
	}
	if err := h.adopt(ctx, e, func() error { return h.registry.Put(e.record) }); err != nil {
		return Info{}, err
	}
	h.publish("plugin.granted", e, "grants changed, "+string(e.state))
	return e.info(), nil
}

// Remove stops a plugin and removes all of it.
func (h *Host) Remove(ctx context.Context, name string) (Info, error) {
	h.ops.Lock()
	defer h.ops.Unlock()
	if h.closed {
		return Info{}, errClosing()
	}
	old, err := h.get(name)
	if err != nil {
		return Info{}, err
	}
	next := h.snapshot()
	delete(next, name)
	c, err := newChain(sorted(next))
	if err != nil {
		return Info{}, err
	}
	if err := h.registry.Delete(name); err != nil {
		return Info{}, err
	}
	h.swap(next, c)
	h.closePlugin(ctx, old)
	h.publish("plugin.removed", old, "removed")
	return old.info(), nil
}

// adopt makes e one of the installed plugins, in place of an older entry of
// its name, once persist has made that durable. On an error e is closed.
func (h *Host) adopt(ctx context.Context, e *entry, persist func() error) error {
	next := h.snapshot()
	old := next[e.record.Name]
	next[e.record.Name] = e
	c, err := newChain(sorted(next))
	if err == nil {
		err = persist()
	}
	if err != nil {
		h.closePlugin(ctx, e)
		return err
	}
	h.swap(next, c)
	h.closePlugin(ctx, old)
	h.config.Log.InfoContext(ctx, "plugin loaded", slog.String("plugin", e.record.Name), slog.String("digest", e.record.Digest.String()),
		slog.String("state", string(e.state)), slog.Int64("self_test_ticks", e.selfTest))
	return nil
}

func (h *Host) snapshot() map[string]*entry {
	h.mu.Lock()
	defer h.mu.Unlock()
	return maps.Clone(h.entries)
}

// swap puts the new chain in force and waits for the launches of the old one.
func (h *Host) swap(entries map[string]*entry, c *chain) {
	h.mu.Lock()
	old := h.chain
	h.entries, h.chain = entries, c
	h.mu.Unlock()
	old.drain()
}

func sorted(entries map[string]*entry) []*entry {
	var all []*entry
	for _, name := range slices.Sorted(maps.Keys(entries)) {
		all = append(all, entries[name])
	}
	return all
}

// checkGrants gives the capabilities that d grants: only what the manifest asks
// for and this node has.
func checkGrants(m pluginpkg.Manifest, d Decision) ([]string, error) {
	grants := slices.Clone(d.Grants)
	if d.GrantRequired {
		grants = append(grants, m.Capabilities.Required...)
	}
	slices.Sort(grants)
	grants = slices.Compact(grants)
	asked := slices.Concat(m.Capabilities.Required, m.Capabilities.Optional)
	for _, g := range grants {
		if !slices.Contains(asked, g) {
			return nil, fault.New(fault.Invalid, "plugin %s does not ask for the capability %q", m.Name, g).
				WithHint("it asks for %q", asked)
		}
		if g != pluginpkg.CapabilityLog && g != pluginpkg.CapabilityConfig {
			return nil, fault.New(fault.Unsupported, "this node cannot grant the capability %q that plugin %s asks for", g, m.Name).
				WithHint("it can grant %q and %q", pluginpkg.CapabilityLog, pluginpkg.CapabilityConfig)
		}
	}
	return grants, nil
}
