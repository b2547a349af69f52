// Package frame is the wire format of the short way to a node: one call of the
// API, as frames on a unix socket, for programs that must start at once and so
// link no gRPC. common/rpc serves it, on the socket that serves gRPC too.
//
//	caller: Opening, Call with the full name of a method, then Message...
//	node:   Opening, Message..., then End or Fault
//
// A frame is the length of its payload in 4 bytes, most significant first, its
// kind in one, and the payload: of a Message a protobuf message, of a Call the
// name, of a Fault what AppendFault wrote. Each side may send End to say that no
// further message follows from it. Who closes the socket before has gone.
package frame

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"strings"
)

// Opening is how each side begins. It has no beginning in common with HTTP/2's
// ("PRI * HTTP/2.0"), so that a server knows by the first byte what it is asked.
const Opening = "tero/1\n"

// Kind says what a frame is.
type Kind byte

// The kinds.
const (
	Call Kind = iota + 1
	Message
	Fault
	End
)

// HeaderBytes is the length of what comes before a payload.
const HeaderBytes = 5

// The largest payloads that each side takes, the same as over gRPC.
const (
	MaxRequest  = 4 << 20
	MaxResponse = 64 << 20
)

// ErrMalformed is what was read is no frame, or none that is taken.
var ErrMalformed = errors.New("malformed frame")

// PutHeader writes the header into the first HeaderBytes of a frame that holds
// room for it and the payload.
func PutHeader(frame []byte, k Kind) {
	binary.BigEndian.PutUint32(frame, uint32(len(frame)-HeaderBytes)) //nolint:gosec // both limits are below
	frame[HeaderBytes-1] = byte(k)
}

// Append appends a frame.
func Append(dst []byte, k Kind, payload string) []byte {
	begin := len(dst)
	dst = append(dst, make([]byte, HeaderBytes)...)
	dst = append(dst, payload...)
	PutHeader(dst[begin:], k)
	return dst
}

// piece is how much room is made at a time: a length alone takes no memory.
const piece = 64 << 10

// Read reads a frame whose payload has at most limit bytes, into buf as far as it
// has room. io.EOF says that there is no further one.
func Read(r io.Reader, buf []byte, limit int) (Kind, []byte, error) {
	var h [HeaderBytes]byte
	if _, err := io.ReadFull(r, h[:]); err != nil {
		return 0, nil, err
	}
	n, k := int(binary.BigEndian.Uint32(h[:])), Kind(h[HeaderBytes-1])
	if n > limit || k < Call || k > End {
		return 0, nil, ErrMalformed
	}
	payload := buf[:0]
	for len(payload) < n {
		begin := len(payload)
		payload = append(payload, make([]byte, min(n-begin, max(piece, cap(payload)-begin)))...)
		if _, err := io.ReadFull(r, payload[begin:]); err != nil {
			return 0, nil, unexpected(err)
		}
	}
	return k, payload, nil
}

// ReadOpening reads the other side's; ErrMalformed when it is something else.
func ReadOpening(r io.Reader) error {
	var b [len(Opening)]byte
	for i := range b { // one by one: who does not know Opening may send less, and wait
		if _, err := io.ReadFull(r, b[i:i+1]); err != nil {
			if i > 0 {
				err = unexpected(err)
			}
			return err
		}
		if b[i] != Opening[i] {
			return ErrMalformed
		}
	}
	return nil
}

func unexpected(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// AppendFault appends a frame that says why a call failed: the kind by its stable
// name, message and hint, as in common/fault, with NUL between.
func AppendFault(dst []byte, kind, message, hint string) []byte {
	clean := func(s string) string { return strings.ReplaceAll(s, "\x00", "\uFFFD") }
	return Append(dst, Fault, clean(kind)+"\x00"+clean(message)+"\x00"+clean(hint))
}

// ParseFault reads a Fault's payload.
func ParseFault(payload []byte) (kind, message, hint string, err error) {
	parts := bytes.Split(payload, []byte{0})
	if len(parts) != 3 {
		return "", "", "", ErrMalformed
	}
	return string(parts[0]), string(parts[1]), string(parts[2]), nil
}
