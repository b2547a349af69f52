package wire_test

import (
	"bytes"
	"math"
	"testing"

	"google.golang.org/protobuf/encoding/protowire"

	"tero.internal/cmd/tero/internal/wire"
)

func TestAppend(t *testing.T) {
	for _, v := range []uint64{0, 1, 127, 128, 300, math.MaxInt64, math.MaxUint64} {
		want := protowire.AppendVarint(protowire.AppendTag(nil, 57, protowire.VarintType), v)
		if got := wire.AppendNumber(nil, 57, v); !bytes.Equal(got, want) {
			t.Errorf("%d is %x, want %x", v, got, want)
		}
	}
	for _, n := range []int{0, 1, 127, 128, 70000} {
		v := bytes.Repeat([]byte("x"), n)
		want := protowire.AppendBytes(protowire.AppendTag(nil, 2, protowire.BytesType), v)
		if got := wire.AppendBytes(nil, 2, v); !bytes.Equal(got, want) {
			t.Errorf("%d bytes are wrong", n)
		}
	}
}

// FuzzNext reads as the library does.
func FuzzNext(f *testing.F) {
	f.Add(wire.AppendBytes(wire.AppendNumber(nil, 1, 300), 2, "x"))
	f.Add(protowire.AppendFixed64(protowire.AppendTag(nil, 3, protowire.Fixed64Type), 7))
	f.Add(protowire.AppendFixed32(protowire.AppendTag(nil, 3, protowire.Fixed32Type), 7))
	f.Add([]byte("\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x7f"))
	f.Fuzz(func(t *testing.T, b []byte) {
		for len(b) > 0 {
			number, kind, n := protowire.ConsumeField(b)
			got, rest, ok := wire.Next(b)
			if kind == protowire.StartGroupType || kind == protowire.EndGroupType || n < 0 && ok && got.Number > uint64(protowire.MaxValidNumber) {
				return // groups are refused, numbers beyond the library's let pass
			}
			if (n >= 0) != ok {
				t.Fatalf("%x: %d bytes, but ok is %v", b, n, ok)
			}
			if !ok {
				return
			}
			var want wire.Field
			want.Number = uint64(number)
			_, _, tag := protowire.ConsumeTag(b)
			switch kind {
			case protowire.VarintType:
				want.Value, _ = protowire.ConsumeVarint(b[tag:])
			case protowire.BytesType:
				want.Bytes, _ = protowire.ConsumeBytes(b[tag:])
			}
			if got.Number != want.Number || got.Value != want.Value || !bytes.Equal(got.Bytes, want.Bytes) || len(rest) != len(b)-n {
				t.Fatalf("%x: %+v and %d more, want %+v and %d more", b, got, len(rest), want, len(b)-n)
			}
			b = rest
		}
	})
}
