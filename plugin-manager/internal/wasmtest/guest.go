package wasmtest

// Guest is a plugin of ABI 1 that always gives the same answer, or does
// something worse.
type Guest struct {
	// Answer is what tero_call answers (an AdmitResponse).
	Answer []byte
	// ABI is what tero_abi gives; 1.0 when 0.
	ABI int32
	// Before is code that tero_call runs first; local 3 is its own, an i32.
	Before []byte
	// Imports come first in the function index space.
	Imports []Import
	// Pages is the memory it begins with; 1 when 0.
	Pages uint32
	// Table is the least size of its table; none when 0.
	Table uint32
	// LaterCall replaces the result of tero_call (pointer<<32 | size) for those
	// when not 0.
	LaterCall int64
	// Later, if not nil, is the answer to requests of more than 512 bytes, which
	// a self-test's is not.
	Later []byte
	// LaterAlloc is what tero_alloc gives for those; 32768 when 0.
	LaterAlloc int32
	// Start, when set, is the code of a start function.
	Start []byte
	// Omit is the name of an export that is left out.
	Omit string
}

// answerAt is where the first answer lies in memory.
const answerAt = 1024

// laterAt is where the later answer lies, which follows the first one.
const laterAt = 2048

// large is code that tells whether local k, a size, is more than 512.
func large(k int) []byte { return Code(0x20, k, I32Const(512), 0x4b) }

// Allow is an AdmitResponse that accepts.
func Allow() []byte { return []byte{1 << 3, 1} }

// Deny is an AdmitResponse that refuses.
func Deny(code, reason string) []byte {
	return Code(2<<3|2, name(code), 3<<3|2, name(reason))
}

// Set adds a mutation to an AdmitResponse.
func Set(answer []byte, path, value string) []byte {
	m := Code(1<<3|2, name(path), 2<<3|2, name(value))
	return Code(answer, 4<<3|2, count(len(m)), m)
}

// Log is the code that calls import 0, taken to be tero_v1.log, with size bytes.
func Log(size int32) []byte {
	return Code(I32Const(1), I32Const(answerAt), I32Const(size), 0x10, 0)
}

// Repeat is code that runs body n times, in a loop on local 3.
func Repeat(n int32, body []byte) []byte {
	return Code(I32Const(n), 0x21, 3, 0x03, 0x40, body, 0x20, 3, I32Const(1), 0x6b, 0x22, 3, 0x0d, 0, 0x0b)
}

// Forever is code that loops for ever over body.
func Forever(body []byte) []byte { return Code(0x03, 0x40, body, 0x0c, 0, 0x0b) }

// Bytes gives the module.
func (g Guest) Bytes() []byte {
	result := int64(answerAt<<32 | len(g.Answer))
	later := int64(laterAt<<32 | len(g.Later))
	data := g.Answer
	switch {
	case g.LaterCall != 0:
		later = g.LaterCall
	case g.Later == nil:
		later = result
	default:
		data = append(append(make([]byte, 0, 4096), data...), make([]byte, laterAt-answerAt-len(data))...)
		data = append(data, g.Later...)
	}
	if g.LaterAlloc == 0 {
		g.LaterAlloc = 32768
	}
	if g.ABI == 0 {
		g.ABI = 1 << 16
	}
	i32 := []byte{I32}
	funcs := []Func{
		{Export: "tero_abi", Results: i32, Body: I32Const(g.ABI)},
		{Export: "tero_alloc", Params: i32, Results: i32, Body: Code(I32Const(g.LaterAlloc), I32Const(32768), large(0), 0x1b)},
		{Export: "tero_call", Params: []byte{I32, I32, I32}, Results: []byte{I64}, Locals: 1, Body: Code(g.Before, I64Const(later), I64Const(result), large(2), 0x1b)},
		{Export: "tero_free", Params: i32},
	}
	for k := range funcs {
		if funcs[k].Export == g.Omit {
			funcs[k].Export = ""
		}
	}
	m := Module{Imports: g.Imports, Funcs: funcs, Pages: max(g.Pages, 1), Table: g.Table, Data: data, DataAt: answerAt}
	if g.Start != nil {
		m.Funcs = append(m.Funcs, Func{Body: g.Start})
		m.HasStart, m.Start = true, uint32(len(m.Imports)+len(m.Funcs)-1) //nolint:gosec // a handful
	}
	return m.Bytes()
}

// LogImport is tero_v1.log.
func LogImport() Import {
	return Import{Module: "tero_v1", Name: "log", Params: []byte{I32, I32, I32}}
}
