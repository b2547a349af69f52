package sandbox_test

import (
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"unsafe"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"tero.internal/common/fault"
	"tero.internal/runtime/internal/seccomp"
	"tero.internal/runtime/sandbox"
)

// hiddenVariable names the system call that a child of TestOldKernel does without.
const hiddenVariable = "TERO_SANDBOX_TEST_HIDDEN"

// TestOldKernel opens the driver where the kernel seems to lack a call.
func TestOldKernel(t *testing.T) {
	for _, call := range []string{"clone3", "openat2", "close_range", "mount_setattr"} {
		t.Run(call, func(t *testing.T) {
			cmd := exec.CommandContext(t.Context(), os.Args[0])
			cmd.Env = append(os.Environ(), hiddenVariable+"="+call)
			out, err := cmd.CombinedOutput()
			if err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
			part := strings.Split(string(out), "|")
			if len(part) != 3 || !strings.HasSuffix(part[0], "it has no "+call) || part[1] != fault.Unsupported.String() || !strings.Contains(part[2], "5.19") {
				t.Errorf("%s", out)
			}
		})
	}
}

// openWithout opens the driver in a process that a system call is hidden from,
// and prints what becomes of it.
func openWithout(call string) error {
	enosys := uint(unix.ENOSYS)
	program, err := seccomp.Compile(&specs.LinuxSeccomp{DefaultAction: specs.ActAllow, Syscalls: []specs.LinuxSyscall{
		{Names: []string{call}, Action: specs.ActErrno, ErrnoRet: &enosys},
	}})
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "tero-sandbox-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	filter := unix.SockFprog{Len: uint16(len(program)), Filter: &program[0]}
	if _, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, unix.SECCOMP_FILTER_FLAG_TSYNC, uintptr(unsafe.Pointer(&filter))); errno != 0 {
		return errno
	}
	_, err = sandbox.OpenNative(cleanup(), sandbox.Config{
		StateDir: filepath.Join(dir, "state"), RunDir: filepath.Join(dir, "run"),
		CgroupParent: "tero-test-hidden", Log: slog.New(slog.DiscardHandler),
	})
	fmt.Printf("%v|%v|%s", err, fault.KindOf(err), fault.HintOf(err))
	return nil
}

// TestStateWithoutIDMaps keeps the state on a file system that cannot be mapped.
func TestStateWithoutIDMaps(t *testing.T) {
	dir := t.TempDir()
	if err := unix.Mount("ramfs", dir, "ramfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
	})
	run := filepath.Join(t.TempDir(), "run")
	_, err := sandbox.OpenNative(t.Context(), sandbox.Config{
		StateDir: filepath.Join(dir, "state"), RunDir: run, InitPath: built.init,
		CgroupParent: "tero-test-unmapped", Log: slog.New(slog.DiscardHandler),
	})
	if fault.KindOf(err) != fault.Unsupported || !strings.Contains(fault.HintOf(err), "ext4") {
		t.Errorf("%v (%s)", err, fault.HintOf(err))
	}
	if _, err := os.Stat(filepath.Join(run, "keeper.sock")); err == nil {
		t.Error("the keeper is left running")
	}
}
