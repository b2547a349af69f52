package seccomp

import (
	"slices"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// evaluator says what a profile means, rule by rule.
type evaluator struct {
	profile *specs.LinuxSeccomp
	native  abi
	// byName and byNumber are the table of calls, turned around.
	byName map[string]call
	known  [abiCount]map[uint32]bool
}

func newEvaluator(p *specs.LinuxSeccomp, native abi) *evaluator {
	e := &evaluator{profile: p, native: native, byName: map[string]call{}}
	for i := range e.known {
		e.known[i] = map[uint32]bool{}
	}
	for _, c := range calls {
		e.byName[c.name] = c
		for i, nr := range c.nr {
			if nr >= 0 {
				e.known[i][uint32(nr)] = true
			}
		}
	}
	return e
}

// evaluate says what a profile means for a call, straight from the words of
// Compile's comment and without any of its code for ranges and trees.
func (e *evaluator) evaluate(in invocation) uint32 {
	p, native := e.profile, e.native
	var of abi
	switch {
	case in.arch == unix.AUDIT_ARCH_X86_64 && in.nr >= x32Bit:
		of = x32
	case in.arch == unix.AUDIT_ARCH_X86_64:
		of = x8664
	case in.arch == unix.AUDIT_ARCH_I386:
		of = x86
	case in.arch == unix.AUDIT_ARCH_AARCH64:
		of = aarch64
	case in.arch == unix.AUDIT_ARCH_ARM:
		of = arm
	default:
		return unix.SECCOMP_RET_KILL_PROCESS
	}
	intel := func(a abi) bool { return a <= x32 }
	if of != native && (intel(of) != intel(native) || !listed(p, of)) {
		if of == x32 && native == x8664 {
			return unix.SECCOMP_RET_ERRNO | uint32(unix.ENOSYS)
		}
		return unix.SECCOMP_RET_KILL_PROCESS
	}

	fallback := value(p.DefaultAction, p.DefaultErrnoRet)
	best, matched := uint32(0), false
	newest := [...]uint32{334, 386, 0x40000000 + 547, 293, 401}[of]
	for _, s := range p.Syscalls {
		ret := value(s.Action, s.ErrnoRet)
		for _, name := range s.Names {
			c, ok := e.byName[name]
			if !ok {
				continue
			}
			if nr := c.nr[of]; nr >= 0 {
				newest = max(newest, uint32(nr))
			}
			hit := c.nr[of] == int64(in.nr) && holds(s.Args, in.args, of == x86 || of == arm)
			if of == x86 && (in.nr == 102 || in.nr == 117) { // socketcall, ipc
				via, number := multiplexed(name)
				selector := in.args[0] & 0xffffffff
				if via == "ipc" {
					selector &= 0xffff
				}
				meant := via == map[uint32]string{102: "socketcall", 117: "ipc"}[in.nr] && selector == number
				stricter := int32(ret&unix.SECCOMP_RET_ACTION_FULL) < int32(fallback&unix.SECCOMP_RET_ACTION_FULL)
				hit = hit || meant && (len(s.Args) == 0 || stricter)
			}
			if hit && (!matched || int32(ret&unix.SECCOMP_RET_ACTION_FULL) < int32(best&unix.SECCOMP_RET_ACTION_FULL)) {
				best, matched = ret, true
			}
		}
	}
	if matched {
		return best
	}
	switch fallback & unix.SECCOMP_RET_ACTION_FULL {
	case unix.SECCOMP_RET_ALLOW, unix.SECCOMP_RET_LOG, unix.SECCOMP_RET_TRACE:
		return fallback
	}
	if !e.known[of][in.nr] || in.nr > newest {
		return unix.SECCOMP_RET_ERRNO | uint32(unix.ENOSYS)
	}
	return fallback
}

func listed(p *specs.LinuxSeccomp, a abi) bool {
	names := [...]specs.Arch{specs.ArchX86_64, specs.ArchX86, specs.ArchX32, specs.ArchAARCH64, specs.ArchARM}
	return slices.Contains(p.Architectures, names[a])
}

func value(action specs.LinuxSeccompAction, errno *uint) uint32 {
	data := uint32(1)
	if errno != nil {
		data = uint32(*errno)
	}
	switch action {
	case specs.ActKillProcess:
		return 0x80000000
	case specs.ActTrap:
		return 0x00030000
	case specs.ActErrno:
		return 0x00050000 | data
	case specs.ActTrace:
		return 0x7ff00000 | data
	case specs.ActLog:
		return 0x7ffc0000
	case specs.ActAllow:
		return 0x7fff0000
	}
	return 0
}

func holds(args []specs.LinuxSeccompArg, have [6]uint64, narrow bool) bool {
	var counts [6]int
	repeated := false
	for _, a := range args {
		counts[a.Index]++
		repeated = repeated || counts[a.Index] > 1
	}
	all, some := true, false
	for _, a := range args {
		x, v, w := have[a.Index], a.Value, a.ValueTwo
		if narrow {
			x, v, w = uint64(uint32(x)), uint64(uint32(v)), uint64(uint32(w))
		}
		ok := false
		switch a.Op {
		case specs.OpEqualTo:
			ok = x == v
		case specs.OpNotEqual:
			ok = x != v
		case specs.OpLessThan:
			ok = x < v
		case specs.OpLessEqual:
			ok = x <= v
		case specs.OpGreaterThan:
			ok = x > v
		case specs.OpGreaterEqual:
			ok = x >= v
		case specs.OpMaskedEqual:
			ok = x&v == w
		}
		all, some = all && ok, some || ok
	}
	if repeated {
		return some
	}
	return all
}
