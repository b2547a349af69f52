package wasm

import (
	"context"
	"fmt"

	"github.com/tetratelabs/wazero"
	"github.com/tetratelabs/wazero/api"
)

// Validate tells whether a module (Metered.Plain) is valid WebAssembly 2.0 as its author made
// it. Metering must never turn an invalid module into a valid one, so this
// judges the original. Meter it first: that bounds the counts and sizes which a
// decoder would otherwise believe.
func Validate(ctx context.Context, module []byte, memoryPages uint32) (err error) {
	r := wazero.NewRuntimeWithConfig(ctx, wazero.NewRuntimeConfigInterpreter().
		WithCoreFeatures(api.CoreFeaturesV2).WithDebugInfoEnabled(false).WithMemoryLimitPages(memoryPages))
	defer func() {
		if cerr := r.Close(ctx); err == nil && cerr != nil {
			err = fmt.Errorf("close the validator: %w", cerr)
		}
	}()
	compiled, err := r.CompileModule(ctx, module)
	if err != nil {
		return fmt.Errorf("not a valid module: %w", err)
	}
	return compiled.Close(ctx)
}
