// Package crilog writes and reads container logs in the format of Kubernetes'
// CRI: one record a line,
//
//	2026-01-02T15:04:05.123456789Z stdout F a whole line
//	2026-01-02T15:04:05.123456789Z stderr P a piece of a line
//
// F ends a line of output, P does not. Every byte of the output is kept: the
// reader gives back exactly what was written, in order, stream by stream.
//
// A log is a row of files, "log", "log.1", "log.2" and so on, of which the writer
// removes the oldest when there are too many. No file is ever renamed, and none
// is written to once the next is there, so a record is never torn or seen twice.
// A reader that must see everything holds a shared flock(2) on the file that it
// reads, and takes the next one's before it gives up that: the writer takes an
// exclusive one before it removes a file, and waits. The kernel gives locks up
// with the process that held them.
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
		dst, output = AppendSome(dst, len(dst), at, stream, output)
	}
	return dst
}

// AppendSome is Append that stops when dst has reached limit bytes, after one
// record at least, and gives what is left of the output.
func AppendSome(dst []byte, limit int, at time.Time, stream Stream, output []byte) (records, rest []byte) {
	begin := len(dst)
	dst = at.UTC().AppendFormat(dst, time.RFC3339Nano)
	dst = append(dst, ' ')
	dst = append(dst, stream...)
	dst = append(dst, ' ')
	stamp := dst[begin:] // the same for all records
	for first := true; len(output) > 0 && (first || len(dst) < limit); first = false {
		if !first {
			dst = append(dst, stamp...)
		}
		piece, tag := output, byte('P')
		if i := bytes.IndexByte(output[:min(len(output), MaxPiece+1)], '\n'); i >= 0 {
			piece, output, tag = output[:i], output[i+1:], 'F'
		} else {
			piece = piece[:min(len(piece), MaxPiece)]
			output = output[len(piece):]
		}
		dst = append(dst, tag, ' ')
		dst = append(dst, piece...)
		dst = append(dst, '\n')
	}
	return dst, output
}

// Record is one piece of output.
type Record struct {
	At     time.Time
	Stream Stream
	// Output is as it was written, with its newline if it had one.
	Output []byte
	// Dropped says that output before this was removed before it could be read.
	Dropped bool
	// Last says that no other record is at hand.
	Last bool
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
