package seccomp

import (
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"tero.internal/common/fault"
)

// numbers are all call numbers worth a look on an architecture: everything up
// to well past the tables, the x32 range, and the edges.
func numbers() []uint32 {
	var out []uint32
	for nr := range uint32(700) {
		out = append(out, nr, x32Bit|nr)
	}
	return append(out, 0xf0000, 0xf0001, 0xf0002, 0xf0003, 0xf0004, 0xf0005, 0xf0006, x32Bit-1, 0x7fffffff, 0x80000000, 0xffffffff)
}

var architectures = []uint32{
	unix.AUDIT_ARCH_X86_64, unix.AUDIT_ARCH_I386, unix.AUDIT_ARCH_AARCH64, unix.AUDIT_ARCH_ARM, unix.AUDIT_ARCH_S390X, 0, 0xffffffff,
}

// edges are the argument values at which conditions change their minds, with
// and without noise in the upper half.
func edges(args ...specs.LinuxSeccompArg) []uint64 {
	out := []uint64{0, 1, 0xffffffff, 1 << 32, 1<<64 - 1}
	for _, a := range args {
		for _, v := range []uint64{a.Value, a.ValueTwo} {
			out = append(out, v, v-1, v+1, v^1<<32, v|0xdead<<32, uint64(uint32(v)), ^v)
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// invocations yields calls that tell two meanings of a profile apart: for each
// rule that names the number, one argument after the other at each edge, the
// others as the rule wants them.
func invocations(e *evaluator, nr, arch uint32, yield func(invocation)) {
	yield(invocation{nr: nr, arch: arch})
	for _, s := range e.profile.Syscalls {
		if len(s.Args) == 0 || !slices.ContainsFunc(s.Names, func(n string) bool { c := e.byName[n]; return slices.Contains(c.nr[:], int64(nr)) }) {
			continue
		}
		in := invocation{nr: nr, arch: arch}
		for _, a := range s.Args {
			in.args[a.Index] = a.Value
			if a.Op == specs.OpMaskedEqual {
				in.args[a.Index] = a.ValueTwo
			}
		}
		yield(in)
		for _, a := range s.Args {
			other := in
			for _, v := range edges(s.Args...) {
				other.args[a.Index] = v
				yield(other)
			}
		}
	}
	if nr == 102 || nr == 117 { // socketcall and ipc on x86
		for n := range uint64(30) {
			yield(invocation{nr: nr, arch: arch, args: [6]uint64{n}})
			yield(invocation{nr: nr, arch: arch, args: [6]uint64{n | 1<<16}})
		}
	}
}

// sameAsEvaluated compares the compiled profile with the evaluator everywhere.
func sameAsEvaluated(t *testing.T, p *specs.LinuxSeccomp, native abi) int {
	t.Helper()
	program, err := compile(p, native)
	if err != nil {
		t.Fatal(err)
	}
	if err := checkProgram(program); err != nil {
		t.Fatal(err)
	}
	compared := 0
	e := newEvaluator(p, native)
	for _, arch := range architectures {
		for _, nr := range numbers() {
			invocations(e, nr, arch, func(in invocation) {
				got, err := simulate(program, in)
				if err != nil {
					t.Fatal(err)
				}
				if want := e.evaluate(in); got != want {
					t.Fatalf("%+v: compiled says %#x, the profile %#x", in, got, want)
				}
				compared++
			})
		}
	}
	return compared
}

func TestDefaultProfileEverywhere(t *testing.T) {
	for name, native := range map[string]abi{"x86_64": x8664, "aarch64": aarch64} {
		for _, extra := range [][]specs.Arch{nil, {specs.ArchX86}, {specs.ArchX32}, {specs.ArchX86, specs.ArchX32, specs.ArchARM, specs.ArchS390X}} {
			p := DefaultProfile()
			p.Architectures = append(p.Architectures, extra...)
			t.Logf("%s with %v: same in %d invocations", name, extra, sameAsEvaluated(t, p, native))
		}
	}
}

var operators = []specs.LinuxSeccompOperator{
	specs.OpEqualTo, specs.OpNotEqual, specs.OpLessThan, specs.OpLessEqual, specs.OpGreaterThan, specs.OpGreaterEqual, specs.OpMaskedEqual,
}

var actions = []specs.LinuxSeccompAction{
	specs.ActKill, specs.ActKillThread, specs.ActKillProcess, specs.ActTrap, specs.ActErrno, specs.ActTrace, specs.ActAllow, specs.ActLog,
}

// randomProfile gives a profile with overlapping rules of all kinds.
func randomProfile(r *rand.Rand) *specs.LinuxSeccomp {
	interesting := []uint64{0, 1, 2, 7, 40, 1<<31 - 1, 1 << 31, 1<<32 - 1, 1 << 32, 1<<32 + 1, 1 << 63, 1<<64 - 1, 0x7e020000, 0xdeadbeefcafe}
	pick := func() uint64 {
		if r.IntN(3) == 0 {
			return r.Uint64()
		}
		return interesting[r.IntN(len(interesting))]
	}
	p := &specs.LinuxSeccomp{DefaultAction: actions[r.IntN(len(actions))]}
	if p.DefaultAction == specs.ActErrno {
		e := uint(r.IntN(4096))
		p.DefaultErrnoRet = &e
	}
	for _, a := range []specs.Arch{specs.ArchX86_64, specs.ArchX86, specs.ArchX32, specs.ArchAARCH64, specs.ArchARM, specs.ArchRISCV64} {
		if r.IntN(2) == 0 {
			p.Architectures = append(p.Architectures, a)
		}
	}
	favourites := []string{"socket", "clone", "semop", "ioctl", "read", "mseal", "socketcall"}
	for range 1 + r.IntN(12) {
		s := specs.LinuxSyscall{Action: actions[r.IntN(len(actions))]}
		for range 1 + r.IntN(20) {
			if r.IntN(4) == 0 {
				s.Names = append(s.Names, favourites[r.IntN(len(favourites))])
			} else {
				s.Names = append(s.Names, calls[r.IntN(len(calls))].name)
			}
		}
		if s.Action == specs.ActErrno && r.IntN(2) == 0 {
			e := uint(r.IntN(4096))
			s.ErrnoRet = &e
		}
		for range r.IntN(4) {
			a := specs.LinuxSeccompArg{Index: uint(r.IntN(6)), Value: pick(), Op: operators[r.IntN(len(operators))]}
			if a.Op == specs.OpMaskedEqual {
				a.ValueTwo = pick() & a.Value
			}
			s.Args = append(s.Args, a)
		}
		p.Syscalls = append(p.Syscalls, s)
	}
	return p
}

func TestRandomProfiles(t *testing.T) {
	const seed = 20261123
	r := rand.New(rand.NewPCG(seed, 0))
	for i := range 40 {
		native := []abi{x8664, aarch64}[i%2]
		sameAsEvaluated(t, randomProfile(r), native)
	}
}

func TestEveryOperatorOnAllBits(t *testing.T) {
	values := []uint64{0, 1, 0xffffffff, 1 << 32, 1<<32 | 5, 5, 1 << 63, 1<<64 - 1}
	for _, op := range operators {
		for _, v := range values {
			p := &specs.LinuxSeccomp{DefaultAction: specs.ActErrno, Syscalls: []specs.LinuxSyscall{{
				Names: []string{"read"}, Action: specs.ActAllow,
				Args: []specs.LinuxSeccompArg{{Index: 3, Value: v, ValueTwo: v &^ 5, Op: op}},
			}}}
			program, err := compile(p, x8664)
			if err != nil {
				t.Fatal(err)
			}
			for _, x := range edges(p.Syscalls[0].Args...) {
				in := invocation{arch: unix.AUDIT_ARCH_X86_64, args: [6]uint64{3: x}}
				got, err := simulate(program, in)
				if err != nil {
					t.Fatal(err)
				}
				if want := newEvaluator(p, x8664).evaluate(in); got != want {
					t.Errorf("%#x %s %#x: got %#x, want %#x", x, op, v, got, want)
				}
			}
		}
	}
}

func TestDefaultProfileRefuses(t *testing.T) {
	program, err := compile(DefaultProfile(), x8664)
	if err != nil {
		t.Fatal(err)
	}
	const (
		allow  = unix.SECCOMP_RET_ALLOW
		eperm  = unix.SECCOMP_RET_ERRNO | uint32(unix.EPERM)
		enosys = unix.SECCOMP_RET_ERRNO | uint32(unix.ENOSYS)
	)
	for _, c := range []struct {
		name string
		args [6]uint64
		want uint32
	}{
		{"keyctl", [6]uint64{}, eperm},
		{"add_key", [6]uint64{}, eperm},
		{"request_key", [6]uint64{}, eperm},
		{"bpf", [6]uint64{}, eperm},
		{"userfaultfd", [6]uint64{}, eperm},
		{"io_uring_setup", [6]uint64{}, eperm},
		{"io_uring_enter", [6]uint64{}, eperm},
		{"io_uring_register", [6]uint64{}, eperm},
		{"mount", [6]uint64{}, eperm},
		{"umount2", [6]uint64{}, eperm},
		{"pivot_root", [6]uint64{}, eperm},
		{"chroot", [6]uint64{}, eperm},
		{"open_tree", [6]uint64{}, eperm},
		{"move_mount", [6]uint64{}, eperm},
		{"fsopen", [6]uint64{}, eperm},
		{"fsconfig", [6]uint64{}, eperm},
		{"fsmount", [6]uint64{}, eperm},
		{"fspick", [6]uint64{}, eperm},
		{"mount_setattr", [6]uint64{}, eperm},
		{"unshare", [6]uint64{}, eperm},
		{"setns", [6]uint64{}, eperm},
		{"ptrace", [6]uint64{}, eperm},
		{"process_vm_readv", [6]uint64{}, eperm},
		{"process_vm_writev", [6]uint64{}, eperm},
		{"pidfd_getfd", [6]uint64{}, eperm},
		{"kexec_load", [6]uint64{}, eperm},
		{"kexec_file_load", [6]uint64{}, eperm},
		{"init_module", [6]uint64{}, eperm},
		{"finit_module", [6]uint64{}, eperm},
		{"delete_module", [6]uint64{}, eperm},
		{"perf_event_open", [6]uint64{}, eperm},
		{"open_by_handle_at", [6]uint64{}, eperm},
		{"clock_settime", [6]uint64{}, eperm},
		{"settimeofday", [6]uint64{}, eperm},
		{"syslog", [6]uint64{}, eperm},
		{"reboot", [6]uint64{}, eperm},
		{"swapon", [6]uint64{}, eperm},
		{"iopl", [6]uint64{}, eperm},
		{"modify_ldt", [6]uint64{}, eperm},
		{"clone3", [6]uint64{}, enosys},
		{"clone", [6]uint64{unix.CLONE_VM | unix.CLONE_THREAD | 17}, allow},
		{"clone", [6]uint64{unix.CLONE_NEWUSER | 17}, eperm},
		{"clone", [6]uint64{unix.CLONE_NEWNET}, eperm},
		{"clone", [6]uint64{unix.CLONE_NEWCGROUP | unix.CLONE_VM}, eperm},
		{"socket", [6]uint64{unix.AF_INET}, allow},
		{"socket", [6]uint64{unix.AF_UNIX}, allow},
		{"socket", [6]uint64{unix.AF_NETLINK, 3, unix.NETLINK_ROUTE}, allow},
		{"socket", [6]uint64{unix.AF_NETLINK, 3, unix.NETLINK_NETFILTER}, eperm},
		{"socket", [6]uint64{unix.AF_VSOCK}, eperm},
		{"socket", [6]uint64{1<<32 | unix.AF_VSOCK}, eperm},
		{"socket", [6]uint64{unix.AF_ALG}, eperm},
		{"socket", [6]uint64{unix.AF_PACKET}, eperm},
		{"socketpair", [6]uint64{unix.AF_UNIX}, allow},
		{"socketpair", [6]uint64{unix.AF_TIPC}, eperm},
		{"personality", [6]uint64{0}, allow},
		{"personality", [6]uint64{0xffffffff}, allow},
		{"personality", [6]uint64{0x0040000}, eperm}, // ADDR_NO_RANDOMIZE
		{"personality", [6]uint64{0x0400000}, eperm}, // READ_IMPLIES_EXEC
		{"execve", [6]uint64{}, allow},
		{"read", [6]uint64{}, allow},
	} {
		call, ok := findCall(c.name)
		if !ok {
			t.Errorf("%s is not in the table", c.name)
			continue
		}
		got, err := simulate(program, invocation{nr: uint32(call.nr[x8664]), arch: unix.AUDIT_ARCH_X86_64, args: c.args})
		if err != nil {
			t.Fatal(err)
		}
		if got != c.want {
			t.Errorf("%s%x: got %#x, want %#x", c.name, c.args, got, c.want)
		}
	}
}

func TestDefaultProfileNamesExist(t *testing.T) {
	for _, s := range DefaultProfile().Syscalls {
		for _, n := range s.Names {
			if _, ok := findCall(n); !ok {
				t.Errorf("%s is not a system call", n)
			}
		}
	}
	if !slices.IsSortedFunc(calls[:], func(a, b call) int { return slices.Compare([]byte(a.name), []byte(b.name)) }) {
		t.Error("the table of calls is not sorted, which lookups rely on")
	}
}

func TestOverlapIsRestrictive(t *testing.T) {
	vsock := []specs.LinuxSeccompArg{{Index: 0, Value: unix.AF_VSOCK, Op: specs.OpEqualTo}}
	allowAll := specs.LinuxSyscall{Names: []string{"socket"}, Action: specs.ActAllow}
	denyOne := specs.LinuxSyscall{Names: []string{"socket"}, Action: specs.ActErrno, Args: vsock}
	for _, rules := range [][]specs.LinuxSyscall{{allowAll, denyOne}, {denyOne, allowAll}} {
		program, err := compile(&specs.LinuxSeccomp{DefaultAction: specs.ActErrno, Syscalls: rules}, x8664)
		if err != nil {
			t.Fatal(err)
		}
		for family, want := range map[uint64]uint32{unix.AF_VSOCK: unix.SECCOMP_RET_ERRNO | 1, unix.AF_INET: unix.SECCOMP_RET_ALLOW} {
			got, err := simulate(program, invocation{nr: 41, arch: unix.AUDIT_ARCH_X86_64, args: [6]uint64{family}})
			if err != nil || got != want {
				t.Errorf("family %d: got %#x, %v, want %#x", family, got, err, want)
			}
		}
	}
}

func TestCompileRefuses(t *testing.T) {
	tooBig := uint(4096)
	one := uint(1)
	rule := func(r specs.LinuxSyscall) *specs.LinuxSeccomp {
		return &specs.LinuxSeccomp{DefaultAction: specs.ActAllow, Syscalls: []specs.LinuxSyscall{r}}
	}
	many := &specs.LinuxSeccomp{DefaultAction: specs.ActErrno}
	for v := range uint64(2000) {
		many.Syscalls = append(many.Syscalls, specs.LinuxSyscall{Names: []string{"read"}, Action: specs.ActAllow, Args: []specs.LinuxSeccompArg{{Value: v, Op: specs.OpEqualTo}}})
	}
	for name, c := range map[string]struct {
		profile *specs.LinuxSeccomp
		want    string
		kind    fault.Kind
	}{
		"none":             {nil, "there is no seccomp profile to compile", fault.Invalid},
		"listener":         {&specs.LinuxSeccomp{DefaultAction: specs.ActAllow, ListenerPath: "/x"}, `seccomp profile asks for a listener at "/x", which TERO does not offer`, fault.Unsupported},
		"default action":   {&specs.LinuxSeccomp{DefaultAction: "X"}, `seccomp profile: default action: action "X" is not known`, fault.Invalid},
		"notify":           {rule(specs.LinuxSyscall{Names: []string{"read"}, Action: specs.ActNotify}), `seccomp profile: rule 0: action "SCMP_ACT_NOTIFY" needs a listener, which TERO does not offer`, fault.Invalid},
		"errno":            {rule(specs.LinuxSyscall{Names: []string{"read"}, Action: specs.ActErrno, ErrnoRet: &tooBig}), "seccomp profile: rule 0: errnoRet 4096 is over 4095", fault.Invalid},
		"errno with allow": {rule(specs.LinuxSyscall{Names: []string{"read"}, Action: specs.ActAllow, ErrnoRet: &one}), `seccomp profile: rule 0: action "SCMP_ACT_ALLOW" takes no errnoRet`, fault.Invalid},
		"argument":         {rule(specs.LinuxSyscall{Names: []string{"read"}, Action: specs.ActErrno, Args: []specs.LinuxSeccompArg{{Index: 6, Op: specs.OpEqualTo}}}), "seccomp profile: rule 0: argument 6 does not exist: system calls have six, from 0", fault.Invalid},
		"operator":         {rule(specs.LinuxSyscall{Names: []string{"read"}, Action: specs.ActErrno, Args: []specs.LinuxSeccompArg{{Op: "~"}}}), `seccomp profile: rule 0: operator "~" is not known`, fault.Invalid},
		"unknown refused":  {rule(specs.LinuxSyscall{Names: []string{"no_such_call"}, Action: specs.ActErrno}), `seccomp profile: rule 0 restricts system call "no_such_call", which is not known`, fault.Invalid},
		"too long":         {many, "seccomp profile compiles to 10008 instructions, and the kernel takes 4096", fault.Invalid},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := compile(c.profile, x8664)
			if err == nil {
				t.Fatal("compiled")
			}
			if diff := cmp.Diff(c.want, err.Error()); diff != "" && name != "too long" {
				t.Error(diff)
			}
			if got := fault.KindOf(err); got != c.kind {
				t.Errorf("kind %v, want %v", got, c.kind)
			}
		})
	}
}

func BenchmarkCompileDefault(b *testing.B) {
	p := DefaultProfile()
	n := 0
	for b.Loop() {
		program, err := Compile(p)
		if err != nil {
			b.Fatal(err)
		}
		n = len(program)
	}
	b.ReportMetric(float64(n), "instructions")
}
