package wasm

import (
	"fmt"
	"math"
)

// reader reads the binary format (WebAssembly core 2.0, section 5). The first
// fault sticks: every later read gives zeros, and err says what was wrong.
type reader struct {
	b   []byte
	at  int
	err error
}

func (r *reader) fail(format string, args ...any) {
	if r.err == nil {
		r.err = fmt.Errorf(format, args...)
	}
}

// more tells whether there is something left to read and nothing was wrong.
func (r *reader) more() bool { return r.err == nil && r.at < len(r.b) }

func (r *reader) byte() byte {
	if !r.more() {
		r.fail("unexpected end at byte %d", r.at)
		return 0
	}
	r.at++
	return r.b[r.at-1]
}

// u32 reads an unsigned LEB128 integer.
func (r *reader) u32() uint32 {
	var x uint64
	for shift := uint(0); shift < 35; shift += 7 {
		c := r.byte()
		x |= uint64(c&0x7f) << shift
		if c < 0x80 {
			if x > math.MaxUint32 {
				r.fail("integer too large at byte %d", r.at)
				return 0
			}
			return uint32(x)
		}
	}
	r.fail("integer too long at byte %d", r.at)
	return 0
}

// count reads the length of a vector whose items have at least one byte each,
// so that a count larger than what is left is refused before it is believed.
func (r *reader) count() uint32 {
	n := r.u32()
	if int64(n) > int64(len(r.b)-r.at) {
		r.fail("count %d at byte %d is more than what is left", n, r.at)
		return 0
	}
	return n
}

// skipLEB passes over a LEB128 integer of up to 64 bits.
func (r *reader) skipLEB() {
	for range 10 {
		if r.byte() < 0x80 {
			return
		}
	}
	r.fail("integer too long at byte %d", r.at)
}

func (r *reader) take(n uint32) []byte {
	if r.err != nil || int64(n) > int64(len(r.b)-r.at) {
		r.fail("unexpected end: %d bytes wanted at byte %d", n, r.at)
		return nil
	}
	v := r.b[r.at : r.at+int(n)]
	r.at += int(n)
	return v
}

// bytes reads a length and as many bytes: a name, a section, a body.
func (r *reader) bytes() []byte { return r.take(r.u32()) }

func (r *reader) rest() []byte { return r.b[r.at:] }

// appendU appends an unsigned LEB128 integer.
func appendU(b []byte, x uint32) []byte {
	for x >= 0x80 {
		b = append(b, byte(x)|0x80)
		x >>= 7
	}
	return append(b, byte(x))
}

// appendS appends a signed LEB128 integer.
func appendS(b []byte, x int64) []byte {
	for {
		c := byte(x & 0x7f)
		x >>= 7
		if (x == 0 && c&0x40 == 0) || (x == -1 && c&0x40 != 0) {
			return append(b, c)
		}
		b = append(b, c|0x80)
	}
}

func appendBytes(b, v []byte) []byte {
	return append(appendU(b, uint32(len(v))), v...) //nolint:gosec // len is bounded by Limits.ModuleBytes
}
