// Package crilog writes and reads container logs in the format of Kubernetes'
// CRI: one record a line,
//
//	2026-01-02T15:04:05.123456789Z stdout F a whole line
//	2026-01-02T15:04:05.123456789Z stderr P a piece of a line
//
// F ends a line of output, P does not. Every byte of the output is kept: the
// reader gives back exactly what was written, in order, stream by stream.
package crilog

import (
	"bytes"
	"errors"
	"time"
)

// Stream is what the output was written to.
type Stream string

// The streams.
const (
	Stdout Stream = "stdout"
	Stderr Stream = "stderr"
)

// MaxPiece is the longest output in one record.
const MaxPiece = 16 << 10

// Append appends the records of one piece of output to dst. What does not end in
// a newline becomes a P record, so that nothing waits for the rest of its line.
func Append(dst []byte, at time.Time, stream Stream, output []byte) []byte {
	for len(output) > 0 {
		piece, tag := output, byte('P')
		if i := bytes.IndexByte(output, '\n'); i >= 0 && i <= MaxPiece {
			piece, output, tag = output[:i], output[i+1:], 'F'
		} else {
			piece = piece[:min(len(piece), MaxPiece)]
			output = output[len(piece):]
		}
		dst = at.UTC().AppendFormat(dst, time.RFC3339Nano)
		dst = append(dst, ' ')
		dst = append(dst, stream...)
		dst = append(dst, ' ', tag, ' ')
		dst = append(dst, piece...)
		dst = append(dst, '\n')
	}
	return dst
}

// Record is one piece of output.
type Record struct {
	At     time.Time
	Stream Stream
	// Output is as it was written, with its newline if it had one.
	Output []byte
}

// Partial tells whether the record's line goes on in the stream's next record.
func (r *Record) Partial() bool {
	return len(r.Output) == 0 || r.Output[len(r.Output)-1] != '\n'
}

// ErrMalformed is what Parse gives for a line that is no record.
var ErrMalformed = errors.New("malformed log record")

// Parse reads one record from a line with its newline. Output aliases line.
func Parse(line []byte) (Record, error) {
	stamp, rest, ok := bytes.Cut(line, []byte(" "))
	if !ok {
		return Record{}, ErrMalformed
	}
	at, err := time.Parse(time.RFC3339Nano, string(stamp))
	if err != nil {
		return Record{}, ErrMalformed
	}
	stream, rest, ok := bytes.Cut(rest, []byte(" "))
	if !ok || len(rest) < 3 || rest[1] != ' ' || rest[len(rest)-1] != '\n' {
		return Record{}, ErrMalformed
	}
	r := Record{At: at, Stream: Stream(stream), Output: rest[2:]}
	if r.Stream != Stdout && r.Stream != Stderr {
		return Record{}, ErrMalformed
	}
	switch rest[0] {
	case 'F':
	case 'P':
		r.Output = r.Output[:len(r.Output)-1]
	default:
		return Record{}, ErrMalformed
	}
	return r, nil
}
