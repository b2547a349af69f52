package pluginpkg

import (
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"

	jsonv2 "github.com/go-json-experiment/json"
	"golang.org/x/mod/semver"

	"tero.internal/common/fault"
	"tero.internal/common/workload"
)

// Schema is the manifest's schema that this package reads.
const Schema = "tero.plugin/v1"

// The extension points.
const (
	PointMutate   = "admission.mutate"
	PointValidate = "admission.validate"
)

// The capabilities that this version can grant.
const (
	CapabilityLog    = "log"
	CapabilityConfig = "config"
)

// OnErrorDeny is what admission does when a plugin fails; it cannot be loosened.
const OnErrorDeny = "deny"

// Manifest says what a plugin is, where it acts and what it needs. It is the
// config blob of the package, so that the signature covers it.
type Manifest struct {
	Schema  string `json:"schema"`
	Name    string `json:"name"`
	Version string `json:"version"`
	// ABI is "major.minor".
	ABI            string          `json:"abi"`
	Description    string          `json:"description,omitempty"`
	Hooks          []Hook          `json:"hooks"`
	Capabilities   Capabilities    `json:"capabilities"`
	Limits         Limits          `json:"limits"`
	SettingsSchema json.RawMessage `json:"settingsSchema,omitempty"`
	Vectors        []Vector        `json:"vectors"`

	settings *schema
}

// Hook is one place where a plugin acts.
type Hook struct {
	// Point is one of the Point constants.
	Point   string `json:"point"`
	OnError string `json:"onError,omitempty"`
	Order   Order  `json:"order,omitzero"`
	// Writes are the JSON pointers that a mutation may set; "/labels/*" is any label.
	Writes []string `json:"writes,omitempty"`
}

// Order places a plugin among others.
type Order struct {
	// After are the names of plugins that, if they are there, come before.
	After []string `json:"after,omitempty"`
}

// Capabilities are what a plugin asks of its host.
type Capabilities struct {
	Required []string `json:"required,omitempty"`
	Optional []string `json:"optional,omitempty"`
}

// Limits bound one instance and one call; a zero takes the default.
type Limits struct {
	// MemoryPages are of 64 KiB.
	MemoryPages     uint32 `json:"memoryPages,omitempty"`
	TicksPerCall    int64  `json:"ticksPerCall,omitempty"`
	LogBytesPerCall int64  `json:"logBytesPerCall,omitempty"`
}

// The defaults of Limits, and the most that a manifest may ask for.
const (
	DefaultMemoryPages     = 256
	DefaultTicksPerCall    = 5_000_000
	DefaultLogBytesPerCall = 4096
	MaxMemoryPages         = 1024
	MaxTicksPerCall        = 100_000_000
	MaxLogBytesPerCall     = 64 << 10
)

// Vector is a self-test: activation needs all of them to hold.
type Vector struct {
	// Point is the hook to call; the first one when empty.
	Point string `json:"point,omitempty"`
	In    Launch `json:"in"`
	// Settings are what the plugin is configured with for this test.
	Settings json.RawMessage `json:"settings,omitempty"`
	Want     Want            `json:"want"`
}

// Launch is the launch of a self-test.
type Launch struct {
	Spec  workload.Spec  `json:"spec"`
	Image workload.Image `json:"image"`
}

// Want is the expected answer.
type Want struct {
	Allow bool `json:"allow"`
	// Code is compared when it is given.
	Code string `json:"code,omitempty"`
	// Set holds values by JSON pointer that the plugin must have set, and no others.
	Set map[string]json.RawMessage `json:"set,omitempty"`
}

const maxManifest = 256 << 10

var (
	abiPattern        = regexp.MustCompile(`^([1-9][0-9]{0,3})\.(0|[1-9][0-9]{0,3})$`)
	capabilityPattern = regexp.MustCompile(`^[a-z][a-z0-9-]*(:[A-Za-z0-9_.*/-]+)*$`)
)

// ParseManifest reads a manifest strictly: unknown members, values out of range
// and contradictions are errors. Defaults are filled in.
func ParseManifest(b []byte) (Manifest, error) {
	m, err := parseManifest(b)
	if err != nil {
		return Manifest{}, fault.New(fault.Invalid, "plugin manifest: %w", err).
			WithHint("examples/plugins/nolatest/manifest.json is a manifest of schema %s", Schema)
	}
	return m, nil
}

func parseManifest(b []byte) (Manifest, error) {
	var m Manifest
	if len(b) > maxManifest {
		return m, fmt.Errorf("%d bytes are more than %d", len(b), maxManifest)
	}
	if err := decode(b, &m); err != nil {
		return m, err
	}
	for _, check := range []func() error{m.checkHead, m.checkHooks, m.checkCapabilities, m.checkLimits, m.checkSettings, m.checkVectors} {
		if err := check(); err != nil {
			return m, err
		}
	}
	return m, nil
}

// decode reads JSON strictly: one value, exact member names, no name twice, no
// unknown one. Two readers must never see two manifests in the same signed bytes.
func decode(b []byte, v any) error {
	return jsonv2.Unmarshal(b, v, jsonv2.RejectUnknownMembers(true))
}

func (m *Manifest) checkHead() error {
	if m.Schema != Schema {
		return fmt.Errorf("schema %q is not %q", m.Schema, Schema)
	}
	if err := workload.ValidateName(m.Name); err != nil {
		return err
	}
	if !semver.IsValid("v" + m.Version) {
		return fmt.Errorf("version %q is not a semantic version such as 1.0.0", m.Version)
	}
	if !abiPattern.MatchString(m.ABI) {
		return fmt.Errorf("abi %q is not MAJOR.MINOR", m.ABI)
	}
	return nil
}

func (m *Manifest) checkHooks() error {
	if len(m.Hooks) == 0 {
		return errors.New("no hooks: the plugin would never be called")
	}
	seen := map[string]bool{}
	for i := range m.Hooks {
		h := &m.Hooks[i]
		if h.Point != PointMutate && h.Point != PointValidate {
			return fmt.Errorf("hook %q is not one of %s, %s", h.Point, PointMutate, PointValidate)
		}
		if seen[h.Point] {
			return fmt.Errorf("hook %s twice", h.Point)
		}
		seen[h.Point] = true
		if h.OnError == "" {
			h.OnError = OnErrorDeny
		}
		if h.OnError != OnErrorDeny {
			return fmt.Errorf("hook %s: onError %q; admission can only deny", h.Point, h.OnError)
		}
		for _, a := range h.Order.After {
			if err := workload.ValidateName(a); err != nil {
				return fmt.Errorf("hook %s: order.after: %w", h.Point, err)
			}
			if a == m.Name {
				return fmt.Errorf("hook %s: order.after names the plugin itself", h.Point)
			}
		}
		if len(h.Writes) > 0 && h.Point != PointMutate {
			return fmt.Errorf("hook %s: writes are for %s", h.Point, PointMutate)
		}
		for _, w := range h.Writes {
			if !writable(w) {
				return fmt.Errorf("hook %s: no plugin may write %q; it may write %s", h.Point, w, strings.Join(writablePatterns(), ", "))
			}
		}
	}
	return nil
}

func (m *Manifest) checkCapabilities() error {
	all := slices.Concat(m.Capabilities.Required, m.Capabilities.Optional)
	slices.Sort(all)
	for i, c := range all {
		if !capabilityPattern.MatchString(c) {
			return fmt.Errorf("capability %q is malformed", c)
		}
		if i > 0 && all[i-1] == c {
			return fmt.Errorf("capability %q twice", c)
		}
	}
	return nil
}

func (m *Manifest) checkLimits() error {
	l := &m.Limits
	if l.MemoryPages == 0 {
		l.MemoryPages = DefaultMemoryPages
	}
	if l.TicksPerCall == 0 {
		l.TicksPerCall = DefaultTicksPerCall
	}
	if l.LogBytesPerCall == 0 {
		l.LogBytesPerCall = DefaultLogBytesPerCall
	}
	switch {
	case l.MemoryPages > MaxMemoryPages:
		return fmt.Errorf("limits.memoryPages %d is more than %d", l.MemoryPages, MaxMemoryPages)
	case l.TicksPerCall < 0 || l.TicksPerCall > MaxTicksPerCall:
		return fmt.Errorf("limits.ticksPerCall %d is not 1 to %d", l.TicksPerCall, MaxTicksPerCall)
	case l.LogBytesPerCall < 0 || l.LogBytesPerCall > MaxLogBytesPerCall:
		return fmt.Errorf("limits.logBytesPerCall %d is not 1 to %d", l.LogBytesPerCall, MaxLogBytesPerCall)
	}
	return nil
}

func (m *Manifest) checkSettings() (err error) {
	if m.settings, err = parseSchema(m.SettingsSchema); err != nil {
		return fmt.Errorf("settingsSchema: %w", err)
	}
	return nil
}

func (m *Manifest) checkVectors() error {
	if len(m.Vectors) == 0 {
		return errors.New("no vectors: a plugin needs at least one self-test to become active")
	}
	for i := range m.Vectors {
		v := &m.Vectors[i]
		if v.Point == "" {
			v.Point = m.Hooks[0].Point
		}
		if _, ok := m.Hook(v.Point); !ok {
			return fmt.Errorf("vector %d: point %q is not a hook of the plugin", i, v.Point)
		}
		if err := m.CheckSettings(v.Settings); err != nil {
			return fmt.Errorf("vector %d: %w", i, err)
		}
	}
	return nil
}

// Hook gives the hook at a point.
func (m *Manifest) Hook(point string) (Hook, bool) {
	for _, h := range m.Hooks {
		if h.Point == point {
			return h, true
		}
	}
	return Hook{}, false
}

// CheckSettings tells whether settings (JSON; empty is {}) satisfy the settings schema.
func (m *Manifest) CheckSettings(settings []byte) error {
	if len(settings) == 0 {
		settings = []byte("{}")
	}
	var v any
	if err := decode(settings, &v); err != nil {
		return fmt.Errorf("settings: %w", err)
	}
	if m.settings == nil {
		return nil
	}
	return m.settings.check("settings", v)
}
