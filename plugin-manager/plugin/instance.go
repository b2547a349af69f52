package plugin

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/tetratelabs/wazero"
	"github.com/tetratelabs/wazero/api"

	pluginv1 "tero.internal/api/plugin/v1"
	"tero.internal/plugin-manager/internal/wasm"
)

// instance is one instance of the module. It is for one call at a time.
type instance struct {
	module api.Module
	alloc  api.Function
	answer api.Function
	free   api.Function
	left   api.MutableGlobal // what is left of the slice
	clock  uint64            // virtual nanoseconds
	random *rand.ChaCha8
}

// newInstance starts an instance. Its start pays too.
func (p *Plugin) newInstance(ctx context.Context, settings []byte) (*instance, error) {
	i := &instance{random: rand.NewChaCha8([32]byte{})}
	u := &use{p: p, i: i, settings: settings, budget: startTicks, wallClock: startWallClock, logLeft: p.manifest.Limits.LogBytesPerCall}
	u.deadline = time.Now().Add(u.wallClock)
	c := context.WithValue(ctx, useKey{}, u)
	// "_initialize" is called below, where its failure is told like any other.
	m, err := p.runtime.InstantiateModule(c, p.module, wazero.NewModuleConfig().WithName("").WithStartFunctions())
	if err != nil {
		return nil, u.failure(err)
	}
	i.module = m
	if err := i.prepare(c); err != nil {
		return nil, errors.Join(u.failure(err), m.Close(context.WithoutCancel(ctx)))
	}
	return i, nil
}

// prepare finds what the ABI wants exported and initialises the guest.
func (i *instance) prepare(ctx context.Context) error {
	i.bind(i.module)
	for _, e := range []struct {
		name            string
		params, results []api.ValueType
		function        *api.Function
	}{
		{"tero_alloc", []api.ValueType{api.ValueTypeI32}, []api.ValueType{api.ValueTypeI32}, &i.alloc},
		{"tero_call", []api.ValueType{api.ValueTypeI32, api.ValueTypeI32, api.ValueTypeI32}, []api.ValueType{api.ValueTypeI64}, &i.answer},
		{"tero_free", []api.ValueType{api.ValueTypeI32}, nil, &i.free},
		{"tero_abi", nil, []api.ValueType{api.ValueTypeI32}, new(api.Function)},
	} {
		f := i.module.ExportedFunction(e.name)
		if f == nil {
			return &Failure{Code: CodeStart, Reason: "it does not export " + e.name}
		}
		if d := f.Definition(); !slices.Equal(d.ParamTypes(), e.params) || !slices.Equal(d.ResultTypes(), e.results) {
			return &Failure{Code: CodeStart, Reason: "its export " + e.name + " has another signature than the ABI"}
		}
		*e.function = f
	}
	if f := i.module.ExportedFunction("_initialize"); f != nil {
		if _, err := f.Call(ctx); err != nil {
			return err
		}
	}
	r, err := i.module.ExportedFunction("tero_abi").Call(ctx)
	if err != nil {
		return err
	}
	if major := uint32(r[0]) >> 16; major != abiMajor { //nolint:gosec // an i32
		return &Failure{Code: CodeStart, Reason: fmt.Sprintf("it was built for plugin ABI %d; this node serves %d", major, abiMajor)}
	}
	return nil
}

// bind finds the slice's global; the module's start function may run before
// InstantiateModule gives the module.
func (i *instance) bind(m api.Module) {
	if i.left == nil {
		i.left, _ = m.ExportedGlobal(wasm.ExportLeft).(api.MutableGlobal)
	}
}

// begin opens the account of a call.
func (i *instance) begin(p *Plugin, settings []byte) *use {
	i.left.Set(0)
	return &use{
		p: p, i: i, settings: settings, budget: p.manifest.Limits.TicksPerCall, logLeft: p.manifest.Limits.LogBytesPerCall,
		deadline: time.Now().Add(p.wallClock), wallClock: p.wallClock,
	}
}

// call hands in to the guest and copies its answer.
func (i *instance) call(ctx context.Context, hook pluginv1.HookPoint, in []byte) ([]byte, error) {
	r, err := i.alloc.Call(ctx, uint64(len(in)))
	if err != nil {
		return nil, err
	}
	at := uint32(r[0]) //nolint:gosec // an i32
	if !i.module.Memory().Write(at, in) {
		return nil, &Failure{Code: CodeAnswer, Reason: "tero_alloc gave memory that is not there"}
	}
	r, err = i.answer.Call(ctx, uint64(hook), uint64(at), uint64(len(in))) //nolint:gosec // hook is an enum from 1
	if err != nil {
		return nil, err
	}
	at, size := uint32(r[0]>>32), uint32(r[0]) //nolint:gosec // two i32 in an i64
	if size > maxAnswer {
		return nil, &Failure{Code: CodeAnswer, Reason: fmt.Sprintf("the answer has %d bytes, more than %d", size, maxAnswer)}
	}
	view, ok := i.module.Memory().Read(at, size)
	if !ok {
		return nil, &Failure{Code: CodeAnswer, Reason: "the answer is in memory that is not there"}
	}
	out := slices.Clone(view)
	if _, err := i.free.Call(ctx, uint64(at)); err != nil {
		return nil, err
	}
	return out, nil
}
