package kernel

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
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

// report is what a test binary printed and how it ended.
type report struct {
	output string
	code   int
	took   time.Duration
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

// run boots the machine and gives the reports of its tests, by name. The console
// is in a file of the machine's folder.
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
		return reports, fmt.Errorf("%w: %s", e, complaints.String())
	}
	return reports, err
}

func (m *machine) console() string { return filepath.Join(m.dir, "console") }

// tail gives the last of what the kernel said.
func (m *machine) tail() string {
	b, _ := os.ReadFile(m.console())
	return string(b[max(0, len(b)-8000):])
}

// read reads what the machine's runner prints until it ends.
func read(r io.Reader) (map[string]report, error) {
	reports := map[string]report{}
	var output strings.Builder
	name, done := "", false
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		line := strings.TrimSuffix(lines.Text(), "\r")
		fields := strings.Fields(line)
		switch {
		case strings.HasPrefix(line, "@@ begin ") && len(fields) == 3:
			name = fields[2]
			output.Reset()
		case strings.HasPrefix(line, "@@ end "+name+" ") && len(fields) == 5:
			code, err := strconv.Atoi(fields[3])
			if err != nil {
				return reports, err
			}
			seconds, err := strconv.ParseFloat(fields[4], 64)
			if err != nil {
				return reports, err
			}
			reports[name] = report{output.String(), code, time.Duration(seconds * float64(time.Second))}
			name = ""
			output.Reset()
		case line == "@@ done":
			done = true
		default:
			output.WriteString(line + "\n")
		}
	}
	switch {
	case lines.Err() != nil:
		return reports, lines.Err()
	case name != "":
		return reports, fmt.Errorf("the machine ended during the tests of %s, which printed:\n%s", name, output.String())
	case !done:
		return reports, fmt.Errorf("the machine ended before its tests did: %s", output.String())
	}
	return reports, nil
}
