// Command guest is all the user space that a test machine has of its own. It is
// the kernel's first process: it makes a machine of a kernel, runs the tests of
// its plan and switches off. The kernel starts it three times over:
//
//	/init in the initramfs   loads modules, mounts the disk and the shares, moves there
//	/sbin/init on the disk   mounts what a machine has, reaps orphans, switches off
//	its child                runs the plan
//
// Called as "go" or "make" it stands in for them: what tests build was built
// before, where there is a compiler.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Plan is what the machine does; it is /plan.json in the initramfs.
type Plan struct {
	// Modules of the kernel in the order to load them, files in /modules.
	Modules []string
	// Shares are the tags of the folders of the host with the places for them.
	Shares map[string]string
	// Programs is the folder with what tests would build.
	Programs string
	Tests    []Test
}

// Test is a test binary to run.
type Test struct {
	Name, Dir, Binary string
	Args              []string
}

const (
	planFile = "/plan.json"
	results  = "/dev/ttyS1"
	// standIns is where the stand-ins are.
	standIns = "/stand-ins"
)

func main() {
	var err error
	switch filepath.Base(os.Args[0]) {
	case "go":
		err = standInGo(os.Args[1:])
	case "make": // everything was made before
	case "runner":
		err = run()
	default:
		err = first()
		fmt.Fprintln(os.Stderr, "guest:", err)
		switchOff()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, filepath.Base(os.Args[0])+":", err)
		os.Exit(1)
	}
}

// first is process 1, in the initramfs and then on the disk.
func first() error {
	plan, err := loadPlan()
	if err != nil {
		return err
	}
	if _, err := os.Stat(standIns); err == nil {
		return second()
	}
	if err := mountAll(early()); err != nil {
		return err
	}
	for _, m := range plan.Modules {
		if err := insert(filepath.Join("/modules", m)); err != nil {
			return fmt.Errorf("load module %s: %w", m, err)
		}
	}
	return move(plan)
}

func loadPlan() (*Plan, error) {
	b, err := os.ReadFile(planFile)
	if err != nil {
		return nil, err
	}
	p := &Plan{}
	return p, json.Unmarshal(b, p)
}

func insert(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	return unix.FinitModule(int(f.Fd()), "", 0)
}

// move makes the disk the root, with the host's programs in it, and goes on there.
func move(plan *Plan) error {
	const root = "/root"
	if err := mountAll([]mount{{"/dev/vda", root, "ext4", 0, ""}}); err != nil {
		return err
	}
	for tag, place := range plan.Shares {
		if err := mountAll([]mount{{tag, root + place, "9p", unix.MS_RDONLY, "trans=virtio,version=9p2000.L,cache=loose,msize=1048576"}}); err != nil {
			return err
		}
	}
	for _, dir := range []string{"etc", "dev", "proc", "sys", "run", "tmp", "root", "var/lib", "home", standIns} {
		if err := os.MkdirAll(filepath.Join(root, dir), 0o755); err != nil {
			return err
		}
	}
	if err := os.Chmod(root+"/tmp", 0o777|os.ModeSticky); err != nil {
		return err
	}
	for name, target := range map[string]string{
		"bin": "usr/bin", "sbin": "usr/sbin", "lib": "usr/lib", "lib64": "usr/lib64", "var/run": "/run",
		standIns + "/make": "init", standIns + "/go": "init", standIns + "/runner": "init",
	} {
		if err := os.Symlink(target, filepath.Join(root, name)); err != nil {
			return err
		}
	}
	for from, to := range map[string]string{"/init": standIns + "/init", planFile: planFile} {
		b, err := os.ReadFile(from)
		if err != nil {
			return err
		}
		if err := os.WriteFile(root+to, b, 0o755); err != nil {
			return err
		}
	}
	for name, content := range map[string]string{
		"passwd": "root:x:0:0:root:/root:/bin/sh\n", "group": "root:x:0:\n",
		"protocols": "icmp 1 ICMP\ntcp 6 TCP\nudp 17 UDP\n", "hosts": "127.0.0.1 localhost\n", "resolv.conf": "", "hostname": "guest\n",
	} {
		if err := os.WriteFile(filepath.Join(root, "etc", name), []byte(content), 0o644); err != nil {
			return err
		}
	}
	// The initramfs cannot be unmounted or pivoted away: the disk is moved over it.
	if err := errors.Join(unix.Chdir(root), unix.Mount(".", "/", "", unix.MS_MOVE, ""), unix.Chroot("."), unix.Chdir("/")); err != nil {
		return fmt.Errorf("move to the disk: %w", err)
	}
	return unix.Exec(standIns+"/init", []string{"init"}, os.Environ())
}

// second is process 1 on the disk.
func second() error {
	if err := mountAll(append(early(), late()...)); err != nil {
		return err
	}
	for name, target := range map[string]string{
		"fd": "/proc/self/fd", "stdin": "fd/0", "stdout": "fd/1", "stderr": "fd/2",
	} {
		if err := os.Symlink(target, "/dev/"+name); err != nil {
			return err
		}
	}
	if err := unix.Sethostname([]byte("guest")); err != nil {
		return err
	}
	out, err := os.OpenFile(results, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	cmd := exec.CommandContext(context.Background(), standIns+"/runner")
	cmd.Stdout, cmd.Stderr = out, out
	cmd.Env = []string{
		"PATH=" + standIns + ":/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
		"HOME=/root", "USER=root", "TERM=dumb", "LANG=C.UTF-8",
		"TESTNODE_STATE=/var/lib",
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	for {
		var status unix.WaitStatus
		pid, err := unix.Wait4(-1, &status, 0, nil)
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return err
		case pid == cmd.Process.Pid:
			return fmt.Errorf("the runner ended with code %d", status.ExitStatus())
		}
	}
}

// run runs the tests and tells of each on the results' line:
//
//	@@ begin NAME
//	what it prints
//	@@ end NAME CODE SECONDS
//
// and @@ done after the last.
func run() error {
	plan, err := loadPlan()
	if err != nil {
		return err
	}
	if out, err := exec.CommandContext(context.Background(), "ip", "link", "set", "lo", "up").CombinedOutput(); err != nil {
		return fmt.Errorf("ip link set lo up: %w: %s", err, out)
	}
	for _, t := range plan.Tests {
		fmt.Fprintf(os.Stdout, "@@ begin %s\n", t.Name)
		began := time.Now()
		cmd := exec.CommandContext(context.Background(), t.Binary, t.Args...)
		cmd.Dir, cmd.Stdout, cmd.Stderr = t.Dir, os.Stdout, os.Stderr
		code := 0
		if err := cmd.Run(); err != nil {
			if code = -1; cmd.ProcessState != nil {
				code = cmd.ProcessState.ExitCode()
			}
			fmt.Fprintln(os.Stdout, err)
		}
		fmt.Fprintf(os.Stdout, "\n@@ end %s %d %.1f\n", t.Name, code, time.Since(began).Seconds())
	}
	fmt.Fprintln(os.Stdout, "@@ done")
	return nil
}

func switchOff() {
	unix.Sync()
	if err := unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF); err != nil {
		fmt.Fprintln(os.Stderr, "guest: switch off:", err)
	}
}

// standInGo answers "go build [flags] -o TARGET PACKAGE".
func standInGo(args []string) error {
	plan, err := loadPlan()
	if err != nil {
		return err
	}
	target, source := "", ""
	for i := 1; i < len(args); i++ {
		switch {
		case args[i] == "-o" && i+1 < len(args):
			i++
			target = args[i]
		case !strings.HasPrefix(args[i], "-"):
			source = args[i]
		}
	}
	if len(args) == 0 || args[0] != "build" || target == "" || source == "" {
		return fmt.Errorf("this machine has no compiler: \"go %s\" cannot be answered", strings.Join(args, " "))
	}
	b, err := os.ReadFile(filepath.Join(plan.Programs, filepath.Base(source)))
	if err != nil {
		return fmt.Errorf("%w: add %s to the programs that test/kernel builds", err, source)
	}
	if err := os.MkdirAll(filepath.Dir(target), 0o755); err != nil {
		return err
	}
	return os.WriteFile(target, b, 0o755)
}
