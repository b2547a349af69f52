package workload

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"unicode"
)

// Ulimit is a limit of setrlimit(2).
type Ulimit struct {
	// Name is that of Docker and limits.conf(5): "nofile", "nproc".
	Name string `json:"name"`
	// Soft and Hard are in the limit's own unit; Unlimited for no limit.
	Soft int64 `json:"soft"`
	Hard int64 `json:"hard"`
}

// Unlimited is the value of a Ulimit without bounds.
const Unlimited = -1

// UlimitNames are the limits that a Ulimit can be about.
func UlimitNames() []string {
	return []string{
		"as", "core", "cpu", "data", "fsize", "locks", "memlock", "msgqueue", "nice", "nofile", "nproc", "rss", "rtprio",
		"rttime", "sigpending", "stack",
	}
}

func (u *Ulimit) validate() error {
	switch {
	case !slices.Contains(UlimitNames(), u.Name):
		return fmt.Errorf("ulimit %q is not one of %s", u.Name, strings.Join(UlimitNames(), ", "))
	case u.Soft < Unlimited || u.Hard < Unlimited:
		return fmt.Errorf("ulimit %s: %d:%d is negative; only -1 is, for no limit", u.Name, u.Soft, u.Hard)
	case u.Hard != Unlimited && (u.Soft == Unlimited || u.Soft > u.Hard):
		return fmt.Errorf("ulimit %s: the soft limit %d is above the hard limit %d", u.Name, u.Soft, u.Hard)
	}
	return nil
}

// IOLimit bounds what a container does to one block device, a second; 0 is no bound.
type IOLimit struct {
	// Device is its path on the node, below /dev and without symbolic links.
	Device    string `json:"device"`
	ReadBps   uint64 `json:"readBps,omitempty"`
	WriteBps  uint64 `json:"writeBps,omitempty"`
	ReadIOPS  uint64 `json:"readIops,omitempty"`
	WriteIOPS uint64 `json:"writeIops,omitempty"`
}

// Bounds of weights: those of the kernel's own files.
const (
	minCPUShares = 2
	maxCPUShares = 262144
	minIOWeight  = 10
	maxIOWeight  = 1000
	maxSysctls   = 64
	maxSysctl    = 4096
)

// cpuListPattern is the kernel's list of CPUs: "0-2,5".
var cpuListPattern = regexp.MustCompile(`^[0-9]{1,5}(-[0-9]{1,5})?(,[0-9]{1,5}(-[0-9]{1,5})?)*$`)

func (r *Resources) validate() error {
	for _, n := range []int64{r.MilliCPU, r.MemoryBytes, r.Pids, r.CPUShares, r.MemoryReservation, r.IOWeight} {
		if n < 0 {
			return fmt.Errorf("a resource limit is negative")
		}
	}
	if m := r.MemoryBytes; m > 0 && m < 4<<20 {
		return fmt.Errorf("memory limit of %d bytes is under the least that works, 4 MiB", m)
	}
	switch {
	case r.CPUShares != 0 && (r.CPUShares < minCPUShares || r.CPUShares > maxCPUShares):
		return fmt.Errorf("%d CPU shares are not %d to %d", r.CPUShares, minCPUShares, maxCPUShares)
	case r.CPUSet != "" && !cpuListPattern.MatchString(r.CPUSet):
		return fmt.Errorf("CPUs %q are not a list such as 0-2,5", r.CPUSet)
	case r.IOWeight != 0 && (r.IOWeight < minIOWeight || r.IOWeight > maxIOWeight):
		return fmt.Errorf("IO weight %d is not %d to %d", r.IOWeight, minIOWeight, maxIOWeight)
	case r.MemoryBytes > 0 && r.MemoryReservation > r.MemoryBytes:
		return fmt.Errorf("the memory reservation of %d bytes is above the limit of %d", r.MemoryReservation, r.MemoryBytes)
	case r.MemorySwap != 0 && r.MemoryBytes == 0:
		return fmt.Errorf("a limit of memory with swap needs a memory limit")
	case r.MemorySwap < Unlimited || r.MemorySwap > 0 && r.MemorySwap < r.MemoryBytes:
		return fmt.Errorf("the limit of memory with swap, %d bytes, is under the memory limit of %d", r.MemorySwap, r.MemoryBytes)
	}
	return r.validateIO()
}

func (r *Resources) validateIO() error {
	if len(r.IO) > maxDevices {
		return fmt.Errorf("limits of %d block devices are more than %d", len(r.IO), maxDevices)
	}
	seen := map[string]bool{}
	for _, l := range r.IO {
		if err := validatePath(l.Device); err != nil {
			return fmt.Errorf("IO limit: %w", err)
		}
		switch {
		case !strings.HasPrefix(l.Device, "/dev/"):
			return fmt.Errorf("IO limit: %s does not lie below /dev", l.Device)
		case seen[l.Device]:
			return fmt.Errorf("IO limit: %s is named twice", l.Device)
		case l.ReadBps == 0 && l.WriteBps == 0 && l.ReadIOPS == 0 && l.WriteIOPS == 0:
			return fmt.Errorf("IO limit: %s has no limit", l.Device)
		}
		seen[l.Device] = true
	}
	return nil
}

// sysctlPattern has neither "/" nor empty parts: the name becomes a path below /proc/sys.
var sysctlPattern = regexp.MustCompile(`^[a-z0-9_-]+(\.[a-z0-9_-]+)+$`)

// validateSysctl accepts the kernel parameters of the container's own network
// and ipc namespaces. All others are the node's.
func validateSysctl(name, value string) error {
	if len(name) > 255 || !sysctlPattern.MatchString(name) {
		return fmt.Errorf("kernel parameter %q is not a name such as net.core.somaxconn", name)
	}
	if len(value) > maxSysctl || value == "" || strings.ContainsFunc(value, func(r rune) bool { return unicode.IsControl(r) && r != '\t' }) {
		return fmt.Errorf("kernel parameter %s: %q is not a value", name, value)
	}
	for _, own := range []string{"net.", "kernel.shm", "kernel.msg", "fs.mqueue."} {
		if strings.HasPrefix(name, own) {
			return nil
		}
	}
	if name == "kernel.sem" {
		return nil
	}
	return fmt.Errorf("kernel parameter %s holds for the whole node, not for one container: "+
		"only net.*, kernel.shm*, kernel.msg*, kernel.sem and fs.mqueue.* belong to a container", name)
}

// validateLimits checks what bounds the container.
func (s *Spec) validateLimits() error {
	if err := s.Resources.validate(); err != nil {
		return err
	}
	if s.ShmBytes < 0 || s.ShmBytes > 0 && s.ShmBytes < 4096 {
		return fmt.Errorf("/dev/shm is to have %d bytes, less than a page", s.ShmBytes)
	}
	for i, u := range s.Ulimits {
		if err := u.validate(); err != nil {
			return err
		}
		if slices.ContainsFunc(s.Ulimits[:i], func(o Ulimit) bool { return o.Name == u.Name }) {
			return fmt.Errorf("ulimit %s is given twice", u.Name)
		}
	}
	if len(s.Sysctls) > maxSysctls {
		return fmt.Errorf("%d kernel parameters are more than %d", len(s.Sysctls), maxSysctls)
	}
	for name, value := range s.Sysctls {
		if err := validateSysctl(name, value); err != nil {
			return err
		}
	}
	return nil
}
