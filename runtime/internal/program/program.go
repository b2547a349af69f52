// Package program is a straight list of raw system calls that a freshly cloned
// process executes before its payload: terod compiles a container's
// configuration into one, the keeper checks and relocates it, and the child runs
// it in a single loop. The child of a clone in a Go process may do nothing but
// raw system calls, so everything (paths, argument vectors, filters) is laid out
// in the program's data before the clone.
//
//	instruction: number, six arguments, result slot, tolerated errors, jump
//	argument:    immediate | offset in data | file that was sent | file of the keeper | slot
//
// A process runs up to two programs: one that prepares it, which is there before
// the clone, and one that finishes it and executes the payload, which arrives
// with its files when somebody has a use for the prepared process. The second
// finds the slots as the first left them.
//
// A call that fails ends the program with its index and errno, which is all
// that has to cross back: the sender knows what each index was for. A tolerated
// error jumps forward, never back, so every program ends.
package program

import (
	"encoding/binary"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// Kind says what an argument's value means.
type Kind uint8

// The kinds of arguments.
const (
	// Imm is the value itself.
	Imm Kind = iota
	// Data is an offset in the program's data; the child sees an address.
	Data
	// File is an index in the files sent along.
	File
	// Own is one of the keeper's own files: OwnStatus ... OwnInit.
	Own
	// Slot is the result of an earlier instruction.
	Slot
)

// The keeper's own files, as values of arguments of kind Own.
const (
	// OwnStatus takes reports, and gives the second program's files; it closes on exec.
	OwnStatus = iota
	// OwnStdin is the read end of standard input.
	OwnStdin
	// OwnStdout and OwnStderr are the write ends of the output pipes.
	OwnStdout
	OwnStderr
	// OwnInit is the pidfd of the container's first process, for a further one.
	OwnInit
	// OwnFiles is how many there are.
	OwnFiles
)

// StatusFD is the descriptor of OwnStatus; all files that come with the second
// program have higher numbers.
const StatusFD = 3

// Slots is how many results a program can hold.
const Slots = 16

// Flags of an instruction.
const (
	// FlagStore writes the low 32 bits of the slot in Args[1] to the data at offset Args[0]; no call is made.
	FlagStore = 1 << iota
	// FlagKeep remembers a tolerated error that is neither ENOENT nor ENOTDIR, for FlagFail.
	FlagKeep
	// FlagFail ends the program with the error that FlagKeep remembered, else ENOENT; no call is made.
	FlagFail
	// FlagSkip jumps by Jump; no call is made.
	FlagSkip
)

// Tolerated is how many errors an instruction can tolerate.
const Tolerated = 4

// Instruction is one raw system call.
type Instruction struct {
	Number uint32
	Flags  uint8
	// Out is the slot that takes the result; 255 for none.
	Out   uint8
	Kinds [6]Kind
	Args  [6]uint64
	// Tolerate are errors after which the program goes on at Jump instructions
	// beyond the next one; 0 for none.
	Tolerate [Tolerated]uint16
	Jump     uint16
}

// NoOut is Instruction.Out of a call whose result is dropped.
const NoOut = 255

// Relocation tells that the 8 bytes at At take the address of Target.
type Relocation struct{ At, Target uint32 }

// Program is a list of instructions with its data.
type Program struct {
	Code        []Instruction
	Data        []byte
	Relocations []Relocation
}

const (
	magic           = 0x31504954 // "TIP1"
	headerSize      = 16
	instructionSize = 4 + 1 + 1 + 6 + 48 + 2*Tolerated + 2 + 2
	relocationSize  = 8
	// MaxSize bounds an encoded program: a filter, 2 MiB of arguments and environment, and room.
	MaxSize = 8 << 20
)

// ErrMalformed is what Decode's errors wrap.
var ErrMalformed = errors.New("malformed program")

// Encode gives the program's bytes.
func (p *Program) Encode() []byte {
	b := make([]byte, 0, headerSize+len(p.Code)*instructionSize+len(p.Relocations)*relocationSize+len(p.Data))
	le := binary.LittleEndian
	b = le.AppendUint32(b, magic)
	b = le.AppendUint32(b, uint32(len(p.Code)))        //nolint:gosec // bounded by MaxSize when decoded
	b = le.AppendUint32(b, uint32(len(p.Relocations))) //nolint:gosec // as above
	b = le.AppendUint32(b, uint32(len(p.Data)))        //nolint:gosec // as above
	for i := range p.Code {
		c := &p.Code[i]
		b = le.AppendUint32(b, c.Number)
		b = append(b, c.Flags, c.Out)
		for _, k := range c.Kinds {
			b = append(b, byte(k))
		}
		for _, a := range c.Args {
			b = le.AppendUint64(b, a)
		}
		for _, t := range c.Tolerate {
			b = le.AppendUint16(b, t)
		}
		b = le.AppendUint16(b, c.Jump)
		b = append(b, 0, 0)
	}
	for _, r := range p.Relocations {
		b = le.AppendUint32(b, r.At)
		b = le.AppendUint32(b, r.Target)
	}
	return append(b, p.Data...)
}

// Decode reads and checks a program that refers to no more than files files.
// Data aliases b.
func Decode(b []byte, files int) (*Program, error) {
	le := binary.LittleEndian
	if len(b) < headerSize || len(b) > MaxSize || le.Uint32(b) != magic {
		return nil, fmt.Errorf("%w: header", ErrMalformed)
	}
	code, relocations, data := uint64(le.Uint32(b[4:])), uint64(le.Uint32(b[8:])), uint64(le.Uint32(b[12:]))
	if headerSize+code*instructionSize+relocations*relocationSize+data != uint64(len(b)) {
		return nil, fmt.Errorf("%w: lengths", ErrMalformed)
	}
	p := &Program{Code: make([]Instruction, code), Relocations: make([]Relocation, relocations)}
	b = b[headerSize:]
	for i := range p.Code {
		decodeInstruction(&p.Code[i], b)
		b = b[instructionSize:]
	}
	for i := range p.Relocations {
		p.Relocations[i] = Relocation{At: le.Uint32(b), Target: le.Uint32(b[4:])}
		b = b[relocationSize:]
	}
	p.Data = b
	return p, p.check(files)
}

func decodeInstruction(c *Instruction, b []byte) {
	le := binary.LittleEndian
	c.Number, c.Flags, c.Out = le.Uint32(b), b[4], b[5]
	for i := range c.Kinds {
		c.Kinds[i] = Kind(b[6+i])
	}
	for i := range c.Args {
		c.Args[i] = le.Uint64(b[12+8*i:])
	}
	for i := range c.Tolerate {
		c.Tolerate[i] = le.Uint16(b[60+2*i:])
	}
	c.Jump = le.Uint16(b[60+2*Tolerated:])
}

func (p *Program) check(files int) error {
	if len(p.Code) == 0 {
		return fmt.Errorf("%w: empty", ErrMalformed)
	}
	for i := range p.Code {
		c := &p.Code[i]
		if c.Out != NoOut && c.Out >= Slots {
			return fmt.Errorf("%w: instruction %d: slot %d", ErrMalformed, i, c.Out)
		}
		if i+1+int(c.Jump) > len(p.Code) {
			return fmt.Errorf("%w: instruction %d: jump %d", ErrMalformed, i, c.Jump)
		}
		if c.Flags&FlagStore != 0 && (c.Args[0]+4 > uint64(len(p.Data)) || c.Args[0] > MaxSize || c.Args[1] >= Slots) {
			return fmt.Errorf("%w: instruction %d: store", ErrMalformed, i)
		}
		for k, v := range c.Args {
			if !validArgument(c.Kinds[k], v, len(p.Data), files) {
				return fmt.Errorf("%w: instruction %d: argument %d", ErrMalformed, i, k)
			}
		}
	}
	for i, r := range p.Relocations {
		if uint64(r.At)+8 > uint64(len(p.Data)) || uint64(r.Target) >= uint64(len(p.Data)) {
			return fmt.Errorf("%w: relocation %d", ErrMalformed, i)
		}
	}
	return nil
}

func validArgument(k Kind, v uint64, data, files int) bool {
	switch k {
	case Imm:
		return true
	case Data:
		return v < uint64(data) //nolint:gosec // a length
	case File:
		return v < uint64(files) //nolint:gosec // a length
	case Own:
		return v < OwnFiles
	case Slot:
		return v < Slots
	}
	return false
}

// Refers tells whether an instruction uses the file with this index.
func (p *Program) Refers(file int) bool {
	for i := range p.Code {
		for k, v := range p.Code[i].Args {
			if p.Code[i].Kinds[k] == File && v == uint64(file) { //nolint:gosec // an index
				return true
			}
		}
	}
	return false
}

// Link replaces data offsets by addresses, base being that of p.Data, and the
// keeper's own files by what the child has: status is its descriptor of
// OwnStatus, own the indexes of the others in the files that it gets, or -1 for
// one that it does not get, which no program may refer to then.
func (p *Program) Link(base uintptr, status int, own [OwnFiles]int) error {
	for _, r := range p.Relocations {
		binary.LittleEndian.PutUint64(p.Data[r.At:], uint64(base)+uint64(r.Target))
	}
	for i := range p.Code {
		c := &p.Code[i]
		for k, v := range c.Args {
			switch {
			case c.Kinds[k] == Data:
				c.Kinds[k], c.Args[k] = Imm, v+uint64(base)
			case c.Kinds[k] != Own:
			case v == OwnStatus:
				c.Kinds[k], c.Args[k] = Imm, uint64(status) //nolint:gosec // an open descriptor is not negative
			case own[v] >= 0:
				c.Kinds[k], c.Args[k] = File, uint64(own[v])
			default:
				return fmt.Errorf("%w: instruction %d: file %d of the keeper is not there", ErrMalformed, i, v)
			}
		}
	}
	return nil
}

// Report is what a child writes to its status socket.
type Report struct {
	// Ready is true when the child has run its first program, or sends its
	// terminal; otherwise At and Errno say which instruction failed.
	Ready bool
	At    uint32
	Errno unix.Errno
}

// ReportSize is the size of a report: kind, index, errno, as little-endian 32-bit words.
const ReportSize = 12

// The kinds of reports.
const (
	ReportReady = 1
	ReportFail  = 2
)

// ParseReport reads a report.
func ParseReport(b []byte) (Report, error) {
	if len(b) != ReportSize {
		return Report{}, fmt.Errorf("%w: report of %d bytes", ErrMalformed, len(b))
	}
	le := binary.LittleEndian
	switch le.Uint32(b) {
	case ReportReady:
		return Report{Ready: true}, nil
	case ReportFail:
		return Report{At: le.Uint32(b[4:]), Errno: unix.Errno(le.Uint32(b[8:]))}, nil
	}
	return Report{}, fmt.Errorf("%w: report kind", ErrMalformed)
}
