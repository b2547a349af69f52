package host_test

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"tero.internal/common/fault"
	"tero.internal/common/pluginpkg"
	"tero.internal/common/workload"
	"tero.internal/plugin-manager/host"
	. "tero.internal/plugin-manager/internal/wasmtest"
	"tero.internal/plugin-manager/plugin"
	"tero.internal/plugin-manager/plugintest"
)

// manifest gives a manifest; edit changes it.
func manifest(name string, edit ...func(m *pluginpkg.Manifest)) []byte {
	m := pluginpkg.Manifest{
		Schema: pluginpkg.Schema, Name: name, Version: "1.0.0", ABI: "1.0",
		Hooks:   []pluginpkg.Hook{{Point: pluginpkg.PointValidate}},
		Limits:  pluginpkg.Limits{MemoryPages: 16, TicksPerCall: 100_000, LogBytesPerCall: 100},
		Vectors: []pluginpkg.Vector{{Want: pluginpkg.Want{Allow: true}}},
	}
	for _, e := range edit {
		e(&m)
	}
	b, err := json.Marshal(m)
	if err != nil {
		panic(err)
	}
	return b
}

// onLaunches is code that runs body only for requests of more than 512 bytes,
// which a self-test's is not: local 2 of tero_call is the size.
func onLaunches(body []byte) []byte {
	return Code(0x20, 2, I32Const(512), 0x4b, 0x04, 0x40, body, 0x0b)
}

var (
	web = workload.Spec{Name: "web", Image: "localhost/web:v1", Env: []string{"PAD=" + strings.Repeat("x", 600)}}
	img = workload.Image{Reference: "localhost/web:v1", Digest: "sha256:aa"}
)

func wantDenied(t *testing.T, err error, parts ...string) {
	t.Helper()
	if err == nil || fault.KindOf(err) != fault.Denied || fault.HintOf(err) == "" {
		t.Fatalf("error = %v (kind %v, hint %q), want a refusal with a hint", err, fault.KindOf(err), fault.HintOf(err))
	}
	for _, p := range parts {
		if !strings.Contains(err.Error(), p) {
			t.Errorf("error %q does not say %q", err, p)
		}
	}
}

// TestHostileGuests has guests that pass their self-tests and then misbehave:
// each launch is refused, the plugin is named, and the host serves the next call.
func TestHostileGuests(t *testing.T) {
	withLog := func(m *pluginpkg.Manifest) { m.Capabilities.Required = []string{"log"} }
	for _, c := range []struct {
		name  string
		guest Guest
		edit  func(*pluginpkg.Manifest)
		want  string
	}{
		{name: "endless loop", guest: Guest{Before: onLaunches(Forever(nil))}, want: plugin.CodeTicks},
		{name: "endless fills", guest: Guest{Before: onLaunches(Forever(Code(I32Const(0), I32Const(0), I32Const(65536), 0xfc, 11, 0)))}, want: plugin.CodeTicks},
		{name: "endless growth", guest: Guest{Before: onLaunches(Forever(Code(I32Const(1), 0x40, 0, 0x1a)))}, want: plugin.CodeTicks},
		{name: "endless growth of a table", guest: Guest{Table: 1, Before: onLaunches(Forever(Code(0xd0, 0x70, I32Const(1000), 0xfc, 15, 0, 0x1a)))}, want: plugin.CodeTicks},
		{name: "deep recursion", guest: Guest{Before: onLaunches(Code(0x20, 0, 0x20, 1, 0x20, 2, 0x10, 2, 0x1a))}, want: "plugin.t"}, // a trap, or ticks
		{name: "trap", guest: Guest{Before: onLaunches(Code(0x00))}, want: plugin.CodeTrap},
		{name: "division by zero", guest: Guest{Before: onLaunches(Code(I32Const(1), I32Const(0), 0x6d, 0x1a))}, want: plugin.CodeTrap},
		{name: "log of memory that is not there", guest: Guest{Imports: []Import{LogImport()}, Before: onLaunches(Log(1 << 30))}, edit: withLog, want: plugin.CodeTrap},
		{name: "endless logging", guest: Guest{Imports: []Import{LogImport()}, Before: onLaunches(Forever(Log(2)))}, edit: withLog, want: plugin.CodeTicks},
		{name: "ends itself", guest: Guest{Imports: []Import{{Module: "wasi_snapshot_preview1", Name: "proc_exit", Params: []byte{I32}}}, Before: onLaunches(Code(I32Const(3), 0x10, 0))}, want: plugin.CodeExit},
	} {
		t.Run(c.name, func(t *testing.T) {
			h := plugintest.New(t)
			c.guest.Answer = Allow()
			edit := c.edit
			if edit == nil {
				edit = func(*pluginpkg.Manifest) {}
			}
			h.Install(t, manifest("hostile", edit), c.guest.Bytes(), "")
			for range 3 {
				_, _, err := h.Admit(t, web, img)
				wantDenied(t, err, `plugin hostile failed`, c.want)
			}
			small := web
			small.Env = nil
			if _, _, err := h.Admit(t, small, img); err != nil {
				t.Errorf("after the failures, a call that is none: %v", err)
			}
			i, err := h.Host.Inspect("hostile")
			if err != nil || i.Stats.Calls != 4 || i.Stats.Failures != 3 {
				t.Errorf("stats %+v, error %v; want 4 calls, 3 failures", i.Stats, err)
			}
		})
	}
}

// TestTicksAreDeterministic stops a guest at the same count each time.
func TestTicksAreDeterministic(t *testing.T) {
	h := plugintest.New(t)
	h.Install(t, manifest("loop", func(m *pluginpkg.Manifest) { m.Limits.TicksPerCall = 77_777 }), Guest{Answer: Allow(), Before: onLaunches(Forever(nil))}.Bytes(), "")
	for n := int64(1); n <= 3; n++ {
		if _, _, err := h.Admit(t, web, img); err == nil {
			t.Fatal("an endless loop ended")
		}
		if got := h.Host.List()[0].Stats.Ticks; got != n*77_777 {
			t.Errorf("%d ticks after %d calls, want %d", got, n, n*77_777)
		}
	}
	small := web
	small.Env = nil
	_, v, err := h.Admit(t, small, img)
	if err != nil {
		t.Fatal(err)
	}
	if v[0].Ticks != 3 { // tero_alloc, tero_call, tero_free
		t.Errorf("%d ticks, want 3", v[0].Ticks)
	}
}

// TestWallClockIsTheBackstop stops a guest that has ticks in plenty.
func TestWallClockIsTheBackstop(t *testing.T) {
	h := plugintest.New(t)
	h.Close(t)
	h.Config.WallClock = 50 * time.Millisecond
	h.Open(t)
	h.Install(t, manifest("slow", func(m *pluginpkg.Manifest) { m.Limits.TicksPerCall = pluginpkg.MaxTicksPerCall }),
		Guest{Answer: Allow(), Before: onLaunches(Forever(Repeat(1, nil)))}.Bytes(), "")
	_, _, err := h.Admit(t, web, img)
	wantDenied(t, err, plugin.CodeTime)
}

func TestBadAnswers(t *testing.T) {
	mutate := func(m *pluginpkg.Manifest) {
		m.Hooks = []pluginpkg.Hook{{Point: pluginpkg.PointMutate, Writes: []string{"/labels/tier", "/resources/pids", "/env/-"}}}
	}
	var many []byte
	for many = Allow(); len(many) < 10_000; {
		many = Set(many, "/labels/tier", `"x"`)
	}
	for _, c := range []struct {
		name  string
		guest Guest
		edit  func(*pluginpkg.Manifest)
		want  string
	}{
		{"not protobuf", Guest{Later: []byte("\xff\xff\xff")}, nil, plugin.CodeAnswer},
		{"a refusal without a code", Guest{Later: []byte{}}, nil, plugin.CodeAnswer},
		{"an answer outside of memory", Guest{LaterCall: 1 << 62}, nil, plugin.CodeAnswer},
		{"an answer of 512 MiB", Guest{LaterCall: 512 << 20}, nil, plugin.CodeAnswer},
		{"memory that is not there", Guest{LaterAlloc: 1 << 30}, nil, plugin.CodeAnswer},
		{"a change while validating", Guest{Later: Set(Allow(), "/labels/tier", `"x"`)}, nil, plugin.CodeMutation},
		{"an undeclared write", Guest{Later: Set(Allow(), "/labels/other", `"x"`)}, mutate, plugin.CodeMutation},
		{"a write of the image", Guest{Later: Set(Allow(), "/image", `"evil"`)}, mutate, plugin.CodeMutation},
		{"a value of another type", Guest{Later: Set(Allow(), "/resources/pids", `"many"`)}, mutate, plugin.CodeMutation},
		{"a null", Guest{Later: Set(Allow(), "/labels/tier", `null`)}, mutate, plugin.CodeMutation},
		{"an invalid launch", Guest{Later: Set(Allow(), "/env/-", `"NOEQUALS"`)}, mutate, plugin.CodeMutation},
		{"very many changes", Guest{Later: many}, mutate, plugin.CodeMutation},
	} {
		t.Run(c.name, func(t *testing.T) {
			h := plugintest.New(t)
			c.guest.Answer = Allow()
			h.Install(t, manifest("bad", edits(c.edit)...), c.guest.Bytes(), "")
			out, v, err := h.Admit(t, web, img)
			wantDenied(t, err, "plugin bad failed", c.want)
			if len(out.Labels) > 0 || v != nil {
				t.Errorf("a refused launch came back as %+v with %v", out, v)
			}
			if n := h.Host.List()[0].Stats.Failures; n != 1 {
				t.Errorf("%d failures, want 1", n)
			}
		})
	}
}

func edits(e func(*pluginpkg.Manifest)) []func(*pluginpkg.Manifest) {
	if e == nil {
		return nil
	}
	return []func(*pluginpkg.Manifest){e}
}

func TestRefusedInstallations(t *testing.T) {
	good := Guest{Answer: Allow()}
	_, evil := key(t)
	for _, c := range []struct {
		name     string
		guest    Guest
		edit     func(*pluginpkg.Manifest)
		decision host.Decision
		spoil    func(t *testing.T, dir string)
		kind     fault.Kind
		want     string
	}{
		{name: "unsigned", guest: good, spoil: unsign, kind: fault.Denied, want: "no valid signature"},
		{name: "signed by a stranger", guest: good, spoil: func(t *testing.T, dir string) {
			unsign(t, dir)
			if _, err := pluginpkg.Sign(t.Context(), dir, evil); err != nil {
				t.Fatal(err)
			}
		}, kind: fault.Denied, want: "no valid signature"},
		{name: "tampered module", guest: good, spoil: func(t *testing.T, dir string) { tamper(t, dir, "\x00asm") }, kind: fault.Corrupt, want: "module"},
		{name: "tampered manifest", guest: good, spoil: func(t *testing.T, dir string) { tamper(t, dir, `{"schema"`) }, kind: fault.Corrupt, want: "manifest"},
		{name: "another ABI in the manifest", guest: good, edit: func(m *pluginpkg.Manifest) { m.ABI = "2.0" }, kind: fault.Unsupported, want: "ABI 2.0"},
		{name: "another ABI in the module", guest: Guest{Answer: Allow(), ABI: 2 << 16}, kind: fault.Invalid, want: "ABI 2"},
		{name: "an import without a grant", guest: Guest{Answer: Allow(), Imports: []Import{LogImport()}}, kind: fault.Denied, want: `"log" is not granted`},
		{name: "an unknown import", guest: Guest{Answer: Allow(), Imports: []Import{{Module: "env", Name: "system"}}}, kind: fault.Invalid, want: "env.system"},
		{name: "an import with another signature", guest: Guest{Answer: Allow(), Imports: []Import{{Module: "tero_v1", Name: "log"}}}, kind: fault.Invalid, want: "tero_v1.log"},
		{name: "a grant that is not asked for", guest: good, decision: host.Decision{Grants: []string{"log"}}, kind: fault.Invalid, want: "does not ask"},
		{name: "a grant that no node has", guest: good, edit: func(m *pluginpkg.Manifest) { m.Capabilities.Optional = []string{"kv:read:x/*"} }, decision: host.Decision{Grants: []string{"kv:read:x/*"}}, kind: fault.Unsupported, want: "cannot grant"},
		{name: "too much memory", guest: Guest{Answer: Allow(), Pages: 17}, kind: fault.Invalid, want: "more than 16"},
		{name: "a failing self-test", guest: Guest{Answer: Deny("x.y", "no")}, kind: fault.Invalid, want: "self-test 0"},
		{name: "a start that loops", guest: Guest{Answer: Allow(), Start: Forever(nil)}, kind: fault.Invalid, want: plugin.CodeTicks},
		{name: "a start that traps", guest: Guest{Answer: Allow(), Start: Code(0x00)}, kind: fault.Invalid, want: plugin.CodeTrap},
		{name: "an export missing", guest: Guest{Answer: Allow(), Omit: "tero_free"}, kind: fault.Invalid, want: "tero_free"},
		{
			name: "settings against the schema", guest: good, edit: func(m *pluginpkg.Manifest) { m.SettingsSchema = json.RawMessage(`{"additionalProperties":false}`) },
			decision: host.Decision{Settings: json.RawMessage(`{"x":1}`)}, kind: fault.Invalid, want: `unknown member "x"`,
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			h := plugintest.New(t)
			dir := plugintest.Pack(t, manifest("p", edits(c.edit)...), c.guest.Bytes(), h.Key)
			if c.spoil != nil {
				c.spoil(t, dir)
			}
			info, err := h.TryInstall(t, dir, c.decision)
			if err == nil || fault.KindOf(err) != c.kind || !strings.Contains(err.Error(), c.want) || fault.HintOf(err) == "" {
				t.Fatalf("%+v, error %v (kind %v, hint %q); want kind %v and %q", info, err, fault.KindOf(err), fault.HintOf(err), c.kind, c.want)
			}
			left, err := os.ReadDir(filepath.Join(h.Config.StateDir, "packages"))
			if err != nil || len(left) != 0 || len(h.Host.List()) != 0 {
				t.Errorf("left behind: %v, %v, error %v", left, h.Host.List(), err)
			}
			if _, v, err := h.Admit(t, web, img); err != nil || v != nil {
				t.Errorf("Admit without plugins = %v, %v", v, err)
			}
		})
	}
}

func TestLogFloodIsCut(t *testing.T) {
	h := plugintest.New(t)
	g := Guest{Answer: Allow(), Imports: []Import{LogImport()}, Before: Repeat(50, Log(10))}
	h.Install(t, manifest("chatty", func(m *pluginpkg.Manifest) { m.Capabilities.Required = []string{"log"} }), g.Bytes(), "")
	if _, _, err := h.Admit(t, web, img); err != nil {
		t.Fatal(err)
	}
	if got := h.Host.List()[0].Stats.LogBytesDropped; got != 400 {
		t.Errorf("%d bytes dropped, want 400 of 500 with a limit of 100", got)
	}
}

// TestParallelCalls has more callers than instances, some of which fail.
func TestParallelCalls(t *testing.T) {
	h := plugintest.New(t)
	h.Install(t, manifest("p", func(m *pluginpkg.Manifest) { m.Limits.TicksPerCall = 50_000 }),
		Guest{Answer: Allow(), Before: onLaunches(Forever(nil))}.Bytes(), "")
	var wg sync.WaitGroup
	for n := range 100 {
		wg.Go(func() {
			spec := web
			spec.Name = fmt.Sprintf("web-%d", n)
			if n%5 != 0 {
				spec.Env = nil
			}
			_, v, err := h.Admit(t, spec, img)
			if (n%5 == 0) != (err != nil) {
				t.Errorf("%s: %v, %v", spec.Name, v, err)
			}
		})
	}
	wg.Wait()
	if s := h.Host.List()[0].Stats; s.Calls != 100 || s.Failures != 20 {
		t.Errorf("stats %+v, want 100 calls, 20 failures", s)
	}
}
