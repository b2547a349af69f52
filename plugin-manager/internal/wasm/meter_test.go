package wasm_test

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/tetratelabs/wazero"
	"github.com/tetratelabs/wazero/api"

	"tero.internal/plugin-manager/internal/wasm"
	. "tero.internal/plugin-manager/internal/wasmtest"
)

var errSpent = errors.New("spent")

// run meters a module, instantiates it with a budget and calls its export "run".
func run(t testing.TB, m Module, budget int64, params ...uint64) (ticks int64, err error) {
	t.Helper()
	metered, err := wasm.Meter(m.Bytes(), wasm.DefaultLimits(64))
	if err != nil {
		t.Fatal(err)
	}
	if err := wasm.Validate(t.Context(), metered.Plain, 64); err != nil {
		t.Fatal(err)
	}
	ctx := t.Context()
	r := wazero.NewRuntimeWithConfig(ctx, wazero.NewRuntimeConfigCompiler().WithMemoryLimitPages(64))
	t.Cleanup(func() { _ = r.Close(context.WithoutCancel(ctx)) })
	var granted int64
	if _, err := r.NewHostModuleBuilder(wasm.HostModule).NewFunctionBuilder().
		WithGoModuleFunction(api.GoModuleFunc(func(_ context.Context, _ api.Module, stack []uint64) {
			left := int64(stack[0])
			if budget-granted < -left {
				panic(errSpent)
			}
			grant := min(max(-left, 20_000), budget-granted)
			granted += grant
			stack[0] = uint64(left + grant)
		}), []api.ValueType{api.ValueTypeI64}, []api.ValueType{api.ValueTypeI64}).Export(wasm.HostRefill).Instantiate(ctx); err != nil {
		t.Fatal(err)
	}
	i, err := r.InstantiateWithConfig(ctx, metered.Module, wazero.NewModuleConfig().WithName(""))
	if err != nil {
		t.Fatal(err)
	}
	_, err = i.ExportedFunction("run").Call(ctx, params...)
	return granted - int64(i.ExportedGlobal(wasm.ExportLeft).Get()), err
}

// countdown loops n times: local 0 goes down to 0.
func countdown() []byte {
	return Code(0x03, 0x40, // loop
		0x20, 0, I32Const(1), 0x6b, 0x22, 0, // local.tee 0 (local.get 0 - 1)
		0x0d, 0, 0x0b) // br_if 0, end
}

func one(f Func) Module { f.Export = "run"; return Module{Funcs: []Func{f}, Pages: 1} }

func TestTicks(t *testing.T) {
	i32 := []byte{I32}
	straight := Code()
	for range 1000 {
		straight = append(straight, 0x01) // nop
	}
	for _, c := range []struct {
		name   string
		module Module
		param  uint64
		want   int64
	}{
		{"an empty function", one(Func{}), 0, 1},
		{"a loop of ten", one(Func{Params: i32, Body: countdown()}), 10, 1 + 10},
		{"a loop of a million", one(Func{Params: i32, Body: countdown()}), 1_000_000, 1 + 1_000_000},
		{"a thousand instructions in a row", one(Func{Body: straight}), 0, 1 + 1001/64},
		{"fill of 64,000 bytes", one(Func{Body: Code(I32Const(0), I32Const(7), I32Const(64_000), 0xfc, 11, 0)}), 0, 1 + 1000},
		{"copy of 6,400 bytes", one(Func{Body: Code(I32Const(0), I32Const(9000), I32Const(6_400), 0xfc, 10, 0, 0)}), 0, 1 + 100},
		{"growth by two pages", one(Func{Body: Code(I32Const(2), 0x40, 0, 0x1a)}), 0, 1 + 2*1024},
		{"growth of a table by 500", Module{Pages: 1, Table: 1, Funcs: []Func{{Export: "run", Body: Code(0xd0, 0x70, I32Const(500), 0xfc, 15, 0, 0x1a)}}}, 0, 1 + 500},
		{"a call of another function", Module{Pages: 1, Funcs: []Func{{Export: "run", Body: Code(0x10, 1)}, {}}}, 0, 2},
	} {
		t.Run(c.name, func(t *testing.T) {
			var params []uint64
			if len(c.module.Funcs[0].Params) > 0 {
				params = append(params, c.param)
			}
			ticks, err := run(t, c.module, 1<<40, params...)
			if err != nil {
				t.Fatal(err)
			}
			if ticks != c.want {
				t.Errorf("%d ticks, want %d", ticks, c.want)
			}
		})
	}
}

func TestEndlessLoopsEnd(t *testing.T) {
	forever := Code(0x03, 0x40, 0x0c, 0, 0x0b)
	for _, c := range []struct {
		name   string
		module Module
	}{
		{"a loop", one(Func{Body: forever})},
		{"recursion by tail position", Module{Pages: 1, Funcs: []Func{{Export: "run", Body: Code(0x03, 0x40, 0x10, 1, 0x0c, 0, 0x0b)}, {}}}},
		{"huge fills", one(Func{Body: Code(0x03, 0x40, I32Const(0), I32Const(1), I32Const(65536), 0xfc, 11, 0, 0x0c, 0, 0x0b)})},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := run(t, c.module, 1_000_000)
			if !errors.Is(err, errSpent) {
				t.Fatalf("error = %v, want %v", err, errSpent)
			}
		})
	}
}

// TestGolden holds the rewriting of one module as text.
func TestGolden(t *testing.T) {
	m := one(Func{Params: []byte{I32}, Body: countdown()})
	metered, err := wasm.Meter(m.Bytes(), wasm.DefaultLimits(64))
	if err != nil {
		t.Fatal(err)
	}
	again, err := wasm.Meter(m.Bytes(), wasm.DefaultLimits(64))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(metered, again); diff != "" {
		t.Errorf("two rewritings differ (-first +second):\n%s", diff)
	}
	golden := filepath.Join("testdata", "countdown.golden")
	got := dump(metered.Module)
	if os.Getenv("UPDATE_GOLDEN") != "" {
		if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("rewriting (-want +got), UPDATE_GOLDEN=1 takes it over:\n%s", diff)
	}
}

func dump(b []byte) string {
	var s strings.Builder
	for i := 0; i < len(b); i += 16 {
		for _, c := range b[i:min(i+16, len(b))] {
			s.WriteString(string("0123456789abcdef"[c>>4]) + string("0123456789abcdef"[c&15]) + " ")
		}
		s.WriteByte('\n')
	}
	return s.String()
}

func TestRefused(t *testing.T) {
	many := Module{Pages: 1}
	for range 300 {
		many.Funcs = append(many.Funcs, Func{Export: "f" + string(rune('a'+len(many.Funcs)%26)) + strings.Repeat("x", len(many.Funcs)/26)})
	}
	for _, c := range []struct {
		name, want string
		module     []byte
	}{
		{"nothing", "not a core WebAssembly module", nil},
		{"a component", "a component?", []byte("\x00asm\x0d\x00\x01\x00")},
		{"too much memory", "more than 64", Module{Pages: 65}.Bytes()},
		{"too large a table", "more than 100000", Module{Pages: 1, Table: 100_001}.Bytes()},
		{"too many exports", "exports are more than 256", many.Bytes()},
		{"too many locals", "locals are more than", Module{Funcs: []Func{{Locals: 20_000}}}.Bytes()},
		{"a name of the host", "reserved", Module{Funcs: []Func{{Export: wasm.ExportLeft}}}.Bytes()},
		{"a tail call", "unknown opcode 0x12", Module{Funcs: []Func{{Body: Code(0x12, 0)}}}.Bytes()},
		{"an atomic", "unknown opcode 0xfe", Module{Funcs: []Func{{Body: Code(0xfe, 3, 0)}}}.Bytes()},
		{"a lying count", "more than what is left", []byte("\x00asm\x01\x00\x00\x00\x01\x05\xff\xff\xff\xff\x0f")},
		{"a truncated section", "unexpected end", []byte("\x00asm\x01\x00\x00\x00\x01\x7f\x00")},
		{"too large", "more than", make([]byte, 16<<20+1)},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := wasm.Meter(c.module, wasm.DefaultLimits(64))
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error = %v, want one with %q", err, c.want)
			}
		})
	}
}

// TestInvalidStaysInvalid has a module that metering alone would not refuse.
func TestInvalidStaysInvalid(t *testing.T) {
	for name, m := range map[string]Module{
		"a type error":            one(Func{Results: []byte{I32}}),
		"the slice's global":      one(Func{Body: Code(0x42, 0, 0x24, 0)}), // global.set 0: the guest has no global
		"the refill function":     one(Func{Body: Code(0x10, 1)}),
		"a helper's index":        one(Func{Body: Code(I32Const(1), 0x10, 2, 0x1a)}),
		"memory beyond the limit": {Pages: 1, MaxPages: 70_000},
	} {
		t.Run(name, func(t *testing.T) {
			metered, err := wasm.Meter(m.Bytes(), wasm.DefaultLimits(64))
			if err != nil {
				t.Fatal(err)
			}
			if err := wasm.Validate(t.Context(), metered.Plain, 64); err == nil {
				t.Error("an invalid module passed")
			}
		})
	}
}

// TestSpecSuiteCompiles meters each valid module of wazero's copies of the
// WebAssembly spec suites and compiles the result.
func TestSpecSuiteCompiles(t *testing.T) {
	dir, err := exec.CommandContext(t.Context(), "go", "list", "-m", "-f", "{{.Dir}}", "github.com/tetratelabs/wazero").Output()
	if err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob(filepath.Join(strings.TrimSpace(string(dir)), "internal/integration_test/spectest/v2/testdata/*.wasm"))
	if err != nil || len(files) < 1000 {
		t.Fatalf("%d files of the spec suite, error %v", len(files), err)
	}
	r := wazero.NewRuntimeWithConfig(t.Context(), wazero.NewRuntimeConfigInterpreter())
	defer r.Close(context.WithoutCancel(t.Context()))
	limits := wasm.DefaultLimits(65536)
	limits.TableElements, limits.Exports = 1<<27, 1000
	var compiled, imports, refused int
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		original, err := r.CompileModule(t.Context(), b)
		if err != nil {
			refused++
			continue // the suite has invalid modules on purpose
		}
		_ = original.Close(t.Context())
		metered, err := wasm.Meter(b, limits)
		if err != nil {
			if strings.Contains(err.Error(), "may import only functions") {
				imports++
				continue
			}
			t.Errorf("%s: %v", filepath.Base(f), err)
			continue
		}
		c, err := r.CompileModule(t.Context(), metered.Module)
		if err != nil {
			t.Errorf("%s: metered: %v", filepath.Base(f), err)
			continue
		}
		_ = c.Close(t.Context())
		compiled++
	}
	t.Logf("%d modules metered and compiled, %d import more than functions, %d are invalid", compiled, imports, refused)
	if compiled < 500 {
		t.Errorf("only %d modules", compiled)
	}
}
