package frame_test

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/google/go-cmp/cmp"

	"tero.internal/common/frame"
)

const limit = 200 << 10

func TestFrames(t *testing.T) {
	long := strings.Repeat("x", 150<<10)
	b := []byte(frame.Opening)
	b = frame.Append(b, frame.Call, "/service/method")
	b = frame.Append(b, frame.Message, "")
	b = frame.Append(b, frame.Message, long)
	b = frame.AppendFault(b, "denied", "not\x00you", "")
	b = frame.Append(b, frame.End, "")
	type got struct {
		Kind    frame.Kind
		Payload string
	}
	want := []got{{frame.Call, "/service/method"}, {frame.Message, ""}, {frame.Message, long}, {frame.Fault, "denied\x00not\uFFFDyou\x00"}, {frame.End, ""}}
	for name, buf := range map[string][]byte{"no room": nil, "some room": make([]byte, 10), "room": make([]byte, limit)} {
		t.Run(name, func(t *testing.T) {
			r := iotest.HalfReader(bytes.NewReader(b))
			if err := frame.ReadOpening(r); err != nil {
				t.Fatal(err)
			}
			var all []got
			for {
				k, payload, err := frame.Read(r, buf, limit)
				if errors.Is(err, io.EOF) {
					break
				}
				if err != nil {
					t.Fatal(err)
				}
				all = append(all, got{k, string(payload)})
			}
			if diff := cmp.Diff(want, all); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestMalformed(t *testing.T) {
	for name, c := range map[string]struct {
		b    string
		want error
	}{
		"nothing":       {"", io.EOF},
		"half a header": {"\x00\x00", io.ErrUnexpectedEOF},
		"no payload":    {"\x00\x00\x00\x02\x02", io.ErrUnexpectedEOF},
		"half of it":    {"\x00\x00\x00\x02\x02x", io.ErrUnexpectedEOF},
		"too long":      {"\x00\x03\x20\x01\x02", frame.ErrMalformed},
		"far too long":  {"\xff\xff\xff\xff\x02", frame.ErrMalformed},
		"no kind":       {"\x00\x00\x00\x00\x00", frame.ErrMalformed},
		"unknown kind":  {"\x00\x00\x00\x00\x05", frame.ErrMalformed},
	} {
		t.Run(name, func(t *testing.T) {
			if _, _, err := frame.Read(strings.NewReader(c.b), nil, limit); !errors.Is(err, c.want) {
				t.Errorf("got %v, want %v", err, c.want)
			}
		})
	}
	for b, want := range map[string]error{
		"": io.EOF, "tero": io.ErrUnexpectedEOF, "tero/2\n": frame.ErrMalformed, "\x00\x00\x06\x04": frame.ErrMalformed, frame.Opening: nil,
	} {
		if err := frame.ReadOpening(strings.NewReader(b)); !errors.Is(err, want) {
			t.Errorf("opening %q: got %v, want %v", b, err, want)
		}
	}
}

func FuzzRead(f *testing.F) {
	f.Add(frame.Append(frame.Append(nil, frame.Call, "/a/b"), frame.Message, "x"))
	f.Add(frame.AppendFault(nil, "invalid", "no", "yes"))
	f.Add([]byte("\x00\x10\x00\x00\x02abc"))
	f.Fuzz(func(t *testing.T, b []byte) {
		r := bytes.NewReader(b)
		var again []byte
		for {
			rest := r.Len()
			k, payload, err := frame.Read(r, nil, limit)
			if err != nil {
				break
			}
			again = frame.Append(again, k, string(payload))
			if k == frame.Fault {
				if kind, message, hint, err := frame.ParseFault(payload); err == nil &&
					!bytes.Equal(frame.AppendFault(nil, kind, message, hint)[frame.HeaderBytes:], payload) {
					t.Errorf("fault %q became %q, %q, %q", payload, kind, message, hint)
				}
			}
			if cap(payload) > 2*rest+128<<10 {
				t.Errorf("%d bytes of room for %d bytes that came", cap(payload), rest)
			}
		}
		if !bytes.HasPrefix(b, again) {
			t.Errorf("%q was read as %q", b, again)
		}
	})
}
