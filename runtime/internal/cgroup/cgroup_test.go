package cgroup

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

func TestFind(t *testing.T) {
	const hybrid = `24 1 0:20 / /sys/fs/cgroup ro - tmpfs tmpfs ro
25 24 0:21 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct
26 24 0:22 / /sys/fs/cgroup/memory rw,relatime shared:5 - cgroup cgroup rw,memory
27 24 0:23 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,name=systemd
28 24 0:24 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw
29 1 0:22 / /elsewhere rw - cgroup cgroup rw,memory
`
	const own = "3:cpu,cpuacct:/a\n2:memory:/b/c\n0::/d\n"
	want := []hierarchy{
		{controllers: []string{"cpu", "cpuacct"}, dir: "/sys/fs/cgroup/cpu,cpuacct/a/tero"},
		{controllers: []string{"memory"}, dir: "/sys/fs/cgroup/memory/b/c/tero"},
		{v2: true, dir: "/sys/fs/cgroup/unified/tero"},
	}
	if diff := cmp.Diff(want, find([]byte(hybrid), []byte(own), "tero"), cmp.AllowUnexported(hierarchy{})); diff != "" {
		t.Error(diff)
	}
	if got := find([]byte("bad\n1 2 3 - \n"), nil, "tero"); len(got) != 0 {
		t.Errorf("%+v", got)
	}
}

func TestSettings(t *testing.T) {
	quota, period, limit, swap, pids := int64(50_000), uint64(100_000), int64(64<<20), int64(80<<20), int64(10)
	major := int64(1)
	r := &specs.LinuxResources{
		CPU: &specs.LinuxCPU{Quota: &quota, Period: &period}, Memory: &specs.LinuxMemory{Limit: &limit, Swap: &swap},
		Pids:    &specs.LinuxPids{Limit: &pids},
		Devices: []specs.LinuxDeviceCgroup{{Access: "rwm"}, {Allow: true, Type: "c", Major: &major, Access: "rw"}},
	}
	all := wanted()
	for name, c := range map[string]struct {
		h    hierarchy
		want []string
	}{
		"v1": {hierarchy{controllers: all}, []string{
			"cpu.cfs_period_us 100000", "cpu.cfs_quota_us 50000", "memory.limit_in_bytes 67108864",
			"memory.memsw.limit_in_bytes 83886080", "pids.max 10", "devices.deny a", "devices.allow c 1:* rw",
		}},
		"v2":     {hierarchy{controllers: all, v2: true}, []string{"cpu.max 50000 100000", "memory.max 67108864", "memory.swap.max 16777216", "pids.max 10"}},
		"hybrid": {hierarchy{v2: true}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			var got []string
			for _, s := range settings(&c.h, r) {
				got = append(got, s.file+" "+s.value)
			}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestMoreSettings(t *testing.T) {
	shares, weight, limit, reservation, unlimited := uint64(1024), uint16(500), int64(64<<20), int64(32<<20), int64(-1)
	disk := specs.LinuxThrottleDevice{Rate: 1000}
	disk.Major, disk.Minor = 8, 16
	disks := []specs.LinuxThrottleDevice{disk}
	r := &specs.LinuxResources{
		CPU:    &specs.LinuxCPU{Shares: &shares, Cpus: "0-1"},
		Memory: &specs.LinuxMemory{Limit: &limit, Swap: &unlimited, Reservation: &reservation},
		BlockIO: &specs.LinuxBlockIO{
			Weight: &weight, ThrottleReadBpsDevice: disks, ThrottleWriteBpsDevice: disks, ThrottleReadIOPSDevice: disks, ThrottleWriteIOPSDevice: disks,
		},
	}
	for name, c := range map[string]struct {
		h    hierarchy
		want []string
	}{
		"v1": {hierarchy{controllers: wanted()}, []string{
			"cpu.shares 1024", "memory.soft_limit_in_bytes 33554432", "memory.limit_in_bytes 67108864", "memory.memsw.limit_in_bytes -1",
			"blkio.weight 500 or blkio.bfq.weight 500", "blkio.throttle.read_bps_device 8:16 1000", "blkio.throttle.write_bps_device 8:16 1000",
			"blkio.throttle.read_iops_device 8:16 1000", "blkio.throttle.write_iops_device 8:16 1000", "cpuset.cpus 0-1",
		}},
		"v2": {hierarchy{controllers: wanted(), v2: true}, []string{
			"cpu.weight 100", "memory.low 33554432", "memory.max 67108864", "memory.swap.max max", "io.bfq.weight 500 or io.weight 4950",
			"io.max 8:16 rbps=1000", "io.max 8:16 wbps=1000", "io.max 8:16 riops=1000", "io.max 8:16 wiops=1000", "cpuset.cpus 0-1",
		}},
	} {
		t.Run(name, func(t *testing.T) {
			var got []string
			for _, s := range settings(&c.h, r) {
				line := s.file + " " + s.value
				if s.other != "" {
					line += " or " + s.other + " " + s.otherValue
				}
				if s.optional {
					t.Errorf("%s may be missing", line)
				}
				got = append(got, line)
			}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestWeightOfShares(t *testing.T) {
	for shares, want := range map[uint64]uint64{0: 1, 2: 1, 1024: 100, 262144: 10000, 1 << 30: 10000} {
		if got := weightOfShares(shares); got != want {
			t.Errorf("%d shares are weight %d, want %d", shares, got, want)
		}
	}
}

// TestUnavailable asks for what no hierarchy and no kernel has.
func TestUnavailable(t *testing.T) {
	weight, limit := uint16(500), int64(64<<20)
	bare := &Tree{hierarchies: []hierarchy{{controllers: []string{"pids"}, dir: t.TempDir()}}}
	for name, r := range map[string]*specs.LinuxResources{
		"io":     {BlockIO: &specs.LinuxBlockIO{Weight: &weight}},
		"memory": {Memory: &specs.LinuxMemory{Limit: &limit}},
		"cpuset": {CPU: &specs.LinuxCPU{Cpus: "0"}},
	} {
		err := bare.Create(t.Context(), bare.Plan("a", r), r)
		missing, ok := errors.AsType[*UnavailableError](err)
		if !ok || !strings.Contains(missing.Error(), name) {
			t.Errorf("%s: %v", name, err)
		}
	}
	err := (&setting{file: "no.such", value: "1", other: "neither", otherValue: "1"}).write(t.TempDir())
	if _, ok := errors.AsType[*UnavailableError](err); !ok {
		t.Errorf("no file: %v", err)
	}
	if err := (&setting{file: "no.such", value: "1", optional: true}).write(t.TempDir()); err != nil {
		t.Errorf("no file, optional: %v", err)
	}
}

// TestLimits sets every limit that this machine has in a real cgroup.
func TestLimits(t *testing.T) {
	tree, err := Open("tero-test-cgroup-limits")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := tree.Remove(context.WithoutCancel(t.Context())); err != nil {
			t.Error(err)
		}
	})
	shares, weight, limit, swap, reservation := uint64(512), uint16(200), int64(64<<20), int64(96<<20), int64(32<<20)
	r := &specs.LinuxResources{
		CPU:     &specs.LinuxCPU{Shares: &shares, Cpus: "0"},
		Memory:  &specs.LinuxMemory{Limit: &limit, Swap: &swap, Reservation: &reservation},
		BlockIO: &specs.LinuxBlockIO{Weight: &weight},
	}
	if plain, full := tree.Plan("one", &specs.LinuxResources{}), tree.Plan("one", r); len(plain.Dirs) > len(full.Dirs) {
		t.Errorf("%v without limits, %v with", plain.Dirs, full.Dirs)
	}
	g := tree.Plan("one", r)
	if err := tree.Create(t.Context(), g, r); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{
		"cpu.shares": "512", "cpu.weight": "59", "cpuset.cpus": "0", "memory.soft_limit_in_bytes": "33554432", "memory.low": "33554432",
		"memory.memsw.limit_in_bytes": "100663296", "memory.swap.max": "33554432", "blkio.bfq.weight": "200", "io.bfq.weight": "200",
	} {
		for _, dir := range g.Dirs {
			b, err := os.ReadFile(filepath.Join(dir, name))
			if errors.Is(err, fs.ErrNotExist) {
				continue // of the other version
			}
			if got := strings.TrimPrefix(strings.TrimSpace(string(b)), "default "); err != nil || got != want {
				t.Errorf("%s: %q, %v, want %q", name, got, err, want)
			}
		}
	}
	// A process can enter, also the cpuset.
	script := ""
	for _, dir := range g.Dirs {
		script += "echo 0 > " + filepath.Join(dir, "cgroup.procs") + " && "
	}
	if out, err := exec.CommandContext(t.Context(), "sh", "-c", script+"true").CombinedOutput(); err != nil {
		t.Errorf("%v: %s", err, out)
	}
	if err := g.Remove(t.Context()); err != nil {
		t.Error(err)
	}
}

// TestGroup makes a real cgroup, puts a process in and removes it.
func TestGroup(t *testing.T) {
	tree, err := Open("tero-cgroup-test")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := tree.Remove(context.WithoutCancel(t.Context())); err != nil {
			t.Error(err)
		}
	})
	pids := int64(5)
	g := tree.Plan("one", nil)
	if err := tree.Create(t.Context(), g, &specs.LinuxResources{Pids: &specs.LinuxPids{Limit: &pids}}); err != nil {
		t.Fatal(err)
	}
	if err := tree.Create(t.Context(), g, nil); err == nil {
		t.Error("made twice")
	}
	if err := tree.Create(t.Context(), g, nil); err != nil { // the failed one left nothing
		t.Fatal(err)
	}
	script := ""
	for _, dir := range g.Dirs {
		script += "echo 0 > " + filepath.Join(dir, "cgroup.procs") + "; "
	}
	cmd := exec.CommandContext(t.Context(), "sh", "-c", script+"echo in; exec cat")
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = in.Close() }()
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 3)
	if _, err := out.Read(buf); err != nil || !strings.HasPrefix(string(buf), "in") {
		t.Fatal(string(buf), err)
	}
	if empty, err := g.Empty(); err != nil || empty {
		t.Errorf("empty %v, %v", empty, err)
	}
	removed := make(chan error, 1)
	go func() { removed <- g.Remove(t.Context()) }()
	if err := cmd.Wait(); err == nil {
		t.Error("the process ended by itself")
	}
	if err := <-removed; err != nil {
		t.Error(err)
	}
	for _, dir := range g.Dirs {
		if _, err := os.Stat(dir); err == nil {
			t.Errorf("%s is left", dir)
		}
	}
	if err := g.Remove(t.Context()); err != nil {
		t.Errorf("second Remove: %v", err)
	}
}

// TestUpdate refuses the last of several limits: those before must be as they were.
func TestUpdate(t *testing.T) {
	tree, err := Open("tero-test-cgroup-update")
	if err != nil {
		t.Fatal(err)
	}
	ctx := context.WithoutCancel(t.Context())
	g := tree.Plan("one", nil)
	limits := func(memory, pids int64) *specs.LinuxResources {
		return &specs.LinuxResources{
			Memory: &specs.LinuxMemory{Limit: &memory, Swap: &memory}, Pids: &specs.LinuxPids{Limit: &pids},
		}
	}
	t.Cleanup(func() {
		if err := errors.Join(g.Remove(ctx), tree.Remove(ctx)); err != nil {
			t.Error(err)
		}
	})
	if err := tree.Create(t.Context(), g, limits(64<<20, 10)); err != nil {
		t.Fatal(err)
	}
	state := func() string {
		var all []string
		for _, dir := range g.Dirs {
			for _, file := range []string{"pids.max", "memory.limit_in_bytes", "memory.memsw.limit_in_bytes", "memory.max"} {
				if v, err := read(dir, file); err == nil {
					all = append(all, file+" "+v)
				}
			}
		}
		return strings.Join(all, "\n")
	}
	before := state()
	if err := tree.Update(t.Context(), g, limits(128<<20, 1<<40)); err == nil {
		t.Error("the kernel took a senseless limit of tasks")
	}
	if after := state(); after != before {
		t.Errorf("before\n%s\nafter a refusal\n%s", before, after)
	}
	for _, memory := range []int64{128 << 20, 32 << 20} {
		if err := tree.Update(t.Context(), g, limits(memory, 20)); err != nil {
			t.Fatal(err)
		}
		if after := state(); !strings.Contains(after, "pids.max 20") || !strings.Contains(after, strconv.FormatInt(memory, 10)) {
			t.Errorf("after the change to %d\n%s", memory, after)
		}
	}
}
