package plugin

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"

	"github.com/tetratelabs/wazero/api"

	"tero.internal/common/fault"
	"tero.internal/common/pluginpkg"
	"tero.internal/plugin-manager/internal/wasm"
)

const (
	moduleTero = "tero_v1"
	moduleWASI = "wasi_snapshot_preview1"
)

// The types of host functions, in wazero's notation.
var (
	i32 = api.ValueTypeI32
	i64 = api.ValueTypeI64
)

// hostFunction is a function that guests may import.
type hostFunction struct {
	// capability must be granted; "" is for everybody.
	capability      string
	params, results []api.ValueType
	run             func(ctx context.Context, u *use, m api.Memory, stack []uint64)
}

// teroFunctions are the host functions of the ABI.
func teroFunctions() map[string]hostFunction {
	return map[string]hostFunction{
		"log":    {pluginpkg.CapabilityLog, []api.ValueType{i32, i32, i32}, nil, hostLog},
		"config": {pluginpkg.CapabilityConfig, []api.ValueType{i32, i32}, []api.ValueType{i32}, hostConfig},
	}
}

// find gives the host function that an import names.
func find(i wasm.Import) (hostFunction, bool) {
	var f hostFunction
	var ok bool
	switch i.Module {
	case moduleTero:
		f, ok = teroFunctions()[i.Name]
	case moduleWASI:
		f, ok = wasiFunctions()[i.Name]
	}
	return f, ok && slices.Equal(f.params, i.Params) && slices.Equal(f.results, i.Results)
}

// checkImports refuses a module that imports what it was not granted, or what
// no node has.
func checkImports(name string, imports []wasm.Import, grants []string) error {
	for _, i := range imports {
		f, ok := find(i)
		if !ok {
			return fault.New(fault.Invalid, "plugin %s imports %s.%s, which this node does not have, or not with that signature", name, i.Module, i.Name).
				WithHint("build the plugin with an SDK for plugin ABI %d", abiMajor)
		}
		if f.capability != "" && !slices.Contains(grants, f.capability) {
			return fault.New(fault.Denied, "plugin %s imports %s.%s but the capability %q is not granted", name, i.Module, i.Name, f.capability).
				WithHint("grant it with --grant %s if the plugin may have it", f.capability)
		}
	}
	return nil
}

// instantiateHost offers the guest what it imports, and nothing else.
func (p *Plugin) instantiateHost(ctx context.Context) error {
	_, err := p.runtime.NewHostModuleBuilder(wasm.HostModule).NewFunctionBuilder().
		WithGoModuleFunction(api.GoModuleFunc(func(ctx context.Context, m api.Module, stack []uint64) {
			stack[0] = uint64(useOf(ctx, m).refill(ctx, int64(stack[0]))) //nolint:gosec // an i64 both ways
		}), []api.ValueType{i64}, []api.ValueType{i64}).Export(wasm.HostRefill).Instantiate(ctx)
	if err != nil {
		return err
	}
	for _, module := range []string{moduleTero, moduleWASI} {
		b := p.runtime.NewHostModuleBuilder(module)
		for _, i := range p.imports {
			f, _ := find(i) // checkImports has found it
			if i.Module != module {
				continue
			}
			b.NewFunctionBuilder().WithGoModuleFunction(api.GoModuleFunc(func(ctx context.Context, m api.Module, stack []uint64) {
				u := useOf(ctx, m)
				u.charge(ctx, 1)
				f.run(ctx, u, m.Memory(), stack)
			}), f.params, f.results).Export(i.Name)
		}
		if _, err := b.Instantiate(ctx); err != nil {
			return err
		}
	}
	return nil
}

// hostLog is tero_v1.log(level, pointer, size).
func hostLog(ctx context.Context, u *use, m api.Memory, stack []uint64) {
	level := slog.LevelInfo
	switch int32(stack[0]) { //nolint:gosec // an i32
	case 0:
		level = slog.LevelDebug
	case 2:
		level = slog.LevelWarn
	case 3:
		level = slog.LevelError
	}
	u.output(ctx, level, m, uint32(stack[1]), uint32(stack[2])) //nolint:gosec // two i32
}

// output logs text of the guest as far as the call's limit goes.
func (u *use) output(ctx context.Context, level slog.Level, m api.Memory, at, size uint32) {
	b, ok := m.Read(at, size)
	if !ok {
		panic(fmt.Errorf("log of %d bytes at %d is outside of the memory", size, at))
	}
	u.chargeBytes(ctx, size)
	if int64(size) > u.logLeft {
		u.logDropped += int64(size)
		return
	}
	u.logLeft -= int64(size)
	u.p.log.LogAttrs(ctx, level, "plugin says", slog.String("text", strings.TrimRight(strings.ToValidUTF8(string(b), "?"), "\n")))
}

// hostConfig is tero_v1.config(pointer, capacity) -> size.
func hostConfig(ctx context.Context, u *use, m api.Memory, stack []uint64) {
	size := uint32(len(u.settings)) //nolint:gosec // at most maxSettings
	if size <= uint32(stack[1]) {   //nolint:gosec // an i32
		u.chargeBytes(ctx, size)
		if !m.Write(uint32(stack[0]), u.settings) { //nolint:gosec // an i32
			panic(fmt.Errorf("config of %d bytes at %d is outside of the memory", size, uint32(stack[0]))) //nolint:gosec // an i32
		}
	}
	stack[0] = uint64(size)
}
