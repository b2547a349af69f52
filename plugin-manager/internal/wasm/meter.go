package wasm

// The names that tie a metered module to its host.
const (
	// HostModule and HostRefill name the host function that a metered module
	// imports: func(left int64) int64. It is called when left, what is left of
	// the slice, has fallen below zero, and gives the new content of the slice
	// (left plus what it grants), or does not return.
	HostModule = "tero_meter"
	HostRefill = "refill"
	// ExportLeft names the exported mutable i64 global that holds what is left
	// of the slice. The guest cannot name it: its index is past the guest's own.
	ExportLeft = "tero_meter_left"
)

// The prices. One tick is a function entry or the passing of a loop header;
// each further instructionsPerTick instructions of a region and each chunk of a
// bulk operation cost one more, so that a tick stays within the same order of
// time whatever the guest does.
const (
	instructionsPerTick = 64
	bytesPerTickShift   = 6  // memory.fill, copy, init: 64 bytes a tick
	pageTicksShift      = 10 // memory.grow: 65,536 bytes a page
)

// rewriter holds the index space of one module.
type rewriter struct {
	importedFuncs uint32 // also the index of the imported refill function
	definedFuncs  uint32
	types         uint32 // of the original; the rewriter adds two
	globals       uint32 // of the original; also the index of the slice's global
	limits        Limits
}

// fn maps a function index of the original: refill takes the first index after
// the imports, so that the defined ones move up by one.
func (w *rewriter) fn(x uint32) uint32 {
	if x >= w.importedFuncs {
		return x + 1
	}
	return x
}

// The helper functions follow the defined ones.
func (w *rewriter) helper(k uint32) uint32 { return w.importedFuncs + 1 + w.definedFuncs + k }

const (
	helperBytes = iota // charges a length in bytes
	helperElements
	helperPages
	helpers
)

func (w *rewriter) refillType() uint32 { return w.types }
func (w *rewriter) helperType() uint32 { return w.types + 1 }

// copyInstruction appends i with its function index mapped.
func (w *rewriter) copyInstruction(b []byte, i instruction) []byte {
	if i.op == opCall || i.op == opRefFunc {
		return appendU(append(b, i.op), w.fn(i.fn))
	}
	return append(b, i.raw...)
}

// refill appends: if left < 0 { left = refill(left) }.
func (w *rewriter) refill(b []byte) []byte {
	b = appendU(append(b, opGlobalGet), w.globals)
	b = append(b, opI64Const, 0, 0x53 /* i64.lt_s */, opIf, 0x40 /* no result */)
	b = appendU(append(b, opGlobalGet), w.globals)
	b = appendU(append(b, opCall), w.importedFuncs)
	b = appendU(append(b, opGlobalSet), w.globals)
	return append(b, opEnd)
}

// charge appends: left -= ticks, then refill.
func (w *rewriter) charge(b []byte, ticks int64) []byte {
	b = appendU(append(b, opGlobalGet), w.globals)
	b = appendS(append(b, opI64Const), ticks)
	b = append(b, 0x7d /* i64.sub */)
	b = appendU(append(b, opGlobalSet), w.globals)
	return w.refill(b)
}

// helperBody gives the body of a function (n i32) -> n that charges for n.
func (w *rewriter) helperBody(k uint32) []byte {
	b := []byte{0} // no locals
	b = appendU(append(b, opGlobalGet), w.globals)
	b = append(b, opLocalGet, 0, 0xad /* i64.extend_i32_u */)
	switch k {
	case helperBytes:
		b = append(appendS(append(b, opI64Const), bytesPerTickShift), 0x88 /* i64.shr_u */)
	case helperPages:
		b = append(appendS(append(b, opI64Const), pageTicksShift), 0x86 /* i64.shl */)
	}
	b = append(b, 0x7d /* i64.sub */)
	b = appendU(append(b, opGlobalSet), w.globals)
	b = w.refill(b)
	return append(b, opLocalGet, 0, opEnd)
}

// bulkHelper gives the helper that charges for i, which has its length on top
// of the stack.
func bulkHelper(i instruction) (helper uint32, ok bool) {
	if i.op == opMemoryGrow {
		return helperPages, true
	}
	if i.op != opBulk {
		return 0, false
	}
	switch i.sub {
	case bulkMemoryInit, bulkMemoryCopy, bulkMemoryFill:
		return helperBytes, true
	case bulkTableInit, bulkTableCopy, bulkTableGrow, bulkTableFill:
		return helperElements, true
	}
	return 0, false
}

// body meters one function: its entry and the header of each of its loops.
func (w *rewriter) body(code []byte) ([]byte, error) {
	r := &reader{b: code}
	var locals uint64
	for n := r.count(); n > 0 && r.err == nil; n-- {
		locals += uint64(r.u32())
		r.byte()
	}
	if locals > uint64(w.limits.Locals) {
		r.fail("%d locals are more than %d", locals, w.limits.Locals)
	}
	head := r.at
	costs := w.regions(r)
	if r.err != nil {
		return nil, r.err
	}

	r = &reader{b: code, at: head}
	out := make([]byte, 0, 2*len(code)+64)
	out = w.charge(append(out, code[:head]...), costs[0])
	for next := 1; r.more(); {
		i := r.next()
		if k, ok := bulkHelper(i); ok {
			out = appendU(append(out, opCall), w.helper(k))
		}
		out = w.copyInstruction(out, i)
		if i.op == opLoop {
			out = w.charge(out, costs[next])
			next++
		}
	}
	return out, r.err
}

// regions gives the cost of a function's regions in the order in which they
// begin: the body without its loops, and each loop without the loops in it.
func (w *rewriter) regions(r *reader) []int64 {
	count := []int64{0} // instructions of each region
	open := []int{0}    // the region that each open block belongs to
	for r.more() && len(open) > 0 {
		i := r.next()
		count[open[len(open)-1]]++
		switch i.op {
		case opBlock, opIf:
			open = append(open, open[len(open)-1])
		case opLoop:
			open = append(open, len(count))
			count = append(count, 0)
		case opEnd:
			open = open[:len(open)-1]
		}
	}
	if r.err == nil && (len(open) > 0 || r.at != len(r.b)) {
		r.fail("blocks do not match at byte %d", r.at)
	}
	for k, n := range count {
		count[k] = 1 + n/instructionsPerTick
	}
	return count
}
