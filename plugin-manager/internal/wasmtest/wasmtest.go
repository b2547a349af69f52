// Package wasmtest assembles small WebAssembly modules for tests, hostile ones
// too, without a compiler.
package wasmtest

import "encoding/binary"

// The value types.
const (
	I32 = 0x7f
	I64 = 0x7e
)

// Func is a function of the module.
type Func struct {
	// Export is its exported name, if any.
	Export          string
	Params, Results []byte
	// Locals is how many i32 locals it has.
	Locals uint32
	// Body is its instructions, without the last end.
	Body []byte
}

// Import is a function that the module imports.
type Import struct {
	Module, Name    string
	Params, Results []byte
}

// Module is what is assembled.
type Module struct {
	Imports []Import
	Funcs   []Func
	// Pages and MaxPages bound the memory, exported as "memory"; none when Pages is 0.
	Pages, MaxPages uint32
	// Table is the least size of a funcref table; none when 0.
	Table uint32
	// Elements are function indices that fill the table from 0.
	Elements []uint32
	// Data is put at address DataAt.
	Data   []byte
	DataAt int32
	// Start is the start function, if HasStart.
	Start    uint32
	HasStart bool
}

// U gives x as unsigned LEB128.
func U(x uint32) []byte { return binary.AppendUvarint(nil, uint64(x)) }

// S gives x as signed LEB128.
func S(x int64) []byte {
	var b []byte
	for {
		c := byte(x & 0x7f)
		x >>= 7
		if (x == 0 && c&0x40 == 0) || (x == -1 && c&0x40 != 0) {
			return append(b, c)
		}
		b = append(b, c|0x80)
	}
}

// Code joins opcodes (int), and immediates already encoded ([]byte).
func Code(parts ...any) []byte {
	var b []byte
	for _, p := range parts {
		switch p := p.(type) {
		case int:
			b = append(b, byte(p)) //nolint:gosec // an opcode
		case []byte:
			b = append(b, p...)
		}
	}
	return b
}

// I32Const gives i32.const x.
func I32Const(x int32) []byte { return append([]byte{0x41}, S(int64(x))...) }

// I64Const gives i64.const x.
func I64Const(x int64) []byte { return append([]byte{0x42}, S(x)...) }

// count gives n as unsigned LEB128.
func count(n int) []byte { return U(uint32(n)) } //nolint:gosec // a test's module is small

func name(s string) []byte { return append(count(len(s)), s...) }

func vector(items [][]byte) []byte {
	b := count(len(items))
	for _, i := range items {
		b = append(b, i...)
	}
	return b
}

func funcType(params, results []byte) []byte {
	return Code(0x60, count(len(params)), params, count(len(results)), results)
}

// Bytes gives the module in the binary format.
func (m Module) Bytes() []byte {
	out := []byte("\x00asm\x01\x00\x00\x00")
	section := func(id byte, items [][]byte) {
		if len(items) > 0 {
			b := vector(items)
			out = append(append(append(out, id), count(len(b))...), b...)
		}
	}
	var types, imports, funcs, exports, code [][]byte
	for i, f := range m.Imports {
		types = append(types, funcType(f.Params, f.Results))
		imports = append(imports, Code(name(f.Module), name(f.Name), 0, U(uint32(i))))
	}
	for i, f := range m.Funcs {
		index := count(len(m.Imports) + i)
		types = append(types, funcType(f.Params, f.Results))
		funcs = append(funcs, index)
		if f.Export != "" {
			exports = append(exports, Code(name(f.Export), 0, index))
		}
		locals := []byte{0}
		if f.Locals > 0 {
			locals = Code(1, U(f.Locals), I32)
		}
		body := Code(locals, f.Body, 0x0b)
		code = append(code, append(count(len(body)), body...))
	}
	section(1, types)
	section(2, imports)
	section(3, funcs)
	if m.Table > 0 {
		section(4, [][]byte{Code(0x70, 0, U(m.Table))})
	}
	if m.Pages > 0 {
		limits := Code(0, U(m.Pages))
		if m.MaxPages > 0 {
			limits = Code(1, U(m.Pages), U(m.MaxPages))
		}
		section(5, [][]byte{limits})
		exports = append(exports, Code(name("memory"), 2, 0))
	}
	section(7, exports)
	if m.HasStart {
		out = append(out, Code(8, count(len(U(m.Start))), U(m.Start))...)
	}
	if len(m.Elements) > 0 {
		segment := Code(0, I32Const(0), 0x0b, count(len(m.Elements)))
		for _, e := range m.Elements {
			segment = append(segment, U(e)...)
		}
		section(9, [][]byte{segment})
	}
	section(10, code)
	if len(m.Data) > 0 {
		section(11, [][]byte{Code(0, I32Const(m.DataAt), 0x0b, name(string(m.Data)))})
	}
	return out
}
