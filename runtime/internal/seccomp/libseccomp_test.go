package seccomp

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"fmt"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// buildHelper compiles the little program around libseccomp ("make deps" installs libseccomp-dev and gcc).
func buildHelper(t *testing.T) string {
	t.Helper()
	bin := filepath.Join(t.TempDir(), "libseccomp")
	out, err := exec.CommandContext(t.Context(), "gcc", "-O1", "-o", bin, "testdata/libseccomp.c", "-lseccomp").CombinedOutput()
	if err != nil {
		t.Fatalf("gcc: %v\n%s", err, out)
	}
	return bin
}

var archNames = map[string]abi{"x86_64": x8664, "x86": x86, "x32": x32, "aarch64": aarch64, "arm": arm}

// theirNames gives the calls that libseccomp knows.
func theirNames(t *testing.T, helper string) [abiCount]map[string]int64 {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), helper, "names").Output()
	if err != nil {
		t.Fatal(err)
	}
	var names [abiCount]map[string]int64
	for i := range names {
		names[i] = map[string]int64{}
	}
	s := bufio.NewScanner(bytes.NewReader(out))
	for s.Scan() {
		var arch, name string
		var nr int64
		if _, err := fmt.Sscan(s.Text(), &arch, &nr, &name); err != nil {
			t.Fatalf("%q: %v", s.Text(), err)
		}
		names[archNames[arch]][name] = nr
	}
	return names
}

func TestTableIsLibseccomps(t *testing.T) {
	total := 0
	for a, names := range theirNames(t, buildHelper(t)) {
		if len(names) < 300 {
			t.Errorf("ABI %d: libseccomp names only %d calls", a, len(names))
		}
		for name, nr := range names {
			total++
			c, ok := findCall(name)
			if !ok || c.nr[a] != nr {
				// A second name for a number that the table has under another one is no difference.
				if slices.ContainsFunc(calls[:], func(c call) bool { return c.nr[a] == nr }) && !ok {
					t.Logf("ABI %d: libseccomp calls %d %s", a, nr, name)
					continue
				}
				t.Errorf("ABI %d: libseccomp has %s at %d, the table at %d", a, name, nr, c.nr[a])
			}
		}
	}
	t.Logf("compared %d numbers", total)
}

// theirs gives libseccomp's program for a profile.
func theirs(t *testing.T, helper string, p *specs.LinuxSeccomp, arches []string) []unix.SockFilter {
	t.Helper()
	var in strings.Builder
	fmt.Fprintf(&in, "default %d\n", value(p.DefaultAction, p.DefaultErrnoRet))
	for _, a := range arches {
		fmt.Fprintf(&in, "arch %s\n", a)
	}
	if own := map[string]string{"amd64": "x86_64", "arm64": "aarch64"}[runtime.GOARCH]; !slices.Contains(arches, own) {
		fmt.Fprintf(&in, "drop %s\n", own) // libseccomp begins with the machine's own
	}
	theirOps := map[specs.LinuxSeccompOperator]int{
		specs.OpNotEqual: 1, specs.OpLessThan: 2, specs.OpLessEqual: 3, specs.OpEqualTo: 4,
		specs.OpGreaterEqual: 5, specs.OpGreaterThan: 6, specs.OpMaskedEqual: 7,
	}
	for _, s := range p.Syscalls {
		if value(s.Action, s.ErrnoRet) == value(p.DefaultAction, p.DefaultErrnoRet) {
			continue // libseccomp takes no rule that says the same as the default
		}
		for _, n := range s.Names {
			fmt.Fprintf(&in, "rule %d %s %d", value(s.Action, s.ErrnoRet), n, len(s.Args))
			for _, a := range s.Args {
				fmt.Fprintf(&in, " %d %d %d %d", a.Index, theirOps[a.Op], a.Value, a.ValueTwo)
			}
			in.WriteString("\n")
		}
	}
	cmd := exec.CommandContext(t.Context(), helper, "compile")
	cmd.Stdin = strings.NewReader(in.String())
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v: %s", err, stderr.String())
	}
	program := make([]unix.SockFilter, len(out)/8)
	if err := binary.Read(bytes.NewReader(out), binary.LittleEndian, program); err != nil {
		t.Fatal(err)
	}
	return program
}

// TestVerdictsAreLibseccomps compares what becomes of every call, on every
// architecture. Documented differences: ENOSYS where libseccomp has the default
// errno, and for x32 where it kills; calls that libseccomp does not know yet;
// socketcall and ipc on x86, where we refuse more, and see through ipc's version.
func TestVerdictsAreLibseccomps(t *testing.T) {
	helper := buildHelper(t)
	names := theirNames(t, helper)
	operatorProfile := func(fallback, action specs.LinuxSeccompAction) *specs.LinuxSeccomp {
		p := &specs.LinuxSeccomp{DefaultAction: fallback, Syscalls: []specs.LinuxSyscall{{Names: []string{"openat", "getpid"}, Action: action}}}
		for i, op := range operators {
			for j, n := range []string{"read", "write", "close", "fstat", "lseek", "mprotect", "munmap"} {
				if i == j {
					p.Syscalls = append(p.Syscalls, specs.LinuxSyscall{Names: []string{n}, Action: action, Args: []specs.LinuxSeccompArg{
						{Index: uint(i % 6), Op: op, Value: 0x500000007, ValueTwo: 0x100000003},
						{Index: uint((i + 2) % 6), Op: operators[(i+3)%len(operators)], Value: 9, ValueTwo: 8},
					}})
				}
			}
		}
		return p
	}
	intel, arms := []string{"x86_64", "x86", "x32"}, []string{"aarch64", "arm"}
	allIntel := []specs.Arch{specs.ArchX86_64, specs.ArchX86, specs.ArchX32}
	allArms := []specs.Arch{specs.ArchAARCH64, specs.ArchARM}
	for name, c := range map[string]struct {
		profile *specs.LinuxSeccomp
		native  abi
		arches  []string
	}{
		"default":                {DefaultProfile(), x8664, []string{"x86_64"}},
		"default, all Intel":     {on(DefaultProfile(), allIntel...), x8664, intel},
		"default, all ARM":       {on(DefaultProfile(), allArms...), aarch64, arms},
		"Docker's":               {dockers(t), x8664, intel},
		"Docker's, 64 bits":      {on(dockers(t), specs.ArchX86_64), x8664, []string{"x86_64"}},
		"Docker's, ARM":          {on(dockers(t), allArms...), aarch64, arms},
		"Docker's, capabilities": {on(dockers(t, everyCapability()...), allIntel...), x8664, intel},
		"operators allow":        {on(operatorProfile(specs.ActErrno, specs.ActAllow), allIntel[:2]...), x8664, intel[:2]},
		"operators allow, ARM":   {on(operatorProfile(specs.ActErrno, specs.ActAllow), allArms...), aarch64, arms},
		"operators refuse":       {operatorProfile(specs.ActAllow, specs.ActErrno), x8664, []string{"x86_64"}},
		"operators refuse, ARM":  {on(operatorProfile(specs.ActAllow, specs.ActErrno), allArms...), aarch64, arms},
		"operators kill":         {operatorProfile(specs.ActLog, specs.ActKillProcess), x8664, []string{"x86_64"}},
	} {
		t.Run(name, func(t *testing.T) {
			other := theirs(t, helper, c.profile, c.arches)
			ours, err := compile(c.profile, c.native)
			if err != nil {
				t.Fatal(err)
			}
			e := newEvaluator(c.profile, c.native)
			fallback := value(c.profile.DefaultAction, c.profile.DefaultErrnoRet)
			compared := 0
			for _, arch := range []uint32{unix.AUDIT_ARCH_X86_64, unix.AUDIT_ARCH_I386, unix.AUDIT_ARCH_AARCH64, unix.AUDIT_ARCH_ARM} {
				for _, nr := range numbers() {
					if newer(names, nr, arch) {
						continue
					}
					invocations(e, nr, arch, func(in invocation) {
						if nr >= x32Bit {
							for i := range in.args { // libseccomp compares 32 bits here, we 64
								in.args[i] = uint64(uint32(in.args[i]))
							}
						}
						want, err := simulate(other, in)
						if err != nil {
							t.Fatal(err)
						}
						got, err := simulate(ours, in)
						if err != nil {
							t.Fatal(err)
						}
						compared++
						if got != want && !differs(in, got, want, fallback) {
							t.Errorf("%+v: ours %#x, libseccomp's %#x", in, got, want)
						}
					})
				}
			}
			t.Logf("same in %d invocations; %d instructions, libseccomp %d", compared, len(ours), len(other))
		})
	}
}

// differs tells whether a difference is one of the documented.
func differs(in invocation, ours, theirs, fallback uint32) bool {
	switch {
	case ours == retENOSYS && (theirs == fallback || in.nr >= x32Bit):
		return true
	case ours == retBadArch && theirs == unix.SECCOMP_RET_KILL_THREAD:
		return true
	case in.arch == unix.AUDIT_ARCH_I386 && in.nr == 117 && in.args[0]>>16 != 0: // the version, which the kernel cuts off and libseccomp does not
		return true
	case in.arch == unix.AUDIT_ARCH_I386 && (in.nr == 102 || in.nr == 117): // socketcall, ipc
		return severity(ours) <= severity(theirs)
	}
	return false
}

// newer tells whether our table has a call that libseccomp's does not.
func newer(names [abiCount]map[string]int64, nr, arch uint32) bool {
	for _, c := range calls {
		for a := range abiCount {
			if abi(a).audit() == arch && c.nr[a] == int64(nr) {
				_, ok := names[a][c.name]
				return !ok
			}
		}
	}
	return false
}
