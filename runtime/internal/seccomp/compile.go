package seccomp

import (
	"fmt"
	"slices"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"tero.internal/common/fault"
)

// maxInstructions is the longest program that the kernel takes (BPF_MAXINSNS).
const maxInstructions = 4096

// hintSpecification says where the words of a profile are.
const hintSpecification = "the OCI runtime specification lists actions and operators under \"seccomp\""

// maxErrno is the greatest errno that the kernel passes on (MAX_ERRNO).
const maxErrno = 4095

// The kernel's answers to unlisted entry points and unknown calls.
const (
	retENOSYS  = unix.SECCOMP_RET_ERRNO | uint32(unix.ENOSYS)
	retBadArch = unix.SECCOMP_RET_KILL_PROCESS
)

// Compile gives the filter program for profile on this machine.
//
// Of the rules that match a call, the most restrictive action wins, in the
// kernel's own order (seccomp(2): kill process, kill thread, trap, errno,
// trace, log, allow), whatever their order in the profile; without a match the
// default action does. The conditions of a rule must all hold, but several
// conditions on the same argument are alternatives, as in runc and crun.
//
// Where the default refuses, a call that this table does not know, or that is
// newer than Linux 4.20 and than every call the profile names, gets ENOSYS, so
// that programs fall back as they would on an older kernel. The native
// architecture is always filtered; the others that the profile lists are if
// this kernel can run them. Calls through any other architecture kill the
// process, through x32 when not listed get ENOSYS.
func Compile(profile *specs.LinuxSeccomp) ([]unix.SockFilter, error) {
	return compile(profile, nativeABI)
}

func compile(profile *specs.LinuxSeccomp, native abi) ([]unix.SockFilter, error) {
	if profile == nil {
		return nil, fault.New(fault.Invalid, "there is no seccomp profile to compile")
	}
	if profile.ListenerPath != "" {
		return nil, fault.New(fault.Unsupported, "seccomp profile asks for a listener at %q, which TERO does not offer", profile.ListenerPath).
			WithHint("leave listenerPath and SCMP_ACT_NOTIFY out")
	}
	set, err := parse(profile)
	if err != nil {
		return nil, err
	}
	abis := []abi{native}
	for _, arch := range profile.Architectures {
		a, ok := parseArch(arch)
		if ok && a.runsOn(native) && !slices.Contains(abis, a) {
			abis = append(abis, a)
		}
	}
	program := assemble(set, abis)
	if len(program) > maxInstructions {
		return nil, fault.New(fault.Invalid, "seccomp profile compiles to %d instructions, and the kernel takes %d", len(program), maxInstructions).
			WithHint("give the profile fewer rules with conditions, or fewer architectures")
	}
	return program, nil
}

// ruleset is a checked profile.
type ruleset struct {
	fallback uint32
	rules    []rule
}

// rule is one action for some calls, under conditions that must all hold.
type rule struct {
	calls []call
	ret   uint32
	// conditions are on different arguments each.
	conditions []condition
}

// condition compares one argument.
type condition struct {
	index uint32
	op    specs.LinuxSeccompOperator
	a, b  uint64
}

// refuses tells whether a return value keeps the call from being made.
func refuses(ret uint32) bool { return severity(ret) <= severity(unix.SECCOMP_RET_ERRNO) }

// severity orders actions as the kernel does: as signed numbers, least first.
func severity(ret uint32) int32 {
	return int32(ret & unix.SECCOMP_RET_ACTION_FULL) //nolint:gosec // the kernel's own reinterpretation
}

// parse checks the whole profile.
func parse(profile *specs.LinuxSeccomp) (*ruleset, error) {
	fallback, err := parseAction(profile.DefaultAction, profile.DefaultErrnoRet)
	if err != nil {
		return nil, fault.New(fault.Invalid, "seccomp profile: default action: %w", err).
			WithHint(hintSpecification)
	}
	set := &ruleset{fallback: fallback}
	for i, s := range profile.Syscalls {
		ret, err := parseAction(s.Action, s.ErrnoRet)
		if err != nil {
			return nil, fault.New(fault.Invalid, "seccomp profile: rule %d: %w", i, err).WithHint(hintSpecification)
		}
		var named []call
		for _, name := range s.Names {
			c, ok := findCall(name)
			if !ok {
				// An unknown call that is to be allowed stays refused; one that is to be refused would be let through.
				if severity(ret) < severity(fallback) {
					return nil, fault.New(fault.Invalid, "seccomp profile: rule %d restricts system call %q, which is not known", i, name).
						WithHint("correct the name, or refuse by default and list what is allowed")
				}
				continue
			}
			named = append(named, c)
		}
		alternatives, err := parseConditions(s.Args)
		if err != nil {
			return nil, fault.New(fault.Invalid, "seccomp profile: rule %d: %w", i, err).WithHint(hintSpecification)
		}
		for _, conditions := range alternatives {
			set.rules = append(set.rules, rule{calls: named, ret: ret, conditions: conditions})
		}
	}
	return set, nil
}

// parseAction gives the kernel's return value of an action.
func parseAction(action specs.LinuxSeccompAction, errno *uint) (uint32, error) {
	data := uint32(unix.EPERM)
	if errno != nil {
		if action != specs.ActErrno && action != specs.ActTrace {
			return 0, fmt.Errorf("action %q takes no errnoRet", action)
		}
		if *errno > maxErrno {
			return 0, fmt.Errorf("errnoRet %d is over %d", *errno, maxErrno)
		}
		data = uint32(*errno)
	}
	switch action {
	case specs.ActKill, specs.ActKillThread:
		return unix.SECCOMP_RET_KILL_THREAD, nil
	case specs.ActKillProcess:
		return unix.SECCOMP_RET_KILL_PROCESS, nil
	case specs.ActTrap:
		return unix.SECCOMP_RET_TRAP, nil
	case specs.ActErrno:
		return unix.SECCOMP_RET_ERRNO | data, nil
	case specs.ActTrace:
		return unix.SECCOMP_RET_TRACE | data, nil
	case specs.ActAllow:
		return unix.SECCOMP_RET_ALLOW, nil
	case specs.ActLog:
		return unix.SECCOMP_RET_LOG, nil
	case specs.ActNotify:
		return 0, fmt.Errorf("action %q needs a listener, which TERO does not offer", action)
	}
	return 0, fmt.Errorf("action %q is not known", action)
}

// parseConditions gives the alternatives, each a list of conditions that must
// all hold: one list as a rule, one list a condition when an argument is named
// twice.
func parseConditions(args []specs.LinuxSeccompArg) ([][]condition, error) {
	all := make([]condition, 0, len(args))
	var seen [6]bool
	repeated := false
	for _, a := range args {
		if a.Index > 5 {
			return nil, fmt.Errorf("argument %d does not exist: system calls have six, from 0", a.Index)
		}
		switch a.Op {
		case specs.OpNotEqual, specs.OpLessThan, specs.OpLessEqual, specs.OpEqualTo, specs.OpGreaterEqual, specs.OpGreaterThan, specs.OpMaskedEqual:
		default:
			return nil, fmt.Errorf("operator %q is not known", a.Op)
		}
		repeated = repeated || seen[a.Index]
		seen[a.Index] = true
		all = append(all, condition{index: uint32(a.Index), op: a.Op, a: a.Value, b: a.ValueTwo})
	}
	if !repeated {
		return [][]condition{all}, nil
	}
	alternatives := make([][]condition, len(all))
	for i := range all {
		alternatives[i] = all[i : i+1 : i+1]
	}
	return alternatives, nil
}
