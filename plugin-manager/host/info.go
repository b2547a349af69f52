package host

import (
	"encoding/json"
	"time"

	"github.com/opencontainers/go-digest"

	"tero.internal/common/pluginpkg"
	"tero.internal/plugin-manager/plugin"
)

// Info describes an installed plugin.
type Info struct {
	Name    string
	Version string
	Digest  digest.Digest
	State   State
	// Reason says why State is not Active.
	Reason             string
	Hooks              []pluginpkg.Hook
	Required, Optional []string
	Grants             []string
	Signer, KeyID      string
	Installed          time.Time
	Stats              plugin.Stats
}

// Details is all that is known about an installed plugin.
type Details struct {
	Info
	ManifestJSON []byte
	Settings     json.RawMessage
	// Imports are the host functions that it imports; nil unless it is active.
	Imports []string
}

func (e *entry) info() Info {
	i := Info{
		Name: e.record.Name, Digest: e.record.Digest, State: e.state, Reason: e.reason, Grants: e.record.Grants,
		Signer: e.record.Signer, KeyID: e.record.KeyID, Installed: e.record.Installed,
	}
	if e.pkg != nil {
		m := e.pkg.Manifest
		i.Version, i.Hooks, i.Required, i.Optional = m.Version, m.Hooks, m.Capabilities.Required, m.Capabilities.Optional
	}
	if e.plugin != nil {
		i.Stats = e.plugin.Stats()
	}
	return i
}

// List describes the installed plugins, sorted by name.
func (h *Host) List() []Info {
	var all []Info
	for _, e := range h.all() {
		all = append(all, e.info())
	}
	return all
}

// Inspect tells all about one plugin.
func (h *Host) Inspect(name string) (Details, error) {
	e, err := h.get(name)
	if err != nil {
		return Details{}, err
	}
	d := Details{Info: e.info(), Settings: e.record.Settings}
	if e.pkg != nil {
		d.ManifestJSON = e.pkg.ManifestJSON
	}
	if e.plugin != nil {
		d.Imports = e.plugin.Imports()
	}
	return d, nil
}
