package seccomp

import (
	"errors"
	"os"
	"os/exec"
	"runtime"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// childEnv makes TestKernelTakesDefaultProfile the confined child of itself.
const childEnv = "TERO_TEST_SECCOMP_CHILD"

// TestKernelTakesDefaultProfile puts a child under the default profile, on the
// real kernel, and lets it try what is refused and what is needed.
func TestKernelTakesDefaultProfile(t *testing.T) {
	if os.Getenv(childEnv) == "" {
		cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestKernelTakesDefaultProfile$", "-test.v")
		cmd.Env = append(os.Environ(), childEnv+"=1")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		return
	}
	runtime.LockOSThread()
	program, err := Compile(DefaultProfile())
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		t.Fatal(err)
	}
	filter := unix.SockFprog{Len: uint16(len(program)), Filter: &program[0]}
	if _, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, unix.SECCOMP_FILTER_FLAG_TSYNC, uintptr(unsafe.Pointer(&filter))); errno != 0 {
		t.Fatalf("the kernel does not take the filter: %v", errno)
	}

	raw := func(nr uintptr, args ...uintptr) error {
		var a [6]uintptr
		copy(a[:], args)
		if _, _, errno := unix.RawSyscall6(nr, a[0], a[1], a[2], a[3], a[4], a[5]); errno != 0 {
			return errno
		}
		return nil
	}
	for name, c := range map[string]struct{ got, want error }{
		"keyctl":               {raw(unix.SYS_KEYCTL), unix.EPERM},
		"unshare":              {raw(unix.SYS_UNSHARE, unix.CLONE_NEWUSER), unix.EPERM},
		"clone3":               {raw(unix.SYS_CLONE3), unix.ENOSYS},
		"a call of tomorrow":   {raw(9000), unix.ENOSYS},
		"socket AF_ALG":        {raw(unix.SYS_SOCKET, unix.AF_ALG, unix.SOCK_SEQPACKET), unix.EPERM},
		"socket AF_INET":       {raw(unix.SYS_SOCKET, unix.AF_INET, unix.SOCK_STREAM), nil},
		"personality":          {raw(unix.SYS_PERSONALITY, 0x0040000), unix.EPERM},
		"asking for one's own": {raw(unix.SYS_PERSONALITY, 0xffffffff), nil},
		"getpid":               {raw(unix.SYS_GETPID), nil},
	} {
		if !errors.Is(c.got, c.want) {
			t.Errorf("%s: got %v, want %v", name, c.got, c.want)
		}
	}
	if _, err := os.ReadFile("/proc/self/status"); err != nil {
		t.Error(err)
	}
}
