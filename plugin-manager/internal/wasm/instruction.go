package wasm

// The opcodes that metering looks at (WebAssembly core 2.0, section 5.4).
const (
	opBlock      = 0x02
	opLoop       = 0x03
	opIf         = 0x04
	opEnd        = 0x0b
	opCall       = 0x10
	opLocalGet   = 0x20
	opGlobalGet  = 0x23
	opGlobalSet  = 0x24
	opMemoryGrow = 0x40
	opI64Const   = 0x42
	opRefFunc    = 0xd2
	opBulk       = 0xfc // prefix of saturating conversions and bulk operations
	opVector     = 0xfd // prefix of SIMD
)

// The second byte of the bulk operations that cost by length.
const (
	bulkMemoryInit = 8
	bulkMemoryCopy = 10
	bulkMemoryFill = 11
	bulkTableInit  = 12
	bulkTableCopy  = 14
	bulkTableGrow  = 15
	bulkTableFill  = 17
)

// instruction is one decoded instruction.
type instruction struct {
	op byte
	// sub is the second opcode after opBulk.
	sub uint32
	// fn is the function index of opCall and opRefFunc.
	fn uint32
	// raw is all its bytes.
	raw []byte
}

// next decodes one instruction of the features that wazero's CoreFeaturesV2
// allows. What it does not know is an error: no instruction passes unmetered.
func (r *reader) next() instruction {
	start := r.at
	i := instruction{op: r.byte()}
	switch op := i.op; {
	case op == opCall || op == opRefFunc:
		i.fn = r.u32()
	case op >= opBlock && op <= opIf, // block type: an s33
		op == 0x0c || op == 0x0d, // br, br_if
		op >= 0x20 && op <= 0x26, // local, global and table accesses
		op == 0x3f || op == 0x40, // memory.size, memory.grow
		op == 0x41 || op == 0x42, // i32.const, i64.const
		op == 0xd0:               // ref.null
		r.skipLEB()
	case op == 0x0e: // br_table
		for n := r.count(); n > 0 && r.err == nil; n-- {
			r.skipLEB()
		}
		r.skipLEB()
	case op == 0x11, op >= 0x28 && op <= 0x3e: // call_indirect, loads and stores
		r.skipLEB()
		r.skipLEB()
	case op == 0x1c: // select with types
		for n := r.count(); n > 0 && r.err == nil; n-- {
			r.byte()
		}
	case op == 0x43:
		r.take(4)
	case op == 0x44:
		r.take(8)
	case op == opBulk:
		i.sub = r.bulk()
	case op == opVector:
		r.vector()
	case op <= 0x01, op == 0x05, op == opEnd, op == 0x0f, op == 0x1a, op == 0x1b,
		op >= 0x45 && op <= 0xc4, op == 0xd1: // no immediates
	default:
		r.fail("unknown opcode %#x at byte %d", op, start)
	}
	i.raw = r.b[start:r.at]
	return i
}

func (r *reader) bulk() uint32 {
	sub := r.u32()
	switch sub {
	case 0, 1, 2, 3, 4, 5, 6, 7: // saturating conversions
	case bulkMemoryInit, bulkMemoryCopy, bulkTableInit, bulkTableCopy:
		r.skipLEB()
		r.skipLEB()
	case 9, bulkMemoryFill, 13, bulkTableGrow, 16, bulkTableFill: // 9, 13: drop; 16: table.size
		r.skipLEB()
	default:
		r.fail("unknown opcode 0xfc %d at byte %d", sub, r.at)
	}
	return sub
}

func (r *reader) vector() {
	switch sub := r.u32(); {
	case sub <= 11, sub == 92, sub == 93: // loads and stores
		r.skipLEB()
		r.skipLEB()
	case sub == 12, sub == 13: // v128.const, shuffle
		r.take(16)
	case sub >= 21 && sub <= 34: // lanes
		r.byte()
	case sub >= 84 && sub <= 91: // loads and stores of lanes
		r.skipLEB()
		r.skipLEB()
		r.byte()
	case sub > 255:
		r.fail("unknown opcode 0xfd %d at byte %d", sub, r.at)
	}
}
