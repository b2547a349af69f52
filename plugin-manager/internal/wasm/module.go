package wasm

import (
	"bytes"
	"fmt"
	"strings"
)

// Limits are what a module may be, whatever it does when it runs.
type Limits struct {
	// ModuleBytes is the size of the module.
	ModuleBytes int
	// Functions, Imports, Exports and Globals are counts; Functions with the imported ones.
	Functions, Imports, Exports, Globals uint32
	// Locals and FunctionBytes are for one function.
	Locals        uint32
	FunctionBytes int
	// MemoryPages is the most that the memory may begin with and grow to, in 64 KiB.
	MemoryPages uint32
	// TableElements is the most that a table may begin with and grow to.
	TableElements uint32
}

// DefaultLimits suit guests written in Go, which are the largest: a small one
// has 3 MB and 5,000 functions.
func DefaultLimits(memoryPages uint32) Limits {
	return Limits{
		ModuleBytes: 16 << 20, Functions: 50_000, Imports: 256, Exports: 256, Globals: 1_000,
		Locals: 10_000, FunctionBytes: 1 << 20, MemoryPages: memoryPages, TableElements: 100_000,
	}
}

// Import is a function that a module wants from its host.
type Import struct {
	Module, Name string
	// Params and Results are value types as the binary format has them (0x7f is i32).
	Params, Results []byte
}

// Metered is a module that pays for what it does.
type Metered struct {
	// Module is the rewritten module.
	Module []byte
	// Plain is the original without its custom sections: what Validate judges.
	Plain []byte
	// Imports are those of the original, in order.
	Imports []Import
}

// The section numbers (WebAssembly core 2.0, section 5.5.2).
const (
	sectionCustom = iota
	sectionType
	sectionImport
	sectionFunction
	sectionTable
	sectionMemory
	sectionGlobal
	sectionExport
	sectionStart
	sectionElement
	sectionCode
	sectionData
	sectionDataCount
	sectionNumbers
)

var header = []byte("\x00asm\x01\x00\x00\x00")

// Meter rewrites a core module so that function entries, loop headers and bulk
// operations pay, and refuses one that is larger than limits. It does not
// replace validation: Validate the original before the result is used.
func Meter(module []byte, limits Limits) (*Metered, error) {
	if len(module) > limits.ModuleBytes {
		return nil, fmt.Errorf("module has %d bytes, more than %d", len(module), limits.ModuleBytes)
	}
	s, plain, names, err := split(module)
	if err != nil {
		return nil, err
	}
	w := &rewriter{limits: limits}
	imports, err := w.scan(s)
	if err != nil {
		return nil, err
	}
	out := append([]byte(nil), header...)
	// The order of the format: data count stands before code.
	for _, step := range []struct {
		id      byte
		rewrite func(*reader) []byte
	}{
		{sectionType, w.typeSection},
		{sectionImport, w.importSection},
		{sectionFunction, w.functionSection},
		{sectionTable, w.tableSection},
		{sectionMemory, w.memorySection},
		{sectionGlobal, w.globalSection},
		{sectionExport, w.exportSection},
		{sectionStart, w.startSection},
		{sectionElement, w.elementSection},
		{sectionDataCount, dataCount},
		{sectionCode, w.codeSection},
		{sectionData, w.dataSection},
	} {
		r := &reader{b: s[step.id]}
		if s[step.id] == nil {
			switch step.id {
			case sectionType, sectionImport, sectionFunction, sectionGlobal, sectionExport, sectionCode:
				r.b = []byte{0} // these get something added: as if there had been an empty one
			default:
				continue
			}
		}
		b := step.rewrite(r)
		if r.err == nil && r.at != len(r.b) {
			r.fail("%d bytes left over", len(r.b)-r.at)
		}
		if r.err != nil {
			return nil, fmt.Errorf("section %d: %w", step.id, r.err)
		}
		out = appendBytes(append(out, step.id), b)
	}
	if b := w.nameSection(&reader{b: names}); b != nil {
		out = appendBytes(append(out, sectionCustom), b)
	}
	return &Metered{Module: out, Plain: plain, Imports: imports}, nil
}

// split finds the sections. Custom ones are dropped (debug information would no
// longer be true) but the name section, which makes stack traces readable.
func split(module []byte) (s [sectionNumbers][]byte, plain, names []byte, err error) {
	if !bytes.HasPrefix(module, header) {
		return s, nil, nil, fmt.Errorf("not a core WebAssembly module of version 1 (a component?)")
	}
	plain = append(make([]byte, 0, len(module)), header...)
	r := &reader{b: module, at: len(header)}
	for r.more() {
		start := r.at
		id := r.byte()
		b := r.bytes()
		switch {
		case r.err != nil:
		case id == sectionCustom:
			c := &reader{b: b}
			if string(c.bytes()) == "name" && c.err == nil {
				names = c.rest()
			}
		case id >= sectionNumbers:
			r.fail("unknown section %d", id)
		case s[id] != nil: //nolint:gosec // id is less than sectionNumbers
			r.fail("section %d twice", id)
		case len(b) == 0:
			r.fail("section %d is empty", id)
		default:
			s[id] = b //nolint:gosec // id is less than sectionNumbers
			plain = append(plain, module[start:r.at]...)
		}
	}
	return s, plain, names, r.err
}

// scan counts the index spaces and reads the imports.
func (w *rewriter) scan(s [sectionNumbers][]byte) ([]Import, error) {
	signatures, err := w.scanTypes(&reader{b: s[sectionType]})
	if err != nil {
		return nil, err
	}
	r := &reader{b: s[sectionImport]}
	var imports []Import
	if r.more() {
		n := r.count()
		if n > w.limits.Imports {
			return nil, fmt.Errorf("%d imports are more than %d", n, w.limits.Imports)
		}
		for ; n > 0 && r.err == nil; n-- {
			i := Import{Module: string(r.bytes()), Name: string(r.bytes())}
			if kind := r.byte(); kind != 0 {
				r.fail("import %s.%s is not a function; a plugin may import only functions", i.Module, i.Name)
			}
			t := r.u32()
			if r.err == nil && t >= uint32(len(signatures)) { //nolint:gosec // counted by scanTypes
				r.fail("import %s.%s has no type %d", i.Module, i.Name, t)
			}
			if r.err == nil {
				i.Params, i.Results = signatures[t].Params, signatures[t].Results
				imports = append(imports, i)
			}
		}
	}
	if r.err != nil {
		return nil, fmt.Errorf("imports: %w", r.err)
	}
	w.importedFuncs = uint32(len(imports)) //nolint:gosec // at most Limits.Imports
	w.definedFuncs = first(s[sectionFunction])
	w.globals = first(s[sectionGlobal])
	if n := uint64(w.importedFuncs) + uint64(w.definedFuncs); n > uint64(w.limits.Functions) {
		return nil, fmt.Errorf("%d functions are more than %d", n, w.limits.Functions)
	}
	if w.globals > w.limits.Globals {
		return nil, fmt.Errorf("%d globals are more than %d", w.globals, w.limits.Globals)
	}
	return imports, nil
}

func (w *rewriter) scanTypes(r *reader) ([]Import, error) {
	if !r.more() {
		return nil, nil
	}
	w.types = r.count()
	if w.types > w.limits.Functions {
		return nil, fmt.Errorf("%d types are more than %d", w.types, w.limits.Functions)
	}
	var types []Import
	for n := w.types; n > 0 && r.err == nil; n-- {
		if form := r.byte(); form != 0x60 {
			r.fail("type of form %#x is not a function", form)
		}
		types = append(types, Import{Params: r.bytes(), Results: r.bytes()})
	}
	if r.err != nil {
		return nil, fmt.Errorf("types: %w", r.err)
	}
	return types, nil
}

// first reads the count at the beginning of a section; its rewriter checks it.
func first(section []byte) uint32 {
	r := &reader{b: section}
	if !r.more() {
		return 0
	}
	return r.count()
}

// dataCount copies the data count section, a number that the data section repeats.
func dataCount(r *reader) []byte { return appendU(nil, r.u32()) }

// added gives the beginning of a section of r.count() items and k more, with
// the items as they are.
func added(r *reader, k uint32) []byte {
	n := r.count()
	b := append(appendU(nil, n+k), r.rest()...)
	r.at = len(r.b)
	return b
}

func (w *rewriter) typeSection(r *reader) []byte {
	b := added(r, 2)
	return append(b,
		0x60, 1, 0x7e, 1, 0x7e, // (i64) -> i64: refill
		0x60, 1, 0x7f, 1, 0x7f) // (i32) -> i32: the helpers
}

func (w *rewriter) importSection(r *reader) []byte {
	b := added(r, 1)
	b = appendBytes(b, []byte(HostModule))
	b = appendBytes(b, []byte(HostRefill))
	return appendU(append(b, 0), w.refillType())
}

func (w *rewriter) functionSection(r *reader) []byte {
	b := added(r, helpers)
	for range helpers {
		b = appendU(b, w.helperType())
	}
	return b
}

// bounds rewrites the limits of a table or a memory so that most holds.
func bounds(r *reader, b []byte, what string, most uint32) []byte {
	flag := r.byte()
	if flag > 1 {
		r.fail("%s limits of kind %d are not supported", what, flag)
	}
	low, high := r.u32(), most
	if flag == 1 {
		high = min(high, r.u32())
	}
	if low > most {
		r.fail("%s begins with %d, more than %d", what, low, most)
	}
	return appendU(appendU(append(b, 1), low), high)
}

func (w *rewriter) tableSection(r *reader) []byte {
	n := r.count()
	if n > 16 {
		r.fail("%d tables are more than 16", n)
	}
	b := appendU(nil, n)
	for ; n > 0 && r.err == nil; n-- {
		b = append(b, r.byte())
		b = bounds(r, b, "a table", w.limits.TableElements)
	}
	return b
}

func (w *rewriter) memorySection(r *reader) []byte {
	n := r.count()
	if n > 1 {
		r.fail("%d memories are more than 1", n)
	}
	b := appendU(nil, n)
	if n == 1 {
		b = bounds(r, b, "the memory, in pages,", w.limits.MemoryPages)
	}
	return b
}

func (w *rewriter) globalSection(r *reader) []byte {
	n := r.count()
	b := appendU(nil, n+1)
	for ; n > 0 && r.err == nil; n-- {
		b = append(b, r.byte(), r.byte())
		b = w.expression(r, b)
	}
	return append(b, 0x7e /* i64 */, 1 /* mutable */, opI64Const, 0, opEnd)
}

// expression copies a constant expression.
func (w *rewriter) expression(r *reader, b []byte) []byte {
	for r.err == nil {
		i := r.next()
		b = w.copyInstruction(b, i)
		if i.op == opEnd {
			break
		}
	}
	return b
}

func (w *rewriter) exportSection(r *reader) []byte {
	n := r.count()
	if n > w.limits.Exports {
		r.fail("%d exports are more than %d", n, w.limits.Exports)
	}
	b := appendU(nil, n+1)
	for ; n > 0 && r.err == nil; n-- {
		name := r.bytes()
		if strings.HasPrefix(string(name), HostModule) {
			r.fail("export %q is reserved for the host", name)
		}
		kind, x := r.byte(), r.u32()
		if kind == 0 {
			x = w.fn(x)
		}
		b = appendU(append(appendBytes(b, name), kind), x)
	}
	return appendU(append(appendBytes(b, []byte(ExportLeft)), 3 /* a global */), w.globals)
}

func (w *rewriter) startSection(r *reader) []byte { return appendU(nil, w.fn(r.u32())) }

// elementSection copies the element segments (section 5.5.12: bit 0 of the
// kind is passive or declarative, bit 1 an explicit index or kind, bit 2
// expressions instead of indices).
func (w *rewriter) elementSection(r *reader) []byte {
	n := r.count()
	b := appendU(nil, n)
	for ; n > 0 && r.err == nil; n-- {
		kind := r.u32()
		if kind > 7 {
			r.fail("element segment of kind %d", kind)
		}
		b = appendU(b, kind)
		if kind&1 == 0 {
			if kind&2 != 0 {
				b = appendU(b, r.u32())
			}
			b = w.expression(r, b)
		}
		if kind&3 != 0 {
			b = append(b, r.byte())
		}
		m := r.count()
		b = appendU(b, m)
		for ; m > 0 && r.err == nil; m-- {
			if kind&4 != 0 {
				b = w.expression(r, b)
			} else {
				b = appendU(b, w.fn(r.u32()))
			}
		}
	}
	return b
}

func (w *rewriter) codeSection(r *reader) []byte {
	n := r.count()
	if n != w.definedFuncs {
		r.fail("%d function bodies for %d functions", n, w.definedFuncs)
	}
	b := make([]byte, 0, 2*len(r.b)+256)
	b = appendU(b, n+helpers)
	for k := range n {
		code := r.bytes()
		if len(code) > w.limits.FunctionBytes {
			r.fail("function %d has %d bytes, more than %d", k, len(code), w.limits.FunctionBytes)
		}
		if r.err != nil {
			return nil
		}
		metered, err := w.body(code)
		if err != nil {
			r.fail("function %d: %w", k, err)
			return nil
		}
		b = appendBytes(b, metered)
	}
	for k := range uint32(helpers) {
		b = appendBytes(b, w.helperBody(k))
	}
	return b
}

// dataSection copies the data segments (section 5.5.14).
func (w *rewriter) dataSection(r *reader) []byte {
	n := r.count()
	b := appendU(make([]byte, 0, len(r.b)), n)
	for ; n > 0 && r.err == nil; n-- {
		kind := r.u32()
		b = appendU(b, kind)
		switch kind {
		case 0:
			b = w.expression(r, b)
		case 1:
		case 2:
			b = w.expression(r, appendU(b, r.u32()))
		default:
			r.fail("data segment of kind %d", kind)
		}
		b = appendBytes(b, r.bytes())
	}
	return b
}

// nameSection maps the function names; the other names are dropped, and all of
// them if the section is malformed, which the format allows.
func (w *rewriter) nameSection(r *reader) []byte {
	for r.more() {
		id, sub := r.byte(), r.bytes()
		if id != 1 {
			continue
		}
		q := &reader{b: sub}
		n := q.count()
		b := appendU(nil, n)
		for ; n > 0 && q.err == nil; n-- {
			b = appendU(b, w.fn(q.u32()))
			b = appendBytes(b, q.bytes())
		}
		if q.err != nil {
			return nil
		}
		return appendBytes(append(appendBytes(nil, []byte("name")), 1), b)
	}
	return nil
}
