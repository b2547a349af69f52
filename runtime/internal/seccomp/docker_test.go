package seccomp

import (
	"maps"
	"slices"
	"strings"
	"testing"

	moby "github.com/moby/profiles/seccomp"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// dockers gives Docker's default profile for a container with these
// capabilities; Podman's, containerd's and CRI-O's are made from it.
func dockers(t *testing.T, capabilities ...string) *specs.LinuxSeccomp {
	t.Helper()
	p, err := moby.GetDefaultProfile(&specs.Spec{Process: &specs.Process{
		Capabilities: &specs.LinuxCapabilities{Bounding: capabilities},
	}})
	if err != nil {
		t.Fatal(err)
	}
	if len(p.Syscalls) < 5 {
		t.Fatalf("Docker's profile has %d rules", len(p.Syscalls))
	}
	return p
}

// everyCapability opens each conditional rule of Docker's profile.
func everyCapability() []string {
	return strings.Fields("CAP_DAC_READ_SEARCH CAP_SYS_ADMIN CAP_SYS_BOOT CAP_SYS_CHROOT CAP_SYS_MODULE CAP_SYS_PACCT CAP_SYS_PTRACE " +
		"CAP_SYS_RAWIO CAP_SYS_TIME CAP_SYS_TTY_CONFIG CAP_SYS_NICE CAP_SYSLOG CAP_BPF CAP_PERFMON")
}

// on gives a profile for other architectures.
func on(p *specs.LinuxSeccomp, arches ...specs.Arch) *specs.LinuxSeccomp {
	other := *p
	other.Architectures = arches
	return &other
}

// TestStricterThanDocker compares what becomes of every call under our profile
// and under Docker's for a container that has no capabilities, as ours have
// none. Ours refuses more, and allows no more than what is listed here.
func TestStricterThanDocker(t *testing.T) {
	theirs := dockers(t)
	ours, other := newEvaluator(DefaultProfile(), x8664), newEvaluator(theirs, x8664)
	more, less := map[string]bool{}, map[string]bool{}
	name := func(nr uint32) string {
		i := slices.IndexFunc(calls[:], func(c call) bool { return c.nr[x8664] == int64(nr) })
		if i < 0 {
			return ""
		}
		return calls[i].name
	}
	for _, nr := range numbers() {
		if nr >= x32Bit {
			continue
		}
		compare := func(in invocation) {
			if slices.ContainsFunc(in.args[:], func(a uint64) bool { return a>>32 != 0 }) {
				return // Docker compares all 64 bits of what the kernel takes as an int
			}
			got, want := ours.evaluate(in), other.evaluate(in)
			switch {
			case got == unix.SECCOMP_RET_ALLOW && want != unix.SECCOMP_RET_ALLOW:
				more[name(nr)] = true
			case got != unix.SECCOMP_RET_ALLOW && want == unix.SECCOMP_RET_ALLOW:
				less[name(nr)] = true
			}
		}
		invocations(ours, nr, unix.AUDIT_ARCH_X86_64, compare)
		invocations(other, nr, unix.AUDIT_ARCH_X86_64, compare)
	}
	if got, want := slices.Sorted(maps.Keys(more)), strings.Fields(moreThanDocker); !slices.Equal(got, want) {
		t.Errorf("allowed here and refused by Docker:\n%q, want\n%q", got, want)
	}
	if got, want := slices.Sorted(maps.Keys(less)), strings.Fields(lessThanDocker); !slices.Equal(got, want) {
		t.Errorf("refused here and allowed by Docker:\n%q, want\n%q", got, want)
	}
	for _, e := range []*evaluator{ours, other} { // the ways to a kernel that containers have no use for
		for n := range strings.FieldsSeq("add_key bpf clone3 init_module io_uring_enter io_uring_register io_uring_setup kexec_load keyctl mount " +
			"open_by_handle_at perf_event_open pivot_root ptrace request_key setns umount2 unshare userfaultfd") {
			in := invocation{nr: uint32(e.byName[n].nr[x8664]), arch: unix.AUDIT_ARCH_X86_64}
			if v := e.evaluate(in); v == unix.SECCOMP_RET_ALLOW && (e == ours || n != "ptrace") {
				t.Errorf("%s is allowed (%v)", n, e == ours)
			}
		}
	}
}

const (
	moreThanDocker = ``
	// lessThanDocker: other processes' memory (ptrace, process_vm_*); modify_ldt;
	// UNAME26 among personalities; all but the common families of sockets; calls
	// that have no use inside (statmount, listmount, uretprobe) or are dead.
	lessThanDocker = `epoll_ctl_old epoll_wait_old listmount modify_ldt personality process_vm_readv process_vm_writev
ptrace socket socketpair statmount uretprobe`
)
