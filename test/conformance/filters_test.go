package conformance

import (
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// filters are seccomp profiles; the probe's child processes make the calls that
// they name, with arguments on both sides of each condition.
func filters() []bundle {
	filter := func(name string, p specs.LinuxSeccomp) bundle {
		return bundle{name: "filter " + name, change: func(c *specs.Spec) {
			p.Architectures = []specs.Arch{specs.ArchX86_64}
			c.Linux.Seccomp = &p
		}}
	}
	arg := func(index uint, op specs.LinuxSeccompOperator, value, two uint64) specs.LinuxSeccompArg {
		return specs.LinuxSeccompArg{Index: index, Op: op, Value: value, ValueTwo: two}
	}
	errno := func(e unix.Errno) *uint { return new(uint(e)) }
	rule := func(action specs.LinuxSeccompAction, ret *uint, name string, args ...specs.LinuxSeccompArg) specs.LinuxSyscall {
		return specs.LinuxSyscall{Names: []string{name}, Action: action, ErrnoRet: ret, Args: args}
	}
	deny := func(rules ...specs.LinuxSyscall) specs.LinuxSeccomp {
		return specs.LinuxSeccomp{DefaultAction: specs.ActAllow, Syscalls: rules}
	}
	// The probe itself would not survive a signal for a call that it makes.
	brief := func(b bundle) bundle { b.args = []string{"/probe", "brief"}; return b }
	const refuse = specs.ActErrno
	const pid = 7007 // of nobody; the probe asks for it, the next one, and 1<<32 more
	return []bundle{
		filter("allows all", deny()),
		filter("refuses one", deny(rule(refuse, nil, "getpriority"), rule(refuse, nil, "sysinfo"))),
		filter("with another error", deny(rule(refuse, errno(unix.ENOSYS), "getpriority"), rule(refuse, errno(unix.EXDEV), "sysinfo"))),
		filter("with error 0", deny(rule(refuse, errno(0), "sysinfo"))),
		filter("equal", deny(rule(refuse, nil, "getpgid", arg(0, specs.OpEqualTo, pid, 0)))),
		filter("not equal", deny(rule(refuse, nil, "getpgid", arg(0, specs.OpNotEqual, pid, 0)))),
		filter("less", deny(rule(refuse, nil, "getpgid", arg(0, specs.OpLessThan, pid+1, 0)))),
		filter("less or equal", deny(rule(refuse, nil, "getpgid", arg(0, specs.OpLessEqual, pid, 0)))),
		filter("greater", deny(rule(refuse, nil, "getpgid", arg(0, specs.OpGreaterThan, pid, 0)))),
		filter("greater or equal", deny(rule(refuse, nil, "getpgid", arg(0, specs.OpGreaterEqual, 1<<32, 0)))),
		filter("masked", deny(rule(refuse, nil, "getpgid", arg(0, specs.OpMaskedEqual, 0xffffffff, pid)))),
		filter("masked above 32 bits", deny(rule(refuse, nil, "getpgid", arg(0, specs.OpMaskedEqual, 1<<32, 1<<32)))),
		filter("on two arguments", deny(rule(refuse, nil, "lseek", arg(1, specs.OpEqualTo, 5, 0), arg(2, specs.OpEqualTo, 7, 0)))),
		filter("on one argument twice", deny(rule(refuse, nil, "getpgid", arg(0, specs.OpEqualTo, pid, 0), arg(0, specs.OpEqualTo, pid+1, 0)))),
		filter("two rules of a call", deny(rule(refuse, errno(unix.EXDEV), "getpgid", arg(0, specs.OpEqualTo, pid, 0)), rule(refuse, errno(unix.EDOM), "getpgid", arg(0, specs.OpEqualTo, pid+1, 0)))),
		brief(filter("that kills the process", deny(rule(specs.ActKillProcess, nil, "sysinfo"), rule(specs.ActKillProcess, nil, "times")))),
		brief(filter("that traps", deny(rule(specs.ActTrap, nil, "sysinfo")))),
		filter("that logs", deny(rule(specs.ActLog, nil, "sysinfo"))),
		filter("of an unknown call", deny(rule(specs.ActAllow, nil, "call_of_the_future"), rule(refuse, nil, "times"))),
		filter("with flags", specs.LinuxSeccomp{
			DefaultAction: specs.ActAllow, Flags: []specs.LinuxSeccompFlag{specs.LinuxSeccompFlagLog},
			Syscalls: []specs.LinuxSyscall{rule(refuse, nil, "times")},
		}),
		{name: "filter that refuses by another error", change: func(c *specs.Spec) { c.Linux.Seccomp.DefaultErrnoRet = errno(unix.EXDEV) }},
		{name: "filter and capabilities", change: func(c *specs.Spec) {
			c.Process.Capabilities = &specs.LinuxCapabilities{Bounding: all(), Effective: all(), Permitted: all()}
		}},
	}
}
