package stream

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"testing/iotest"

	"tero.internal/common/fault"
	"tero.internal/runtime/internal/imagetest"
)

func TestDecompress(t *testing.T) {
	text := []byte(strings.Repeat("some text ", 100))
	for name, c := range map[string]struct {
		in   []byte
		want Compression
	}{
		"plain": {text, Plain},
		"gzip":  {imagetest.Gzip(t, text), Gzip},
		"zstd":  {imagetest.Zstd(t, text), Zstd},
	} {
		t.Run(name, func(t *testing.T) {
			r, got, err := Decompress(bytes.NewReader(c.in))
			if err != nil {
				t.Fatal(err)
			}
			defer r.Close()
			b, err := io.ReadAll(r)
			if err != nil || !bytes.Equal(b, text) || got != c.want {
				t.Errorf("%q: %d bytes, %v; want %q and %d bytes", got, len(b), err, c.want, len(text))
			}
		})
	}
	for _, short := range []string{"", "\x1f", "\x28\xb5"} { // shorter than a magic number
		r, got, err := Decompress(strings.NewReader(short))
		if err != nil || got != Plain {
			t.Fatalf("%q: %q, %v", short, got, err)
		}
		if b, err := io.ReadAll(r); err != nil || string(b) != short {
			t.Errorf("%q became %q, %v", short, b, err)
		}
	}
}

func TestLimit(t *testing.T) {
	if b, err := io.ReadAll(Limit(strings.NewReader("12345"), 5, "it")); err != nil || string(b) != "12345" {
		t.Errorf("up to the limit: %q, %v", b, err)
	}
	_, err := io.ReadAll(Limit(strings.NewReader("123456"), 5, "it"))
	if fault.KindOf(err) != fault.Invalid || !strings.HasPrefix(err.Error(), "it is larger") {
		t.Errorf("beyond the limit: %v", err)
	}
}

func TestWithContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	r := WithContext(ctx, strings.NewReader("12"))
	if n, err := r.Read(make([]byte, 1)); n != 1 || err != nil {
		t.Fatal(n, err)
	}
	cancel()
	if _, err := r.Read(make([]byte, 1)); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v, want context.Canceled", err)
	}
}

func TestErrorsOfReadersAreTold(t *testing.T) {
	bad := errors.New("bad")
	_, err := io.Copy(io.Discard, MarkErrors(iotest.ErrReader(bad)))
	if err = fmt.Errorf("copy: %w", err); !IsReadError(err) || !errors.Is(err, bad) {
		t.Errorf("the reader's %v is not told", err)
	}
	pr, pw := io.Pipe()
	_ = pr.CloseWithError(bad)
	if _, err = io.Copy(pw, MarkErrors(strings.NewReader("x"))); !errors.Is(err, bad) || IsReadError(err) {
		t.Errorf("the writer's %v counts as the reader's", err)
	}
}
