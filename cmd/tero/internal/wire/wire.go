// Package wire writes and reads protobuf's encoding, for the few messages of a
// program that must not link its library: that takes longer to initialise than
// the program to run.
package wire

// The wire types (protobuf.dev/programming-guides/encoding).
const (
	varint  = 0
	fixed64 = 1
	bytes   = 2
	fixed32 = 5
)

// AppendNumber appends a field of a type that is encoded as varint.
func AppendNumber(b []byte, field int, v uint64) []byte {
	return appendVarint(appendVarint(b, uint64(field)<<3|varint), v) //nolint:gosec // field numbers are constants
}

// AppendBool appends a bool field.
func AppendBool(b []byte, field int, v bool) []byte {
	if v {
		return AppendNumber(b, field, 1)
	}
	return AppendNumber(b, field, 0)
}

// AppendBytes appends a string, bytes or message field.
func AppendBytes[T string | []byte](b []byte, field int, v T) []byte {
	b = appendVarint(b, uint64(field)<<3|bytes) //nolint:gosec // field numbers are constants
	return append(appendVarint(b, uint64(len(v))), v...)
}

func appendVarint(b []byte, v uint64) []byte {
	for v >= 1<<7 {
		b = append(b, byte(v)|1<<7)
		v >>= 7
	}
	return append(b, byte(v))
}

// Field is a field of an encoded message.
type Field struct {
	Number uint64
	Value  uint64 // of a field that is encoded as varint
	Bytes  []byte // of a string, bytes or message field; part of what was read
}

// Next reads the first field of a message and gives the rest; false when there is
// none that makes sense.
func Next(b []byte) (f Field, rest []byte, ok bool) {
	tag, b, ok := readVarint(b)
	if !ok || tag>>3 == 0 {
		return f, nil, false
	}
	f.Number = tag >> 3
	n := uint64(0)
	switch tag & 7 {
	case varint:
		f.Value, b, ok = readVarint(b)
		return f, b, ok
	case fixed64:
		n = 8
	case fixed32:
		n = 4
	case bytes:
		if n, b, ok = readVarint(b); !ok || n > uint64(len(b)) {
			return f, nil, false
		}
		f.Bytes = b[:n]
	default: // groups, which proto3 does not have
		return f, nil, false
	}
	if n > uint64(len(b)) {
		return f, nil, false
	}
	return f, b[n:], true
}

func readVarint(b []byte) (v uint64, rest []byte, ok bool) {
	for i := 0; i < len(b) && i < 10; i++ {
		v |= uint64(b[i]&0x7f) << (7 * i)
		if b[i] < 1<<7 {
			return v, b[i+1:], i < 9 || b[i] <= 1
		}
	}
	return 0, nil, false
}
