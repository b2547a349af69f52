package seccomp

import (
	"slices"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// Offsets in struct seccomp_data, little endian (linux/seccomp.h).
const (
	offsetNumber = 0
	offsetArch   = 4
	offsetArgs   = 16
)

// Instructions that the filters are made of.
const (
	opLoad = unix.BPF_LD | unix.BPF_W | unix.BPF_ABS
	opAnd  = unix.BPF_ALU | unix.BPF_AND | unix.BPF_K
	opJump = unix.BPF_JMP | unix.BPF_JA
	opJEQ  = unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K
	opJGT  = unix.BPF_JMP | unix.BPF_JGT | unix.BPF_K
	opJGE  = unix.BPF_JMP | unix.BPF_JGE | unix.BPF_K
	opRet  = unix.BPF_RET | unix.BPF_K
)

// maxSkip is the farthest that a conditional jump goes.
const maxSkip = 255

// span is a range of call numbers with the same verdict: from first up to the
// next span's.
type span struct {
	first   uint32
	verdict verdict
}

// verdict is what happens to a call: the first of the checks whose conditions
// hold, else ret.
type verdict struct {
	checks []check
	ret    uint32
}

// check is a return value under conditions.
type check struct {
	conditions []condition
	ret        uint32
	narrow     bool
}

// assemble gives the program:
//
//	load arch
//	arch == A1 ? section of A1     (load number, binary tree over its numbers)
//	arch == A2 ? section of A2
//	kill the process
func assemble(set *ruleset, abis []abi) []unix.SockFilter {
	var audits []uint32
	for _, a := range abis {
		if !slices.Contains(audits, a.audit()) {
			audits = append(audits, a.audit())
		}
	}
	program := []unix.SockFilter{stmt(opLoad, offsetArch)}
	for _, audit := range audits {
		var spans []span
		for _, a := range abis {
			if a.audit() == audit {
				spans = append(spans, set.spans(a)...)
			}
		}
		if audit == unix.AUDIT_ARCH_X86_64 && !slices.Contains(abis, x32) {
			spans = append(spans, span{first: x32Bit, verdict: verdict{ret: retENOSYS}})
		}
		section := append([]unix.SockFilter{stmt(opLoad, offsetNumber)}, tree(join(spans))...)
		program = append(program,
			unix.SockFilter{Code: opJEQ, K: audit, Jt: 1},
			stmt(opJump, uint32(len(section)))) //nolint:gosec // a few thousand
		program = append(program, section...)
	}
	return append(program, stmt(opRet, retBadArch))
}

// spans gives the verdicts for all numbers of one ABI, in order.
func (set *ruleset) spans(a abi) []span {
	checks, newest := set.checks(a)
	var numbers []int64
	for i := range calls {
		if nr := calls[i].nr[a]; nr >= 0 {
			numbers = append(numbers, nr)
		}
	}
	slices.Sort(numbers)
	numbers = slices.Compact(numbers) // some calls have two names

	unknown := verdict{ret: set.fallback}
	if refuses(set.fallback) {
		unknown.ret = retENOSYS
	}
	start := int64(0)
	if a == x32 {
		start = x32Bit
	}
	out := []span{{first: uint32(start), verdict: unknown}}
	for _, nr := range numbers {
		v := unknown
		if list, ok := checks[nr]; ok {
			v = set.decide(list)
		} else if nr <= newest {
			v = verdict{ret: set.fallback}
		}
		first := uint32(nr) //nolint:gosec // from the table, non-negative
		out = append(out, span{first: first, verdict: v}, span{first: first + 1, verdict: unknown})
	}
	return out
}

// checks gives the rules by call number, and the newest call that the default
// action is for.
func (set *ruleset) checks(a abi) (map[int64][]check, int64) {
	out := make(map[int64][]check, len(calls))
	newest := a.settled()
	for _, r := range set.rules {
		for _, c := range r.calls {
			if nr := c.nr[a]; nr >= 0 {
				out[nr] = append(out[nr], check{conditions: r.conditions, ret: r.ret, narrow: a.narrow()})
				newest = max(newest, nr)
			}
			if a == x86 {
				set.multiplex(out, c.name, r)
			}
		}
	}
	return out, newest
}

// multiplex applies a rule for a call to the way around it that x86 has. The
// arguments of the call lie in memory there, where no filter can see them: a
// rule with conditions that refuses refuses whatever they are, one that
// permits does not apply.
func (set *ruleset) multiplex(out map[int64][]check, name string, r rule) {
	via, number := multiplexed(name)
	if via == "" || len(r.conditions) > 0 && severity(r.ret) >= severity(set.fallback) {
		return
	}
	door, ok := findCall(via)
	if !ok {
		return
	}
	// The upper half of ipc's selector is a version.
	selector := condition{op: specs.OpMaskedEqual, a: 0xffff, b: number}
	if via == "socketcall" {
		selector = condition{op: specs.OpEqualTo, a: number}
	}
	nr := door.nr[x86]
	out[nr] = append(out[nr], check{conditions: []condition{selector}, ret: r.ret, narrow: true})
}

// decide orders checks by severity, the profile's order among equals, drops
// what comes after one without conditions, and what changes nothing at the end.
func (set *ruleset) decide(list []check) verdict {
	list = slices.Clone(list)
	slices.SortStableFunc(list, func(a, b check) int {
		switch sa, sb := severity(a.ret), severity(b.ret); {
		case sa < sb:
			return -1
		case sa > sb:
			return 1
		}
		return 0
	})
	v := verdict{ret: set.fallback}
	if i := slices.IndexFunc(list, func(c check) bool { return len(c.conditions) == 0 }); i >= 0 {
		v.ret, list = list[i].ret, list[:i]
	}
	for len(list) > 0 && list[len(list)-1].ret == v.ret {
		list = list[:len(list)-1]
	}
	v.checks = list
	return v
}

// join drops spans that go on with the verdict of the one before, and those
// that hold no number.
func join(spans []span) []span {
	var out []span
	for i, s := range spans {
		if i+1 < len(spans) && spans[i+1].first == s.first {
			continue
		}
		if n := len(out); n > 0 && len(s.verdict.checks) == 0 && len(out[n-1].verdict.checks) == 0 && out[n-1].verdict.ret == s.verdict.ret {
			continue
		}
		out = append(out, s)
	}
	return out
}

// tree gives the code that finds the number's span by halving.
func tree(spans []span) []unix.SockFilter {
	if len(spans) == 1 {
		return spans[0].verdict.code()
	}
	middle := len(spans) / 2
	low, high := tree(spans[:middle]), tree(spans[middle:])
	var code []unix.SockFilter
	if len(low) <= maxSkip {
		code = append(code, unix.SockFilter{Code: opJGE, K: spans[middle].first, Jt: uint8(len(low))}) //nolint:gosec // just checked
	} else {
		code = append(code, unix.SockFilter{Code: opJGE, K: spans[middle].first, Jf: 1}, stmt(opJump, uint32(len(low)))) //nolint:gosec // a few thousand
	}
	return append(append(code, low...), high...)
}

// code gives the instructions of a verdict; every way through ends in a return.
func (v verdict) code() []unix.SockFilter {
	var code []unix.SockFilter
	for _, c := range v.checks {
		code = append(code, c.code()...)
	}
	return append(code, stmt(opRet, v.ret))
}

// code gives the instructions of a check; when a condition fails they jump
// behind their end. Six conditions take at most 37 instructions.
func (c check) code() []unix.SockFilter {
	var f fragment
	for _, x := range c.conditions {
		f = f.then(x.code(c.narrow))
	}
	code := append(f.code, stmt(opRet, c.ret))
	for _, e := range f.exits {
		skip := uint8(len(code) - e.at - 1) //nolint:gosec // see above
		if e.onTrue {
			code[e.at].Jt = skip
		} else {
			code[e.at].Jf = skip
		}
	}
	return code
}

// fragment is code that goes on behind its end when its conditions hold.
type fragment struct {
	code []unix.SockFilter
	// exits are the jumps still to be aimed at where failure goes.
	exits []exit
}

// exit is a conditional jump, and the branch of it that means failure.
type exit struct {
	at     int
	onTrue bool
}

// then puts g behind f.
func (f fragment) then(g fragment) fragment {
	exits := slices.Clone(f.exits)
	for _, e := range g.exits {
		exits = append(exits, exit{at: e.at + len(f.code), onTrue: e.onTrue})
	}
	return fragment{code: slices.Concat(f.code, g.code), exits: exits}
}

// code gives the comparison of one argument.
func (x condition) code(narrow bool) fragment {
	low, high := offsetArgs+8*x.index, offsetArgs+8*x.index+4
	lower := x.half(low, uint32(x.a), uint32(x.b)) //nolint:gosec // the lower half is meant
	if narrow {
		return lower
	}
	aHigh, bHigh := uint32(x.a>>32), uint32(x.b>>32)
	load, skip := stmt(opLoad, high), uint8(len(lower.code)) //nolint:gosec // at most 3
	var upper fragment
	switch x.op {
	case specs.OpEqualTo:
		upper = x.half(high, aHigh, bHigh)
	case specs.OpMaskedEqual:
		if aHigh == 0 && bHigh == 0 {
			return lower // no bit of the upper half counts
		}
		upper = x.half(high, aHigh, bHigh)
	case specs.OpNotEqual:
		upper.code = []unix.SockFilter{load, {Code: opJEQ, K: aHigh, Jf: skip}}
	case specs.OpGreaterThan, specs.OpGreaterEqual:
		// Greater above: it holds. Equal above: the lower half decides. Else it fails.
		upper.code = []unix.SockFilter{load, {Code: opJGT, K: aHigh, Jt: skip + 1}, {Code: opJEQ, K: aHigh}}
		upper.exits = []exit{{at: 2}}
	default: // OpLessThan, OpLessEqual
		// Greater above: it fails. Equal above: the lower half decides. Else it holds.
		upper.code = []unix.SockFilter{load, {Code: opJGT, K: aHigh}, {Code: opJEQ, K: aHigh, Jf: skip}}
		upper.exits = []exit{{at: 1, onTrue: true}}
	}
	return upper.then(lower)
}

// half compares the 32 bits at an offset.
func (x condition) half(offset, a, b uint32) fragment {
	code := []unix.SockFilter{stmt(opLoad, offset)}
	jump, onTrue := unix.SockFilter{K: a}, false
	switch x.op {
	case specs.OpMaskedEqual:
		if a != 0xffffffff {
			code = append(code, stmt(opAnd, a))
		}
		jump.Code, jump.K = opJEQ, b
	case specs.OpEqualTo:
		jump.Code = opJEQ
	case specs.OpNotEqual:
		jump.Code, onTrue = opJEQ, true
	case specs.OpGreaterThan:
		jump.Code = opJGT
	case specs.OpGreaterEqual:
		jump.Code = opJGE
	case specs.OpLessThan:
		jump.Code, onTrue = opJGE, true
	default: // OpLessEqual
		jump.Code, onTrue = opJGT, true
	}
	code = append(code, jump)
	return fragment{code: code, exits: []exit{{at: len(code) - 1, onTrue: onTrue}}}
}

// stmt gives an instruction without branches.
func stmt(code uint16, k uint32) unix.SockFilter { return unix.SockFilter{Code: code, K: k} }
