package program_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"testing"
	"unsafe"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"tero.internal/runtime/internal/program"
)

func sample() *program.Builder {
	var b program.Builder
	b.Step("write")
	b.Call(unix.SYS_WRITE, program.F(1), b.String("text"), program.I(4)).Out(2)
	missing := b.Call(unix.SYS_OPENAT, program.I(unix.AT_FDCWD), b.String("x")).Out(3).Tolerate(unix.ENOENT)
	b.Step("close")
	b.Call(unix.SYS_CLOSE, program.S(3))
	missing.Land()
	b.Store(b.Bytes(make([]byte, 4)), 2)
	b.Call(unix.SYS_EXECVE, b.String("text"), b.Vector([]string{"text", "b"}), b.Vector(nil)).Flag(program.FlagKeep)
	b.Call(unix.SYS_READ, program.O(program.OwnStdin), program.O(program.OwnStatus))
	b.Fail()
	return &b
}

func TestRoundTrip(t *testing.T) {
	b := sample()
	got, err := program.Decode(b.Program().Encode(), 2)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(b.Program(), got); diff != "" {
		t.Error(diff)
	}
	if got.Code[1].Jump != 1 {
		t.Errorf("jump %d", got.Code[1].Jump)
	}
	if diff := cmp.Diff([]string{"write", "write", "close", "close", "close", "close", "close"}, b.Steps()); diff != "" {
		t.Error(diff)
	}
	if !got.Refers(1) || got.Refers(0) {
		t.Error("files referred to")
	}
}

func TestLink(t *testing.T) {
	p := sample().Program()
	vector := p.Code[4].Args[1]
	base := uintptr(unsafe.Pointer(unsafe.SliceData(p.Data)))
	if err := p.Link(base, 20, [program.OwnFiles]int{-1, 2, 3, 4, -1}); err != nil {
		t.Fatal(err)
	}
	if c := p.Code[0]; c.Kinds[0] != program.File || c.Args[0] != 1 {
		t.Errorf("file: kind %d, %d", c.Kinds[0], c.Args[0])
	}
	if c := p.Code[5]; c.Kinds[0] != program.File || c.Args[0] != 2 || c.Kinds[1] != program.Imm || c.Args[1] != 20 {
		t.Errorf("the keeper's files: kinds %v, %v", c.Kinds, c.Args)
	}
	if err := sample().Program().Link(base, 20, [program.OwnFiles]int{-1, -1, -1, -1, -1}); !errors.Is(err, program.ErrMalformed) {
		t.Errorf("a file that is not there: %v", err)
	}
	if p.Code[2].Kinds[0] != program.Slot || p.Code[2].Args[0] != 3 {
		t.Errorf("slot %v %d", p.Code[2].Kinds[0], p.Code[2].Args[0])
	}
	first := binary.LittleEndian.Uint64(p.Data[vector:]) - uint64(base)
	if !bytes.HasPrefix(p.Data[first:], []byte("text\x00")) {
		t.Errorf("argv[0] at %d", first)
	}
	if third := binary.LittleEndian.Uint64(p.Data[vector+16:]); third != 0 {
		t.Errorf("argv ends with %d", third)
	}
}

// FuzzDecode checks that whatever is accepted can be linked without leaving its bounds.
func FuzzDecode(f *testing.F) {
	f.Add(sample().Program().Encode())
	f.Fuzz(func(t *testing.T, b []byte) {
		p, err := program.Decode(bytes.Clone(b), 2)
		if err != nil {
			if !errors.Is(err, program.ErrMalformed) {
				t.Error(err)
			}
			return
		}
		for i, c := range p.Code {
			if i+1+int(c.Jump) > len(p.Code) {
				t.Errorf("instruction %d jumps out", i)
			}
			if c.Flags&program.FlagStore != 0 && int(c.Args[0])+4 > len(p.Data) {
				t.Errorf("instruction %d stores out of the data", i)
			}
		}
		if err := p.Link(4096, 3, [program.OwnFiles]int{-1, 2, 3, 4, 5}); err != nil {
			t.Error(err)
		}
		for i, c := range p.Code {
			for k, v := range c.Args {
				if c.Kinds[k] == program.Data || c.Kinds[k] == program.Own ||
					c.Kinds[k] == program.Slot && v >= program.Slots || c.Kinds[k] == program.File && v > 5 {
					t.Errorf("instruction %d, argument %d: kind %d, %d", i, k, c.Kinds[k], v)
				}
			}
		}
	})
}

func TestParseReport(t *testing.T) {
	var b [program.ReportSize]byte
	if _, err := program.ParseReport(b[:]); !errors.Is(err, program.ErrMalformed) {
		t.Error(err)
	}
	binary.LittleEndian.PutUint32(b[:], program.ReportFail)
	binary.LittleEndian.PutUint32(b[4:], 7)
	binary.LittleEndian.PutUint32(b[8:], uint32(unix.ENOENT))
	if r, err := program.ParseReport(b[:]); err != nil || r.Ready || r.At != 7 || r.Errno != unix.ENOENT {
		t.Errorf("%+v, %v", r, err)
	}
}
