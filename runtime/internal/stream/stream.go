// Package stream reads streams that come from elsewhere: it undoes their
// compression, bounds them, ends them with a context, and tells their errors
// from those of the disk that they are copied to.
package stream

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"

	"tero.internal/common/fault"
)

// Compression is how a stream is compressed, as media types of layers end.
type Compression string

// The compressions of layers and archives.
const (
	Plain Compression = ""
	Gzip  Compression = "gzip"
	Zstd  Compression = "zstd"
)

// maxWindow bounds what a zstd stream makes the decoder allocate (RFC 8878
// asks decoders to support 8 MiB; zstd --long goes to 128 MiB).
const maxWindow = 128 << 20

// Decompress tells the compression by its magic number and undoes it.
func Decompress(r io.Reader) (io.ReadCloser, Compression, error) {
	br := bufio.NewReaderSize(r, 256<<10)
	magic, err := br.Peek(4)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, "", err
	}
	switch {
	case bytes.HasPrefix(magic, []byte{0x1f, 0x8b}):
		z, err := gzip.NewReader(br)
		if err != nil {
			return nil, "", fmt.Errorf("gzip: %w", err)
		}
		return z, Gzip, nil
	case bytes.Equal(magic, []byte{0x28, 0xb5, 0x2f, 0xfd}):
		z, err := zstd.NewReader(br, zstd.WithDecoderMaxWindow(maxWindow), zstd.WithDecoderConcurrency(1))
		if err != nil {
			return nil, "", fmt.Errorf("zstd: %w", err)
		}
		return z.IOReadCloser(), Zstd, nil
	}
	return io.NopCloser(br), Plain, nil
}

// Limit gives a reader that fails with a fault of kind Invalid when more than
// n bytes of what come; io.LimitReader would take a cut stream for a whole one.
func Limit(r io.Reader, n int64, what string) io.Reader { return &limited{r: r, left: n, what: what} }

type limited struct {
	r    io.Reader
	left int64
	what string
}

// Read reads.
func (l *limited) Read(p []byte) (int, error) {
	n, err := l.r.Read(p)
	if l.left -= int64(n); l.left < 0 {
		return 0, fault.New(fault.Invalid, "%s is larger than the limit when decompressed", l.what)
	}
	return n, err
}

// WithContext gives a reader that ends with its context.
func WithContext(ctx context.Context, r io.Reader) io.Reader { return bound{ctx, r} }

type bound struct {
	ctx context.Context //nolint:containedctx // a reader for one call
	r   io.Reader
}

// Read reads.
func (b bound) Read(p []byte) (int, error) {
	if err := b.ctx.Err(); err != nil {
		return 0, err
	}
	return b.r.Read(p)
}

// MarkErrors gives a reader of which the errors are told by IsReadError, also
// after a copy.
func MarkErrors(r io.Reader) io.Reader { return marked{r} }

// IsReadError tells whether an error is of a reader's side, not of the
// writer's that it was copied to.
func IsReadError(err error) bool {
	var e readError
	return errors.As(err, &e)
}

type readError struct{ error }

// Unwrap gives the error itself.
func (e readError) Unwrap() error { return e.error }

type marked struct{ r io.Reader }

// Read reads.
func (m marked) Read(p []byte) (int, error) {
	n, err := m.r.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		err = readError{err}
	}
	return n, err
}
