package doctor

import (
	"slices"
	"strconv"
	"strings"
)

// version is a kernel version, major and minor.
type version struct{ major, minor int }

// parseRelease reads the start of a kernel release ("6.18.44-vendor").
func parseRelease(release string) (version, bool) {
	first, rest, ok := strings.Cut(release, ".")
	if !ok {
		return version{}, false
	}
	end := strings.IndexFunc(rest, func(r rune) bool { return r < '0' || r > '9' })
	if end >= 0 {
		rest = rest[:end]
	}
	major, err1 := strconv.Atoi(first)
	minor, err2 := strconv.Atoi(rest)
	return version{major, minor}, err1 == nil && err2 == nil
}

func (v version) less(w version) bool {
	return v.major < w.major || v.major == w.major && v.minor < w.minor
}

// capabilityNames are the capabilities by number (linux/capability.h).
func capabilityNames() []string {
	return strings.Fields(`CAP_CHOWN CAP_DAC_OVERRIDE CAP_DAC_READ_SEARCH CAP_FOWNER CAP_FSETID CAP_KILL CAP_SETGID CAP_SETUID
CAP_SETPCAP CAP_LINUX_IMMUTABLE CAP_NET_BIND_SERVICE CAP_NET_BROADCAST CAP_NET_ADMIN CAP_NET_RAW CAP_IPC_LOCK CAP_IPC_OWNER
CAP_SYS_MODULE CAP_SYS_RAWIO CAP_SYS_CHROOT CAP_SYS_PTRACE CAP_SYS_PACCT CAP_SYS_ADMIN CAP_SYS_BOOT CAP_SYS_NICE
CAP_SYS_RESOURCE CAP_SYS_TIME CAP_SYS_TTY_CONFIG CAP_MKNOD CAP_LEASE CAP_AUDIT_WRITE CAP_AUDIT_CONTROL CAP_SETFCAP
CAP_MAC_OVERRIDE CAP_MAC_ADMIN CAP_SYSLOG CAP_WAKE_ALARM CAP_BLOCK_SUSPEND CAP_AUDIT_READ CAP_PERFMON CAP_BPF
CAP_CHECKPOINT_RESTORE`)
}

// missingCapabilities gives the names of those that a /proc/PID/status lacks in
// its effective set, up to the last that the kernel has.
func missingCapabilities(status string, last int) ([]string, bool) {
	for line := range strings.Lines(status) {
		hex, ok := strings.CutPrefix(line, "CapEff:")
		if !ok {
			continue
		}
		set, err := strconv.ParseUint(strings.TrimSpace(hex), 16, 64)
		if err != nil {
			return nil, false
		}
		var out []string
		for n, name := range capabilityNames() {
			if n <= last && set&(1<<n) == 0 {
				out = append(out, name)
			}
		}
		return out, true
	}
	return nil, false
}

// hierarchies is how a host has its cgroups mounted.
type hierarchies struct {
	// mode is v1, v2, hybrid or none.
	mode string
	// controllers are those of v1 hierarchies; the ones of v2 are in a file of it.
	controllers []string
	// unified is where v2 is mounted, or "".
	unified string
}

// parseHierarchies reads a mountinfo (proc_pid_mountinfo(5)).
func parseHierarchies(mountinfo string) hierarchies {
	known := []string{"cpuset", "cpu", "cpuacct", "blkio", "memory", "devices", "freezer", "net_cls", "perf_event", "net_prio", "hugetlb", "pids", "rdma", "misc"}
	h := hierarchies{mode: "none"}
	for line := range strings.Lines(mountinfo) {
		before, after, ok := strings.Cut(line, " - ")
		place, kind := strings.Fields(before), strings.Fields(after)
		if !ok || len(place) < 5 || len(kind) < 3 {
			continue
		}
		switch kind[0] {
		case "cgroup2":
			if h.unified == "" {
				h.unified = place[4]
			}
		case "cgroup":
			for option := range strings.SplitSeq(kind[2], ",") {
				if slices.Contains(known, option) && !slices.Contains(h.controllers, option) {
					h.controllers = append(h.controllers, option)
				}
			}
		}
	}
	slices.Sort(h.controllers)
	switch {
	case h.unified != "" && len(h.controllers) > 0:
		h.mode = "hybrid"
	case h.unified != "":
		h.mode = "v2"
	case len(h.controllers) > 0:
		h.mode = "v1"
	}
	return h
}

// unifiedPath gives the v2 cgroup of a /proc/PID/cgroup, or "".
func unifiedPath(cgroup string) string {
	for line := range strings.Lines(cgroup) {
		if path, ok := strings.CutPrefix(line, "0::"); ok {
			return strings.TrimSuffix(path, "\n")
		}
	}
	return ""
}

// bytesText gives a size for people.
func bytesText(n uint64) string {
	const units = "KMGTPE"
	if n < 1024 {
		return strconv.FormatUint(n, 10) + " B"
	}
	f, i := float64(n)/1024, 0
	for f >= 1024 && i < len(units)-1 {
		f, i = f/1024, i+1
	}
	return strconv.FormatFloat(f, 'f', 1, 64) + " " + units[i:i+1] + "iB"
}
