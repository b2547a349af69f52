package wasm_test

import (
	"context"
	"testing"

	"github.com/tetratelabs/wazero"
	"github.com/tetratelabs/wazero/api"

	"tero.internal/plugin-manager/internal/wasm"
	. "tero.internal/plugin-manager/internal/wasmtest"
)

// FuzzMeter gives foreign bytes to the rewriter: it must not panic, nor make a
// valid module invalid.
func FuzzMeter(f *testing.F) {
	f.Add([]byte("\x00asm\x01\x00\x00\x00"))
	f.Add(one(Func{Params: []byte{I32}, Body: countdown()}).Bytes())
	f.Add(Module{
		Imports: []Import{{Module: "m", Name: "f"}}, Pages: 1, MaxPages: 2, Table: 2, Elements: []uint32{1}, Data: []byte("data"), HasStart: true, Start: 1,
		Funcs: []Func{{Body: Code(0x10, 0, I32Const(1), 0x40, 0, 0x1a)}},
	}.Bytes())
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := wasm.Meter(b, wasm.DefaultLimits(16))
		if err != nil {
			return
		}
		if wasm.Validate(t.Context(), m.Plain, 16) != nil {
			return
		}
		ctx := context.WithoutCancel(t.Context())
		r := wazero.NewRuntimeWithConfig(ctx, wazero.NewRuntimeConfigInterpreter().WithCoreFeatures(api.CoreFeaturesV2).WithMemoryLimitPages(16))
		defer r.Close(ctx)
		if _, err := r.CompileModule(ctx, m.Module); err != nil {
			t.Errorf("valid before, not after: %v", err)
		}
	})
}
