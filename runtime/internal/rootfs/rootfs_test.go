package rootfs

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// layer makes a folder with files.
func layer(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, content := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// read reads a file through a root that is mounted nowhere.
func read(t *testing.T, root *os.File, name string) string {
	t.Helper()
	fd, err := unix.Openat(int(root.Fd()), name, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err.Error()
	}
	f := os.NewFile(uintptr(fd), name)
	defer func() { _ = f.Close() }()
	buf := make([]byte, 64)
	n, _ := f.Read(buf)
	return string(buf[:n])
}

func TestMount(t *testing.T) {
	s, err := OpenScaffold(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	base := layer(t, map[string]string{"a": "base", "b": "base", "etc/hosts": "image's", "etc/other": "kept"})
	if err := os.Symlink("/run/nowhere", filepath.Join(base, "etc/resolv.conf")); err != nil {
		t.Fatal(err)
	}
	top := layer(t, map[string]string{"a": "top"})
	for name, byPath := range map[string]bool{"by descriptor": false, "by path": true} {
		t.Run(name, func(t *testing.T) {
			upper := t.TempDir()
			if err := MakeUpper(upper, 0x70000000); err != nil {
				t.Fatal(err)
			}
			for mode, o := range map[string]Options{
				"read-only": {Layers: []string{top, base}, ByPath: byPath},
				"writable":  {Layers: []string{top, base}, ByPath: byPath, Upper: upper},
			} {
				root, err := s.Mount(o)
				if err != nil {
					t.Fatal(mode, err)
				}
				for file, want := range map[string]string{"a": "top", "b": "base", "etc/hosts": "", "etc/resolv.conf": "", "etc/other": "kept"} {
					if got := read(t, root, file); got != want {
						t.Errorf("%s: %s holds %q, want %q", mode, file, got, want)
					}
				}
				for _, dir := range []string{"proc", "sys", "dev", "tmp", "run"} {
					if err := unix.Faccessat(int(root.Fd()), dir, unix.F_OK, 0); err != nil {
						t.Errorf("%s: %s: %v", mode, dir, err)
					}
				}
				fd, err := unix.Openat(int(root.Fd()), "new", unix.O_CREAT|unix.O_WRONLY|unix.O_CLOEXEC, 0o600)
				if mode == "read-only" && !errors.Is(err, unix.EROFS) || mode == "writable" && err != nil {
					t.Errorf("%s: create: %v", mode, err)
				}
				if err == nil {
					_ = unix.Close(fd)
				}
				_ = root.Close()
			}
		})
	}
	if _, err := s.Mount(Options{Layers: []string{"/nowhere"}}); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("missing layer: %v", err)
	}
}

func TestCovers(t *testing.T) {
	s := &Scaffold{}
	if !s.Covers("/proc/") || !s.Covers("/tmp") || s.Covers("/data") || s.Covers("/dev/shm") {
		t.Error("what the scaffold has")
	}
	if !slices.Contains(EtcFiles(), "/etc/hosts") {
		t.Error("/etc/hosts")
	}
}

func TestCloneNamesWhatHasNoIDMaps(t *testing.T) {
	cmd := exec.CommandContext(t.Context(), "cat") // lives until its input ends
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  unix.CLONE_NEWUSER,
		UidMappings: []syscall.SysProcIDMap{{HostID: 0x70000000, Size: 65536}},
		GidMappings: []syscall.SysProcIDMap{{HostID: 0x70000000, Size: 65536}},
	}
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = in.Close(); _ = cmd.Wait() }()
	userNS, err := os.Open(fmt.Sprintf("/proc/%d/ns/user", cmd.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = userNS.Close() }()
	fd, err := Clone(t.TempDir(), userNS, 0)
	if err != nil {
		t.Fatal(err)
	}
	_ = unix.Close(fd)
	if _, err := Clone("/proc", userNS, 0); err == nil || !strings.Contains(err.Error(), "no id maps") {
		t.Errorf("proc: %v", err)
	}
}
