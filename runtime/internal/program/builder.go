package program

import (
	"encoding/binary"

	"golang.org/x/sys/unix"
)

// Arg is an argument of an instruction.
type Arg struct {
	Kind  Kind
	Value uint64
}

// I gives an immediate argument. AT_FDCWD and other negative values are sign-extended.
func I[T ~int | ~int32 | ~int64 | ~uint | ~uint16 | ~uint32 | ~uint64 | ~uintptr](v T) Arg {
	return Arg{Imm, uint64(v)}
}

// F gives the file with index i of those sent along.
func F(i int) Arg { return Arg{File, uint64(i)} } //nolint:gosec // an index

// O gives a file of the keeper.
func O(which int) Arg { return Arg{Own, uint64(which)} } //nolint:gosec // a constant

// S gives the result that an earlier instruction left in a slot.
func S(slot int) Arg { return Arg{Slot, uint64(slot)} } //nolint:gosec // a constant

// Builder makes a program. The zero value is ready.
type Builder struct {
	p       Program
	steps   []string
	step    string
	strings map[string]uint32
}

// Step names what the following instructions are for, in words for users.
func (b *Builder) Step(name string) { b.step = name }

// Steps gives the name of each instruction of the program.
func (b *Builder) Steps() []string { return b.steps }

// Program gives what was built.
func (b *Builder) Program() *Program { return &b.p }

// Call appends a system call.
func (b *Builder) Call(number uintptr, args ...Arg) *Last {
	c := Instruction{Number: uint32(number), Out: NoOut} //nolint:gosec // system call numbers are small
	for i, a := range args {
		c.Kinds[i], c.Args[i] = a.Kind, a.Value
	}
	return b.append(c)
}

// What a container's program takes, so that building one does not grow anything.
const (
	usualCode = 320
	usualData = 8 << 10
)

func (b *Builder) append(c Instruction) *Last {
	if b.p.Code == nil {
		b.p.Code, b.steps = make([]Instruction, 0, usualCode), make([]string, 0, usualCode)
	}
	b.p.Code = append(b.p.Code, c)
	b.steps = append(b.steps, b.step)
	return &Last{b, len(b.p.Code) - 1}
}

// Store appends an instruction that writes a slot's low 32 bits into data.
func (b *Builder) Store(data Arg, slot int) {
	b.append(Instruction{Flags: FlagStore, Out: NoOut, Args: [6]uint64{data.Value, uint64(slot)}}) //nolint:gosec // a constant
}

// Fail appends an instruction that ends the program with the remembered error.
func (b *Builder) Fail() { b.append(Instruction{Flags: FlagFail, Out: NoOut}) }

// Skip appends an unconditional forward jump; Land sets where to.
func (b *Builder) Skip() *Last { return b.append(Instruction{Flags: FlagSkip, Out: NoOut}) }

// Bytes lays v into the data, aligned to 8.
func (b *Builder) Bytes(v []byte) Arg {
	for len(b.p.Data)%8 != 0 {
		b.p.Data = append(b.p.Data, 0)
	}
	at := uint64(len(b.p.Data))
	b.p.Data = append(b.p.Data, v...)
	if len(v) == 0 {
		b.p.Data = append(b.p.Data, 0)
	}
	return Arg{Data, at}
}

// String lays s into the data with a zero byte at its end; equal strings share a place.
func (b *Builder) String(s string) Arg {
	if at, ok := b.strings[s]; ok {
		return Arg{Data, uint64(at)}
	}
	if b.strings == nil {
		b.strings = make(map[string]uint32, 64)
	}
	if b.p.Data == nil {
		b.p.Data = make([]byte, 0, usualData)
	}
	at := uint32(len(b.p.Data)) //nolint:gosec // bounded by MaxSize
	b.strings[s] = at
	b.p.Data = append(append(b.p.Data, s...), 0)
	return Arg{Data, uint64(at)}
}

// Vector lays out an array of pointers to strings that ends with a null pointer, as execve takes it.
func (b *Builder) Vector(list []string) Arg {
	targets := make([]Arg, len(list))
	for i, s := range list {
		targets[i] = b.String(s)
	}
	v := b.Bytes(make([]byte, 8*(len(list)+1)))
	for i, t := range targets {
		b.Pointer(v, 8*i, t)
	}
	return v
}

// Pointer makes the 8 bytes at offset in data hold the address of target.
func (b *Builder) Pointer(data Arg, offset int, target Arg) {
	b.p.Relocations = append(b.p.Relocations, Relocation{
		At: uint32(data.Value) + uint32(offset), Target: uint32(target.Value), //nolint:gosec // bounded by MaxSize
	})
}

// Words lays 64-bit words into the data.
func (b *Builder) Words(ws ...uint64) Arg {
	var buf []byte
	for _, w := range ws {
		buf = binary.LittleEndian.AppendUint64(buf, w)
	}
	return b.Bytes(buf)
}

// Last is an instruction that was just appended.
type Last struct {
	b  *Builder
	at int
}

func (l *Last) code() *Instruction { return &l.b.p.Code[l.at] }

// Out puts the result into a slot.
func (l *Last) Out(slot int) *Last { l.code().Out = uint8(slot); return l } //nolint:gosec // a constant

// Tolerate lets the program go on after these errors.
func (l *Last) Tolerate(errs ...unix.Errno) *Last {
	for i, e := range errs {
		l.code().Tolerate[i] = uint16(e) //nolint:gosec // error numbers are under 4096
	}
	return l
}

// Flag sets flags.
func (l *Last) Flag(f uint8) *Last { l.code().Flags |= f; return l }

// Land makes a tolerated error, or a skip, continue at the next instruction to be appended.
func (l *Last) Land() { l.code().Jump = uint16(len(l.b.p.Code) - l.at - 1) } //nolint:gosec // programs are short
