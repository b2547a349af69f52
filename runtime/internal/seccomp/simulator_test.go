package seccomp

import (
	"encoding/binary"
	"fmt"

	"golang.org/x/sys/unix"
)

// invocation is what the kernel gives a filter: struct seccomp_data without the
// instruction pointer, which no profile can look at.
type invocation struct {
	nr   uint32
	arch uint32
	args [6]uint64
}

func (i invocation) bytes() []byte {
	b := make([]byte, 64)
	binary.LittleEndian.PutUint32(b[0:], i.nr)
	binary.LittleEndian.PutUint32(b[4:], i.arch)
	for n, a := range i.args {
		binary.LittleEndian.PutUint64(b[16+8*n:], a)
	}
	return b
}

// simulate runs a program as the kernel would. An error is a program that the
// kernel would not have taken.
func simulate(program []unix.SockFilter, in invocation) (uint32, error) {
	data := in.bytes()
	var a, x uint32
	var mem [unix.BPF_MEMWORDS]uint32
	for pc := 0; pc >= 0 && pc < len(program); pc++ {
		ins := program[pc]
		taken := false
		operand := ins.K
		if ins.Code&unix.BPF_X != 0 {
			operand = x
		}
		switch ins.Code {
		case unix.BPF_LD | unix.BPF_W | unix.BPF_ABS:
			if ins.K > 60 || ins.K%4 != 0 {
				return 0, fmt.Errorf("instruction %d loads offset %d", pc, ins.K)
			}
			a = binary.LittleEndian.Uint32(data[ins.K:])
			continue
		case unix.BPF_ST:
			mem[ins.K] = a
			continue
		case unix.BPF_LD | unix.BPF_MEM:
			a = mem[ins.K]
			continue
		case unix.BPF_MISC | unix.BPF_TAX:
			x = a
			continue
		case unix.BPF_ALU | unix.BPF_AND | unix.BPF_K, unix.BPF_ALU | unix.BPF_AND | unix.BPF_X:
			a &= operand
			continue
		case unix.BPF_JMP | unix.BPF_JA:
			pc += int(ins.K)
			continue
		case unix.BPF_RET | unix.BPF_K:
			return ins.K, nil
		case unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_X:
			taken = a == operand
		case unix.BPF_JMP | unix.BPF_JGT | unix.BPF_K, unix.BPF_JMP | unix.BPF_JGT | unix.BPF_X:
			taken = a > operand
		case unix.BPF_JMP | unix.BPF_JGE | unix.BPF_K, unix.BPF_JMP | unix.BPF_JGE | unix.BPF_X:
			taken = a >= operand
		default:
			return 0, fmt.Errorf("instruction %d has code %#x", pc, ins.Code)
		}
		if taken {
			pc += int(ins.Jt)
		} else {
			pc += int(ins.Jf)
		}
	}
	return 0, fmt.Errorf("program runs over its end")
}

// check tells whether the kernel would take the program (bpf_check_classic and
// seccomp_check_filter): known instructions, jumps inside, a return at the end.
func checkProgram(program []unix.SockFilter) error {
	if len(program) == 0 || len(program) > maxInstructions {
		return fmt.Errorf("%d instructions", len(program))
	}
	for pc, ins := range program {
		switch ins.Code {
		case opLoad:
			if ins.K > 60 || ins.K%4 != 0 {
				return fmt.Errorf("instruction %d loads offset %d", pc, ins.K)
			}
		case opAnd, opRet:
		case opJump:
			if pc+1+int(ins.K) >= len(program) {
				return fmt.Errorf("instruction %d jumps out", pc)
			}
		case opJEQ, opJGT, opJGE:
			if pc+1+int(ins.Jt) >= len(program) || pc+1+int(ins.Jf) >= len(program) {
				return fmt.Errorf("instruction %d branches out", pc)
			}
		default:
			return fmt.Errorf("instruction %d has code %#x", pc, ins.Code)
		}
	}
	if program[len(program)-1].Code != opRet {
		return fmt.Errorf("last instruction is no return")
	}
	return nil
}
