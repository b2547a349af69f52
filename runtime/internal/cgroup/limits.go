package cgroup

import (
	"bytes"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// UnavailableError is a limit that this machine cannot set.
type UnavailableError struct{ What, Reason string }

// Error says what is missing and why.
func (e *UnavailableError) Error() string { return e.What + " is not available here: " + e.Reason }

// onDemand are controllers whose v1 hierarchies a container enters only for a
// limit in them: each costs a folder and a system call of the start.
func onDemand() []string { return []string{"cpuset", "blkio"} }

// wantedBy tells whether a container with these limits must be in the hierarchy.
func (h *hierarchy) wantedBy(r *specs.LinuxResources) bool {
	if h.v2 {
		return true
	}
	for _, c := range wanted() {
		if h.has(c) && !slices.Contains(onDemand(), c) && c != "io" {
			return true
		}
	}
	return h.has("cpuset") && r.CPU != nil && r.CPU.Cpus != "" || h.has("io") && r.BlockIO != nil
}

// check tells which limit has no controller to hold it.
func (t *Tree) check(r *specs.LinuxResources) error {
	if r == nil {
		return nil
	}
	for _, need := range []struct {
		wanted           bool
		controller, what string
	}{
		{r.CPU != nil && (r.CPU.Quota != nil || r.CPU.Shares != nil), "cpu", "a limit or weight of CPU time"},
		{r.CPU != nil && r.CPU.Cpus != "", "cpuset", "a choice of CPUs"},
		{r.Memory != nil, "memory", "a limit of memory"},
		{r.Pids != nil && r.Pids.Limit != nil, "pids", "a limit of processes"},
		{r.BlockIO != nil, "io", "a limit or weight of block IO"},
	} {
		if need.wanted && !t.has(need.controller) {
			return &UnavailableError{What: need.what, Reason: "no mounted cgroup hierarchy has the controller " + need.controller}
		}
	}
	return nil
}

func (t *Tree) has(controller string) bool {
	for i := range t.hierarchies {
		if t.hierarchies[i].has(controller) {
			return true
		}
	}
	return false
}

// checkEntered tells which limit is one of a hierarchy that the group was made without.
func (t *Tree) checkEntered(g *Group, r *specs.LinuxResources) error {
	if err := t.check(r); err != nil || r == nil {
		return err
	}
	for i := range t.hierarchies {
		h := &t.hierarchies[i]
		in := slices.ContainsFunc(g.Dirs, func(dir string) bool { return filepath.Dir(dir) == h.dir })
		if !in && h.wantedBy(r) {
			return &UnavailableError{
				What: "the limit", Reason: "the container was started without one of its kind, in no cgroup of " + strings.Join(h.controllers, " and "),
			}
		}
	}
	return nil
}

// inheritCPUs gives a new v1 cpuset what its parent has: before that, no
// process can enter it.
func (h *hierarchy) inheritCPUs(dir string) error {
	if h.v2 || !h.has("cpuset") {
		return nil
	}
	for _, file := range []string{"cpuset.cpus", "cpuset.mems"} {
		own, err := os.ReadFile(filepath.Join(dir, file)) //nolint:gosec // a cgroup of ours
		if err != nil {
			return fmt.Errorf("make cgroup: %w", err)
		}
		if len(bytes.TrimSpace(own)) > 0 {
			continue
		}
		parent, err := os.ReadFile(filepath.Join(filepath.Dir(dir), file)) //nolint:gosec // as above
		if err != nil {
			return fmt.Errorf("make cgroup: %w", err)
		}
		if err := write(dir, file, string(bytes.TrimSpace(parent))); err != nil {
			return err
		}
	}
	return nil
}

func cpuSettings(v2 bool, c *specs.LinuxCPU) []setting {
	var list []setting
	if c.Shares != nil {
		list = append(list, sharesSetting(v2, *c.Shares))
	}
	if c.Quota == nil {
		return list
	}
	period := uint64(100_000)
	if c.Period != nil && *c.Period > 0 {
		period = *c.Period
	}
	p, q := strconv.FormatUint(period, 10), strconv.FormatInt(*c.Quota, 10)
	if v2 {
		if *c.Quota <= 0 {
			q = "max"
		}
		return append(list, setting{file: "cpu.max", value: q + " " + p})
	}
	return append(list, setting{file: "cpu.cfs_period_us", value: p}, setting{file: "cpu.cfs_quota_us", value: q})
}

func sharesSetting(v2 bool, shares uint64) setting {
	if !v2 {
		return setting{file: "cpu.shares", value: strconv.FormatUint(shares, 10)}
	}
	return setting{file: "cpu.weight", value: strconv.FormatUint(weightOfShares(shares), 10)}
}

// weightOfShares maps v1's 2 to 262144 to v2's 1 to 10000 so that both
// defaults, 1024 and 100, meet: the curve that runc and crun agreed on.
func weightOfShares(shares uint64) uint64 {
	switch {
	case shares <= 2:
		return 1
	case shares >= 262144:
		return 10000
	}
	l := math.Log2(float64(shares))
	return uint64(math.Ceil(math.Pow(10, (l*l+125*l)/612-7.0/34)))
}

func memorySettings(v2 bool, m *specs.LinuxMemory) []setting {
	var list []setting
	if m.Reservation != nil {
		file := "memory.soft_limit_in_bytes"
		if v2 {
			file = "memory.low"
		}
		list = append(list, setting{file: file, value: strconv.FormatInt(*m.Reservation, 10)})
	}
	if m.Limit == nil {
		return list
	}
	limit := setting{file: "memory.limit_in_bytes", value: strconv.FormatInt(*m.Limit, 10)}
	if v2 {
		limit.file = "memory.max"
		if *m.Limit < 0 {
			limit.value = "max"
		}
	}
	list = append(list, limit)
	if m.Swap == nil {
		return list
	}
	// To forbid swap where the kernel does not account it is no loss; any other
	// limit of swap must hold.
	swap := setting{file: "memory.memsw.limit_in_bytes", value: strconv.FormatInt(*m.Swap, 10), optional: *m.Swap == *m.Limit}
	if v2 { // v2 counts swap alone, OCI memory and swap together
		swap.file, swap.value = "memory.swap.max", strconv.FormatInt(max(*m.Swap-*m.Limit, 0), 10)
		if *m.Swap < 0 {
			swap.value = "max"
		}
	}
	return append(list, swap)
}

// ioSettings translates limits of block devices. v1's CFQ scheduler is gone
// from kernels since 5.0, and its weight with it: BFQ's has a file of its own.
func ioSettings(v2 bool, io *specs.LinuxBlockIO) []setting {
	var list []setting
	if io.Weight != nil && *io.Weight > 0 {
		raw := strconv.Itoa(int(*io.Weight))
		s := setting{file: "blkio.weight", value: raw, other: "blkio.bfq.weight", otherValue: raw}
		if v2 { // from 10 to 1000 to 1 to 10000
			s = setting{
				file: "io.bfq.weight", value: raw,
				other: "io.weight", otherValue: strconv.Itoa(1 + (int(*io.Weight)-10)*9999/990),
			}
		}
		list = append(list, s)
	}
	for _, kind := range []struct {
		devices []specs.LinuxThrottleDevice
		v1, v2  string
	}{
		{io.ThrottleReadBpsDevice, "blkio.throttle.read_bps_device", "rbps"},
		{io.ThrottleWriteBpsDevice, "blkio.throttle.write_bps_device", "wbps"},
		{io.ThrottleReadIOPSDevice, "blkio.throttle.read_iops_device", "riops"},
		{io.ThrottleWriteIOPSDevice, "blkio.throttle.write_iops_device", "wiops"},
	} {
		for _, d := range kind.devices {
			s := setting{file: kind.v1, value: fmt.Sprintf("%d:%d %d", d.Major, d.Minor, d.Rate)}
			if v2 {
				s = setting{file: "io.max", value: fmt.Sprintf("%d:%d %s=%d", d.Major, d.Minor, kind.v2, d.Rate)}
			}
			list = append(list, s)
		}
	}
	return list
}
