package conformance

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// end adds the outcome and what the probe told.
func (v seen) end(code int, out []byte) error {
	v["outcome"] = "exit " + strconv.Itoa(code)
	text := string(out)
	first, last := strings.IndexByte(text, '{'), strings.LastIndexByte(text, '}')
	if first < 0 || last < first {
		return nil
	}
	var told map[string]string
	if err := json.Unmarshal([]byte(text[first:last+1]), &told); err != nil {
		return fmt.Errorf("the probe told %q: %w", text, err)
	}
	maps.Copy(v, told)
	return v.normalise()
}

// normalise takes out what differs between any two runs.
func (v seen) normalise() error {
	for k := range v { // nobody can fill a mount that is read-only
		if point, ok := strings.CutPrefix(k, "mount.size."); ok && slices.Contains(strings.Split(v["mount.options."+point], ","), "ro") {
			delete(v, k)
		}
	}
	for k, s := range v {
		switch {
		case strings.HasPrefix(k, "ns."):
			host, err := os.Readlink("/proc/self/ns/" + strings.TrimPrefix(k, "ns."))
			if err != nil {
				return err
			}
			v[k] = "own"
			if s == host {
				v[k] = "host"
			}
		case k == "ids.uid_map", k == "ids.gid_map":
			var inside, outside, size int
			if _, err := fmt.Sscan(s, &inside, &outside, &size); err != nil {
				return fmt.Errorf("%s %q: %w", k, s, err)
			}
			v[k] = fmt.Sprintf("%d high %d", inside, size)
			if outside < 1<<20 {
				v[k] = s
			}
		case strings.HasPrefix(k, "cgroup.path."):
			if strings.Contains(s, "/tero-test-") {
				v[k] = "own"
			}
		case k == "read./proc/keys": // key. tells which there are
			delete(v, k)
		case k == "mount.type./": // an overlay, or a folder of the test
			delete(v, k)
		}
	}
	return nil
}

// cgroup adds the limits of a process's cgroups, as the host sees them.
func (v seen) cgroup(pid int) error {
	groups, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
	if err != nil {
		return err
	}
	files := map[string][]string{
		"memory": {"memory.limit_in_bytes", "memory.memsw.limit_in_bytes"}, "pids": {"pids.max"},
		"cpu":    {"cpu.cfs_quota_us", "cpu.cfs_period_us", "cpu.shares"},
		"cpuset": {"cpuset.cpus", "cpuset.mems"},
		"":       {"memory.max", "memory.swap.max", "pids.max", "cpu.max", "cpu.weight"},
	}
	var devices []string // what filters devices, on v1 or v2
	for line := range strings.Lines(string(groups)) {
		f := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if f[2] != "/" && (f[1] == "devices" || f[1] == "") {
			dir := filepath.Join("/sys/fs/cgroup", f[1], f[2])
			if _, err := os.Stat(filepath.Join("/sys/fs/cgroup/unified", f[2])); f[1] == "" && err == nil {
				dir = filepath.Join("/sys/fs/cgroup/unified", f[2])
			}
			devices = append(devices, dir)
		}
		for _, file := range files[f[1]] {
			b, err := os.ReadFile(filepath.Join("/sys/fs/cgroup", f[1], f[2], file))
			if err != nil {
				continue // not every kernel has each
			}
			lines := strings.Split(strings.TrimSpace(string(b)), "\n")
			slices.Sort(lines)
			v["limit."+file] = strings.Join(lines, ", ")
		}
	}
	return v.devices(devices)
}

// devices adds what a process in the cgroups, one of the host's root so that
// nothing else is in its way, may do with devices.
func (v seen) devices(groups []string) error {
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), variable+"="+strings.Join(groups, ":"))
	out, err := cmd.Output()
	if err != nil {
		return fmt.Errorf("try devices: %w", err)
	}
	var tried map[string]string
	if err := json.Unmarshal(out, &tried); err != nil {
		return fmt.Errorf("try devices: %w in %q", err, out)
	}
	for k, s := range tried {
		v["try.device "+k] = s
	}
	return nil
}

// variable makes the test binary a process that enters the cgroups in it and
// tries to make and open devices.
const variable = "TERO_CONFORMANCE_CGROUPS"

// TestMain plays that process, or runs the tests.
func TestMain(m *testing.M) {
	groups, ok := os.LookupEnv(variable)
	if !ok {
		heed()
		os.Exit(m.Run())
	}
	if err := tryDevices(strings.Split(groups, ":")); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// heed sets signals 32 and 33, which GNU make has its children ignore, back to
// their default: the peers hand on to containers what they ignore themselves, so
// what they show would depend on who started the test.
func heed() {
	const ignored, setSize = 1, 8
	for _, sig := range []uintptr{32, 33} {
		var now, standard [4]uint64 // struct sigaction: handler, flags, restorer, mask
		_, _, _ = unix.RawSyscall6(unix.SYS_RT_SIGACTION, sig, 0, uintptr(unsafe.Pointer(&now)), setSize, 0, 0)
		if now[0] == ignored {
			_, _, _ = unix.RawSyscall6(unix.SYS_RT_SIGACTION, sig, uintptr(unsafe.Pointer(&standard)), 0, setSize, 0, 0)
		}
	}
}

func tryDevices(groups []string) error {
	// The nodes are made before: making them is a right of its own.
	dir, err := os.MkdirTemp("", "tero-conformance-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	list := map[string]uint64{
		"null": unix.Mkdev(1, 3), "zero": unix.Mkdev(1, 5), "urandom": unix.Mkdev(1, 9), "tty": unix.Mkdev(5, 0), "ptmx": unix.Mkdev(5, 2),
		"mem": unix.Mkdev(1, 1), "kmsg": unix.Mkdev(1, 11), "fuse": unix.Mkdev(10, 229), "tun": unix.Mkdev(10, 200), "console": unix.Mkdev(5, 1),
	}
	for name, number := range list {
		if err := unix.Mknod(filepath.Join(dir, name), unix.S_IFCHR|0o600, int(number)); err != nil {
			return err
		}
	}
	for _, g := range groups {
		if err := os.WriteFile(filepath.Join(g, "cgroup.procs"), []byte("0"), 0); err != nil {
			return err
		}
	}
	tried := map[string]string{}
	say := func(key string, err error) {
		tried[key] = "done"
		if errors.Is(err, unix.EPERM) {
			tried[key] = "EPERM"
		}
	}
	for name, number := range list {
		fd, err := unix.Open(filepath.Join(dir, name), unix.O_RDWR|unix.O_NONBLOCK|unix.O_NOCTTY, 0)
		if err == nil {
			_ = unix.Close(fd)
		}
		say("open "+name, err)
		say("make "+name, unix.Mknod(filepath.Join(dir, "new "+name), unix.S_IFCHR|0o600, int(number)))
	}
	say("make a disk", unix.Mknod(filepath.Join(dir, "disk"), unix.S_IFBLK|0o600, int(unix.Mkdev(8, 0))))
	return json.NewEncoder(os.Stdout).Encode(tried)
}
