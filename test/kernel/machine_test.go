package kernel

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
)

// test is a test binary that the machine runs.
type test struct {
	Name   string // its package's folder
	Dir    string // where it runs
	Binary string
	Args   []string
}

// plan is what the machine reads; see guest/main.go.
type plan struct {
	Modules  []string
	Shares   map[string]string
	Programs string
	Tests    []test
}

// machine is an emulated computer with Debian's kernel.
type machine struct {
	kernel string // image
	init   string // binary of its first process
	mods   *modules
	shares map[string]string // folders of the host, by tag
	plan   plan
	dir    string // for its disk and its initramfs
}

// initramfs writes the archive that the kernel starts from.
func (m *machine) initramfs(path string) error {
	a := &archive{}
	for _, dir := range []string{"dev", "root", "modules"} {
		a.folder(dir)
	}
	a.device("dev/console", 5, 1)
	for _, file := range m.mods.order {
		content, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		m.plan.Modules = append(m.plan.Modules, filepath.Base(file))
		a.file("modules/"+filepath.Base(file), content)
	}
	init, err := os.ReadFile(m.init)
	if err != nil {
		return err
	}
	a.file("init", init)
	b, err := json.Marshal(m.plan)
	if err != nil {
		return err
	}
	a.file("plan.json", b)
	a.end()
	return os.WriteFile(path, a.Bytes(), 0o600)
}

// run boots the machine and gives the reports of its tests, by name.
func (m *machine) run(t *testing.T) (map[string]report, error) {
	t.Helper()
	initramfs, disk := filepath.Join(m.dir, "initramfs"), filepath.Join(m.dir, "disk")
	if err := m.initramfs(initramfs); err != nil {
		return nil, err
	}
	if out, err := exec.CommandContext(t.Context(), "/usr/sbin/mke2fs", "-q", "-t", "ext4", disk, "4G").CombinedOutput(); err != nil {
		return nil, fmt.Errorf("mke2fs: %w: %s", err, out)
	}
	args := []string{
		"-M", "q35", "-accel", "tcg,thread=multi,tb-size=512", "-cpu", "max", "-smp", "2", "-m", "2G",
		"-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
		"-kernel", m.kernel, "-initrd", initramfs,
		// A panic ends the machine. Mitigations of the processor's faults cost an emulated one a third of its speed.
		"-append", "console=ttyS0 panic=-1 oops=panic loglevel=5 mitigations=off",
		"-serial", "file:" + m.console(), "-serial", "stdio",
		"-drive", "file=" + disk + ",format=raw,if=virtio,cache=unsafe,discard=unmap",
		"-object", "rng-random,id=rng,filename=/dev/urandom", "-device", "virtio-rng-pci,rng=rng",
	}
	for tag, folder := range m.shares {
		args = append(args, "-virtfs", "local,readonly=on,security_model=none,multidevs=remap,mount_tag="+tag+",path="+folder)
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, "qemu-system-x86_64", args...)
	// It ends with this process, and that is: with the thread that starts it.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	var complaints strings.Builder
	cmd.Stderr = &complaints
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	reports, err := read(out)
	if e := cmd.Wait(); e != nil {
		err = errors.Join(err, fmt.Errorf("qemu: %w: %s", e, complaints.String()))
	}
	if err != nil {
		err = fmt.Errorf("%w\nThe console's last words:\n%s", err, m.tail())
	}
	return reports, err
}

func (m *machine) console() string { return filepath.Join(m.dir, "console") }

// tail gives the last of what the kernel said.
func (m *machine) tail() string {
	b, _ := os.ReadFile(m.console())
	return string(b[max(0, len(b)-8000):])
}
