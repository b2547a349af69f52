package conformance

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
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
		"cpu": {"cpu.cfs_quota_us", "cpu.cfs_period_us", "cpu.shares"}, "devices": {"devices.list"},
		"cpuset": {"cpuset.cpus", "cpuset.mems"},
		"":       {"memory.max", "memory.swap.max", "pids.max", "cpu.max", "cpu.weight"},
	}
	for line := range strings.Lines(string(groups)) {
		f := strings.SplitN(strings.TrimSpace(line), ":", 3)
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
	return nil
}
