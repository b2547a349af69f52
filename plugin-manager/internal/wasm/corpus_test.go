package wasm_test

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/tetratelabs/wazero"
	"github.com/tetratelabs/wazero/api"
	"github.com/tetratelabs/wazero/imports/wasi_snapshot_preview1"

	"tero.internal/plugin-manager/internal/wasm"
)

// wazeroFile gives the path of a file in wazero's module.
func wazeroFile(t testing.TB, name string) string {
	t.Helper()
	dir, err := exec.CommandContext(t.Context(), "go", "list", "-m", "-f", "{{.Dir}}", "github.com/tetratelabs/wazero").Output()
	if err != nil {
		t.Fatal(err)
	}
	return filepath.Join(strings.TrimSpace(string(dir)), "internal/integration_test", name)
}

// guest instantiates a module with all that the corpus imports.
func guest(t testing.TB, config wazero.RuntimeConfig, module []byte) (api.Module, error) {
	t.Helper()
	ctx := t.Context()
	r := wazero.NewRuntimeWithConfig(ctx, config.WithMemoryLimitPages(1024))
	t.Cleanup(func() { _ = r.Close(context.WithoutCancel(ctx)) })
	wasi_snapshot_preview1.MustInstantiate(ctx, r)
	for name, f := range map[string]struct {
		module string
		run    any
	}{
		wasm.HostRefill:     {wasm.HostModule, func(left int64) int64 { return left%20_000 + 20_000 }},
		"get_random_string": {"env", func(context.Context, api.Module, uint32, uint32) {}},
	} {
		if _, err := r.NewHostModuleBuilder(f.module).NewFunctionBuilder().WithFunc(f.run).Export(name).Instantiate(ctx); err != nil {
			t.Fatal(err)
		}
	}
	return r.InstantiateWithConfig(ctx, module, wazero.NewModuleConfig().WithName(""))
}

func meter(t testing.TB, module []byte) []byte {
	t.Helper()
	m, err := wasm.Meter(module, wasm.DefaultLimits(1024))
	if err != nil {
		t.Fatal(err)
	}
	return m.Module
}

// TestMeteredIsEqual runs a compiled program plain and metered: results and
// memory must be the same.
func TestMeteredIsEqual(t *testing.T) {
	module, err := os.ReadFile(wazeroFile(t, "bench/testdata/case.wasm"))
	if err != nil {
		t.Fatal(err)
	}
	plain, err := guest(t, wazero.NewRuntimeConfigCompiler(), module)
	if err != nil {
		t.Fatal(err)
	}
	metered, err := guest(t, wazero.NewRuntimeConfigCompiler(), meter(t, module))
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		function string
		param    uint64
	}{{"fibonacci", 20}, {"string_manipulation", 200}, {"reverse_array", 5000}, {"random_mat_mul", 20}, {"fibonacci", 3}} {
		want, err := plain.ExportedFunction(c.function).Call(t.Context(), c.param)
		if err != nil {
			t.Fatal(err)
		}
		got, err := metered.ExportedFunction(c.function).Call(t.Context(), c.param)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s(%d) (-plain +metered):\n%s", c.function, c.param, diff)
		}
		a, _ := plain.Memory().Read(0, plain.Memory().Size())
		b, _ := metered.Memory().Read(0, metered.Memory().Size())
		if !bytes.Equal(a, b) {
			t.Errorf("%s(%d): memories of %d and %d bytes differ", c.function, c.param, len(a), len(b))
		}
	}
}

// TestMeteredIsEqualOnFuzzCases runs modules that once broke wazero's
// compilers: the same results, or a trap in both.
func TestMeteredIsEqualOnFuzzCases(t *testing.T) {
	files, err := filepath.Glob(wazeroFile(t, "fuzzcases/testdata/*.wasm"))
	if err != nil || len(files) < 20 {
		t.Fatalf("%d files, error %v", len(files), err)
	}
	compared := 0
	for _, f := range files {
		module, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		m, err := wasm.Meter(module, wasm.DefaultLimits(1024))
		if err != nil {
			continue // imports more than functions, or is not WebAssembly 2.0
		}
		config := wazero.NewRuntimeConfigCompiler().WithCloseOnContextDone(true)
		plain, errPlain := guest(t, config, module)
		metered, errMetered := guest(t, config, m.Module)
		if (errPlain == nil) != (errMetered == nil) {
			t.Errorf("%s: plain %v, metered %v", filepath.Base(f), errPlain, errMetered)
		}
		if errPlain != nil || errMetered != nil {
			continue
		}
		for name, d := range plain.ExportedFunctionDefinitions() {
			if len(d.ParamTypes()) > 0 {
				continue
			}
			want, errPlain := call(t, plain, name)
			got, errMetered := call(t, metered, name)
			if cmp.Diff(want, got) != "" || (errPlain == nil) != (errMetered == nil) {
				t.Errorf("%s %s: plain %v %v, metered %v %v", filepath.Base(f), name, want, errPlain, got, errMetered)
			}
			compared++
		}
	}
	t.Logf("%d functions compared", compared)
	if compared < 10 {
		t.Errorf("only %d functions were compared", compared)
	}
}

func call(t *testing.T, m api.Module, name string) ([]uint64, error) {
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	return m.ExportedFunction(name).Call(ctx)
}

// BenchmarkOverhead compares a call plain, metered, and with wazero's own way
// of stopping a guest.
func BenchmarkOverhead(b *testing.B) {
	module, err := os.ReadFile(wazeroFile(b, "bench/testdata/case.wasm"))
	if err != nil {
		b.Fatal(err)
	}
	variants := []struct {
		name   string
		config wazero.RuntimeConfig
		module []byte
	}{
		{"plain", wazero.NewRuntimeConfigCompiler(), module},
		{"metered", wazero.NewRuntimeConfigCompiler(), meter(b, module)},
		{"closeondone", wazero.NewRuntimeConfigCompiler().WithCloseOnContextDone(true), module},
	}
	for _, c := range []struct {
		function string
		param    uint64
	}{{"fibonacci", 22}, {"random_mat_mul", 40}, {"reverse_array", 20_000}, {"string_manipulation", 100}} {
		b.Run(c.function, func(b *testing.B) {
			fs := make([]api.Function, len(variants))
			for i, v := range variants {
				g, err := guest(b, v.config, v.module)
				if err != nil {
					b.Fatal(err)
				}
				fs[i] = g.ExportedFunction(c.function)
			}
			took := make([]time.Duration, len(variants))
			for b.Loop() { // interleaved, so that the machine's moods meet all of them
				for i, f := range fs {
					start := time.Now()
					if _, err := f.Call(b.Context(), c.param); err != nil {
						b.Fatal(err)
					}
					took[i] += time.Since(start)
				}
			}
			for i, v := range variants {
				b.ReportMetric(float64(took[i].Nanoseconds())/float64(b.N), v.name+"-ns/call")
				if i > 0 {
					b.ReportMetric(took[i].Seconds()/took[0].Seconds(), v.name+"-ratio")
				}
			}
			ratio := took[1].Seconds() / took[0].Seconds()
			b.Logf("BENCH name=wasm_metered_%s ours=%v peer=%v ratio=%.2f target<=1.25", c.function,
				took[1]/time.Duration(b.N), took[0]/time.Duration(b.N), ratio)
		})
	}
}
