// Package plugin runs one plugin: a metered WebAssembly module, its host
// functions and a pool of its instances.
//
// An instance serves one call at a time. What it may use is counted in ticks,
// which depend on the guest and its input alone; wall-clock time is only the
// backstop. An instance that trapped, or was stopped, is never used again.
package plugin

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tetratelabs/wazero"
	"github.com/tetratelabs/wazero/api"
	"github.com/tetratelabs/wazero/experimental"

	pluginv1 "tero.internal/api/plugin/v1"
	"tero.internal/common/fault"
	"tero.internal/common/pluginpkg"
	"tero.internal/plugin-manager/internal/wasm"
)

// The major versions of the ABI that this host serves.
const abiMajor = 1

// The bounds of a plugin that no manifest can move.
const (
	// slice is how many ticks a guest runs before the host gets its turn: about 20 us.
	slice = 20_000
	// startTicks bounds the start of an instance; a Go guest's takes about 10,000.
	startTicks = 50_000_000
	// maxAnswer bounds an answer in bytes.
	maxAnswer = 1 << 20
	// maxInstances is how many calls of one plugin run at a time.
	maxInstances = 4
)

// DefaultWallClock is how long a call may take before it is stopped however
// few ticks it has used.
const DefaultWallClock = time.Second

// startWallClock is how long the start of an instance may take.
const startWallClock = 10 * time.Second

// Config says what to run.
type Config struct {
	// Package must have been verified.
	Package *pluginpkg.Package
	// Grants are the capabilities that the plugin has.
	Grants []string
	// Settings is the configuration as JSON; {} when empty.
	Settings []byte
	// Cache keeps compiled code; nil for none. It outlives the plugin.
	Cache wazero.CompilationCache
	// Log gets what the plugin logs.
	Log *slog.Logger
	// WallClock bounds a call; DefaultWallClock when 0.
	WallClock time.Duration
}

// Plugin is a plugin that can be called.
type Plugin struct {
	manifest  pluginpkg.Manifest
	imports   []wasm.Import
	settings  []byte
	log       *slog.Logger
	canLog    bool
	wallClock time.Duration
	runtime   wazero.Runtime
	module    wazero.CompiledModule
	tokens    chan struct{} // one for each call in progress

	mu     sync.Mutex // guards idle and closed
	idle   []*instance
	closed bool
	calls  sync.WaitGroup

	stats struct{ calls, denials, failures, ticks, logDropped atomic.Int64 }
}

// Stats count since the plugin was loaded.
type Stats struct{ Calls, Denials, Failures, Ticks, LogBytesDropped int64 }

// Missing gives the capabilities that the manifest requires and grants lack.
func Missing(m pluginpkg.Manifest, grants []string) []string {
	var missing []string
	for _, c := range m.Capabilities.Required {
		if !slices.Contains(grants, c) {
			missing = append(missing, c)
		}
	}
	return missing
}

// Load meters, validates and compiles a plugin and starts its first instance.
// Close it. An import whose capability is not granted is refused before
// anything is compiled.
func Load(ctx context.Context, c Config) (*Plugin, error) {
	m := c.Package.Manifest
	if missing := Missing(m, c.Grants); len(missing) > 0 {
		return nil, fault.New(fault.Conflict, "plugin %s requires capabilities that are not granted: %v", m.Name, missing).
			WithHint("grant them with \"tero plugin grant %s\"", m.Name)
	}
	if err := checkABI(m); err != nil {
		return nil, err
	}
	metered, err := wasm.Meter(c.Package.Wasm, wasm.DefaultLimits(m.Limits.MemoryPages))
	if err != nil {
		return nil, refused(m.Name, err)
	}
	if err := checkImports(m.Name, metered.Imports, c.Grants); err != nil {
		return nil, err
	}
	if err := wasm.Validate(ctx, metered.Plain, m.Limits.MemoryPages); err != nil {
		return nil, refused(m.Name, err)
	}
	p := &Plugin{
		manifest: m, imports: metered.Imports, settings: c.Settings, wallClock: c.WallClock,
		log:    c.Log.With(slog.String("plugin", m.Name)),
		canLog: slices.Contains(c.Grants, pluginpkg.CapabilityLog),
		tokens: make(chan struct{}, maxInstances),
	}
	if len(p.settings) == 0 {
		p.settings = []byte("{}")
	}
	if p.wallClock == 0 {
		p.wallClock = DefaultWallClock
	}
	config := wazero.NewRuntimeConfigCompiler().WithCoreFeatures(api.CoreFeaturesV2).
		WithMemoryLimitPages(m.Limits.MemoryPages).WithDebugInfoEnabled(false)
	if c.Cache != nil {
		config = config.WithCompilationCache(c.Cache)
	}
	p.runtime = wazero.NewRuntimeWithConfig(ctx, config)
	if err := p.start(ctx, metered.Module); err != nil {
		return nil, errors.Join(err, p.runtime.Close(context.WithoutCancel(ctx)))
	}
	return p, nil
}

func refused(name string, err error) error {
	return fault.New(fault.Invalid, "the module of plugin %s is refused: %w", name, err).
		WithHint("build it with GOOS=wasip1 GOARCH=wasm go build -buildmode=c-shared, or ask its author")
}

func checkABI(m pluginpkg.Manifest) error {
	var major, minor int
	if _, err := fmt.Sscanf(m.ABI, "%d.%d", &major, &minor); err != nil || major != abiMajor {
		return fault.New(fault.Unsupported, "plugin %s %s needs plugin ABI %s; this node serves %d.x", m.Name, m.Version, m.ABI, abiMajor).
			WithHint("use a version of the plugin for ABI %d, or a TERO that serves ABI %s", abiMajor, m.ABI)
	}
	return nil
}

// start compiles the module and proves with one instance that it starts.
func (p *Plugin) start(ctx context.Context, module []byte) error {
	if err := p.instantiateHost(ctx); err != nil {
		return fmt.Errorf("plugin %s: host functions: %w", p.manifest.Name, err)
	}
	var err error
	// One worker: a compilation must not take the whole machine from the containers.
	if p.module, err = p.runtime.CompileModule(experimental.WithCompilationWorkers(ctx, 1), module); err != nil {
		return refused(p.manifest.Name, err)
	}
	if len(p.module.ExportedMemories()) == 0 {
		return refused(p.manifest.Name, errors.New("it exports no memory"))
	}
	i, err := p.newInstance(ctx, p.settings)
	if err != nil {
		return fault.New(fault.Invalid, "plugin %s does not start: %w", p.manifest.Name, err).
			WithHint("the plugin is faulty; ask its author")
	}
	p.idle = append(p.idle, i)
	return nil
}

// Manifest gives the plugin's manifest.
func (p *Plugin) Manifest() pluginpkg.Manifest { return p.manifest }

// Imports gives the functions that the module imports ("tero_v1.log").
func (p *Plugin) Imports() []string {
	var names []string
	for _, i := range p.imports {
		names = append(names, i.Module+"."+i.Name)
	}
	return names
}

// Stats gives the counters.
func (p *Plugin) Stats() Stats {
	s := &p.stats
	return Stats{s.calls.Load(), s.denials.Load(), s.failures.Load(), s.ticks.Load(), s.logDropped.Load()}
}

// CountDenial counts an answer that was a refusal.
func (p *Plugin) CountDenial() { p.stats.denials.Add(1) }

// CountFailure counts an answer that made no sense.
func (p *Plugin) CountFailure() { p.stats.failures.Add(1) }

// Call hands in to the plugin's hook and gives its answer and what it cost. An
// error is a *Failure, or ctx's.
func (p *Plugin) Call(ctx context.Context, hook pluginv1.HookPoint, in []byte) (out []byte, ticks int64, err error) {
	p.mu.Lock()
	if p.closed {
		p.mu.Unlock()
		return nil, 0, &Failure{Code: CodeClosed, Reason: "the plugin was stopped"}
	}
	p.calls.Add(1)
	p.mu.Unlock()
	defer p.calls.Done()

	if err := p.acquire(ctx); err != nil {
		p.stats.failures.Add(1)
		return nil, 0, err
	}
	defer func() { <-p.tokens }()

	i, err := p.take(ctx)
	if err != nil {
		p.stats.failures.Add(1)
		return nil, 0, &Failure{Code: CodeStart, Reason: "a new instance did not start", Cause: err}
	}
	use := i.begin(p, p.settings)
	out, err = i.call(context.WithValue(ctx, useKey{}, use), hook, in)
	ticks = use.ticks()
	p.stats.calls.Add(1)
	p.stats.ticks.Add(ticks)
	p.stats.logDropped.Add(use.logDropped)
	if err != nil {
		p.stats.failures.Add(1)
		return nil, ticks, errors.Join(use.failure(err), i.module.Close(context.WithoutCancel(ctx)))
	}
	p.put(i)
	return out, ticks, nil
}

// Test is Call on an instance of its own with other settings: the same input
// gives the same answer for the same ticks. It is not counted.
func (p *Plugin) Test(ctx context.Context, settings []byte, hook pluginv1.HookPoint, in []byte) (out []byte, ticks int64, err error) {
	if len(settings) == 0 {
		settings = []byte("{}")
	}
	i, err := p.newInstance(ctx, settings)
	if err != nil {
		return nil, 0, err
	}
	use := i.begin(p, settings)
	out, err = i.call(context.WithValue(ctx, useKey{}, use), hook, in)
	if err != nil {
		err = use.failure(err)
	}
	return out, use.ticks(), errors.Join(err, i.module.Close(context.WithoutCancel(ctx)))
}

// acquire waits for a place among the calls in progress.
func (p *Plugin) acquire(ctx context.Context) error {
	select {
	case p.tokens <- struct{}{}:
		return nil
	default:
	}
	timer := time.NewTimer(p.wallClock)
	defer timer.Stop()
	select {
	case p.tokens <- struct{}{}:
		return nil
	case <-timer.C:
		return &Failure{Code: CodeBusy, Reason: fmt.Sprintf("all %d instances were busy for %v", maxInstances, p.wallClock)}
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (p *Plugin) take(ctx context.Context) (*instance, error) {
	p.mu.Lock()
	if n := len(p.idle); n > 0 {
		i := p.idle[n-1]
		p.idle = p.idle[:n-1]
		p.mu.Unlock()
		return i, nil
	}
	p.mu.Unlock()
	return p.newInstance(ctx, p.settings)
}

func (p *Plugin) put(i *instance) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.idle = append(p.idle, i)
}

// Close lets the calls in progress end and frees everything.
func (p *Plugin) Close(ctx context.Context) error {
	p.mu.Lock()
	p.closed = true
	p.mu.Unlock()
	p.calls.Wait() // each is bounded by its ticks and the wall clock
	if err := p.runtime.Close(ctx); err != nil {
		return fmt.Errorf("close plugin %s: %w", p.manifest.Name, err)
	}
	return nil
}
