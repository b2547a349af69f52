// Package tero is for authors of TERO plugins. A plugin registers what it
// does; the same source builds natively, for go test, and for TERO:
//
//	GOOS=wasip1 GOARCH=wasm go build -buildmode=c-shared -o plugin.wasm
//
// A plugin that answers with a panic, or not at all, refuses the launch.
package tero

import (
	"encoding/json"
	"fmt"
	"strings"
)

// ABI is the version of the plugin ABI that this SDK speaks: major<<16 | minor.
const ABI = 1 << 16

// The phases of an admission, by the manifest's hooks.
const (
	// Mutate comes first; changes count.
	Mutate = 1
	// Validate sees the launch as it will be; changes are an error.
	Validate = 2
)

// The levels of Host.Log.
const (
	Debug = iota
	Info
	Warn
	Error
)

// LaunchRequest is a launch to judge.
type LaunchRequest struct {
	// Phase is Mutate or Validate.
	Phase int
	// Name of the workload.
	Name string
	// Image is the reference as it was asked for; Reference the full name that
	// it was resolved by; Digest that of its manifest.
	Image, Reference, Digest string
	// Signers are the names of the trusted keys that signed the image.
	Signers []string
	// ImageLabels are the labels in the image's configuration.
	ImageLabels map[string]string
	// Args is the whole argv; Env holds KEY=value entries.
	Args, Env                  []string
	WorkingDir, User, Hostname string
	// Labels of the workload.
	Labels map[string]string
	// Terminal, WritableRootfs and AutoRemove are as asked for.
	Terminal, WritableRootfs, AutoRemove bool
	// CapAdd are the capabilities kept ("CAP_NET_RAW").
	CapAdd []string
	// MilliCPU, MemoryBytes and Pids are limits; 0 for the node's default.
	MilliCPU, MemoryBytes, Pids int64
	Network, StopSignal         string
	// MinLevel is the least assurance level that the node must have ("L0").
	MinLevel string
}

// Tag gives the image's tag, "latest" when neither tag nor digest was given,
// and "" for an image that is named by digest alone.
func (r *LaunchRequest) Tag() string {
	name, _, pinned := strings.Cut(r.Image, "@")
	if at := strings.LastIndexByte(name, ':'); at > strings.LastIndexByte(name, '/') {
		return name[at+1:]
	}
	if pinned {
		return ""
	}
	return "latest"
}

// Decision is a plugin's answer.
type Decision struct {
	// Allowed is false for a refusal.
	Allowed bool
	// Code is a stable name of the reason, Reason its text for people.
	Code, Reason string
	// Changes are made in order.
	Changes []Change
}

// Change sets one value of the launch.
type Change struct {
	// Path is a JSON pointer that the manifest declares ("/labels/tier").
	Path string
	// Value is JSON.
	Value string
}

// Allow accepts.
func Allow() Decision { return Decision{Allowed: true} }

// Deny refuses; code is a stable name such as "image.latest".
func Deny(code, format string, args ...any) Decision {
	return Decision{Code: code, Reason: fmt.Sprintf(format, args...)}
}

// Set adds a change of the value at path, a JSON pointer (RFC 6901).
func (d Decision) Set(path string, value any) Decision {
	b, err := json.Marshal(value)
	if err != nil {
		return Deny("plugin.encode", "the value for %s: %v", path, err)
	}
	d.Changes = append(d.Changes, Change{Path: path, Value: string(b)})
	return d
}

// Host is what a plugin may ask of the node; tests give their own.
type Host interface {
	// Log writes a line to the node's log (capability "log").
	Log(level int, format string, args ...any)
	// Config decodes the operator's settings, which satisfy the manifest's
	// settingsSchema, into v (capability "config").
	Config(v any) error
}

// AdmitFunc judges one launch.
type AdmitFunc func(h Host, r *LaunchRequest) Decision

// admit is what OnAdmit registered: a plugin is one program, with one of it.
var admit AdmitFunc

// OnAdmit registers f for the admission hooks of the manifest. Call it from init.
func OnAdmit(f AdmitFunc) { admit = f }

// Admit calls what OnAdmit registered, for native tests.
func Admit(h Host, r *LaunchRequest) Decision {
	if admit == nil {
		return Deny("plugin.unregistered", "the plugin has not called OnAdmit")
	}
	return admit(h, r)
}

// Dispatch answers a call of the host in the ABI's wire format.
func Dispatch(h Host, hook uint32, in []byte) (out []byte) {
	defer func() {
		if e := recover(); e != nil {
			out = Deny("plugin.panic", "%v", e).encode()
		}
	}()
	r, err := decodeRequest(in)
	if err != nil {
		return Deny("plugin.decode", "%v", err).encode()
	}
	r.Phase = int(hook)
	return Admit(h, r).encode()
}

// Settings is a Host for native tests: its text is the settings, and it logs nowhere.
type Settings string

// Log drops the line.
func (Settings) Log(int, string, ...any) {}

// Config decodes the settings.
func (s Settings) Config(v any) error { return json.Unmarshal([]byte(s), v) }
