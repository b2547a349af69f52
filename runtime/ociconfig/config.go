// Package ociconfig turns an admitted spec and a verified image into the whole
// OCI runtime configuration. Equal inputs give equal bytes: nothing here knows
// the container's id, the time or the node, because the launch record binds the
// digest of the result.
//
// What a start adds is left out on purpose, and is the sandbox's: id mappings,
// the cgroup's path, addresses, the network namespace's path and where volumes
// are kept. A device is looked at, so that its numbers are bound too.
package ociconfig

import (
	"cmp"
	"errors"
	"io/fs"
	"slices"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"tero.internal/common/fault"
	"tero.internal/common/workload"
	"tero.internal/runtime/internal/landlock"
	"tero.internal/runtime/internal/seccomp"
)

// The limits on open files: the soft one is what select(2) can bear, the hard
// one what a node without CAP_SYS_RESOURCE can surely give.
const (
	softOpenFiles = 1024
	hardOpenFiles = 4096
)

// cpuPeriod is the CFS period in microseconds, the kernel's default.
const cpuPeriod = 100_000

// minMilliCPU is the least CPU share: the kernel takes no quota under 1 ms.
const minMilliCPU = 10

// Build gives the configuration of a launch. The spec must be complete
// (workload.Spec.Complete): nothing of image.Config is looked at any more; the
// layers are, to find the user.
func Build(spec workload.Spec, image workload.Image) (*specs.Spec, error) {
	return BuildOn(nil, spec, image)
}

// BuildOn is Build for a spec that names devices of a node.
func BuildOn(node Node, spec workload.Spec, image workload.Image) (*specs.Spec, error) {
	if err := spec.Validate(); err != nil {
		return nil, fault.New(fault.Invalid, "%w", err)
	}
	if len(spec.Args) == 0 {
		return nil, fault.New(fault.Invalid, "there is no command to run in %q", spec.Name).
			WithHint("give a command after the image name")
	}
	who, err := lookUp(spec.User, image)
	if err != nil {
		return nil, err
	}
	caps, err := capabilities(spec.CapAdd, who.user.UID)
	if err != nil {
		return nil, err
	}
	resources, err := limits(spec.Resources)
	if err != nil {
		return nil, err
	}
	config := &specs.Spec{
		Version:     specs.Version,
		Hostname:    hostname(spec),
		Annotations: annotations(spec),
		Process: &specs.Process{
			Terminal:        spec.Terminal,
			User:            who.user,
			Args:            slices.Clone(spec.Args),
			Env:             environment(spec.Env, who.home),
			Cwd:             workingDir(spec.WorkingDir),
			Capabilities:    caps,
			NoNewPrivileges: true,
			ApparmorProfile: spec.AppArmor,
			SelinuxLabel:    spec.SELinux,
			Rlimits: []specs.POSIXRlimit{
				{Type: "RLIMIT_CORE"}, // a core dump would hold the workload's secrets
				{Type: "RLIMIT_NOFILE", Soft: softOpenFiles, Hard: hardOpenFiles},
			},
		},
		Root:   &specs.Root{Path: "rootfs", Readonly: !spec.WritableRootfs},
		Mounts: mounts(spec.WritableRootfs),
		Linux: &specs.Linux{
			Namespaces: []specs.LinuxNamespace{
				{Type: specs.UserNamespace},
				{Type: specs.PIDNamespace},
				{Type: specs.MountNamespace},
				{Type: specs.NetworkNamespace},
				{Type: specs.IPCNamespace},
				{Type: specs.UTSNamespace},
				{Type: specs.CgroupNamespace},
			},
			// Any user may listen on port 80: the ports are the container's own.
			Sysctl:        map[string]string{"net.ipv4.ip_unprivileged_port_start": "0"},
			Resources:     resources,
			Seccomp:       seccomp.DefaultProfile(),
			MaskedPaths:   maskedPaths(),
			ReadonlyPaths: readonlyPaths(),
			MountLabel:    spec.FileContext(),
		},
	}
	if err := withGrants(config, spec, node); err != nil {
		return nil, err
	}
	return config, nil
}

// annotations holds what the OCI configuration has no field for.
func annotations(spec workload.Spec) map[string]string {
	if !spec.NoLandlock {
		return nil
	}
	return map[string]string{landlock.Annotation: landlock.Off}
}

// lookUp finds who the user is inside the image.
func lookUp(user string, image workload.Image) (identity, error) {
	if user == "" {
		user = "0:0"
	}
	files := make(map[string][]byte, 2)
	for _, name := range []string{"/etc/passwd", "/etc/group"} {
		b, err := readLayered(image.Layers, name)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return identity{}, fault.New(fault.Corrupt, "cannot find user %q in image %s: %w", user, image.Reference, err).
				WithHint("build the image with %s as a regular file", name)
		}
		files[name] = b
	}
	who, err := resolveUser(user, image.Reference, files["/etc/passwd"], files["/etc/group"])
	if err != nil {
		return identity{}, err
	}
	umask := uint32(0o022)
	who.user.Umask = &umask
	return who, nil
}

// environment completes env with HOME, which login would set.
func environment(env []string, home string) []string {
	out := slices.Clone(env)
	if slices.ContainsFunc(out, func(e string) bool { return strings.HasPrefix(e, "HOME=") }) {
		return out
	}
	if home == "" {
		home = "/"
	}
	return append(out, "HOME="+home)
}

func workingDir(dir string) string {
	if dir == "" {
		return "/"
	}
	return dir
}

func hostname(spec workload.Spec) string {
	if spec.Hostname == "" {
		return spec.Name
	}
	return spec.Hostname
}

// capabilities gives the sets for a process that keeps exactly the named ones.
// A user other than root can hold them over an exec only as ambient ones, which
// the kernel wants inheritable too; root's sets need neither (CVE-2022-24769).
func capabilities(add []string, uid uint32) (*specs.LinuxCapabilities, error) {
	var keep []string
	for _, name := range add {
		full := strings.ToUpper(name)
		if !strings.HasPrefix(full, "CAP_") {
			full = "CAP_" + full
		}
		if !slices.Contains(capabilityNames(), full) {
			return nil, fault.New(fault.Invalid, "capability %q does not exist", name).
				WithHint("name one of capabilities(7), such as CAP_NET_RAW; there is no ALL")
		}
		keep = append(keep, full)
	}
	slices.Sort(keep)
	keep = slices.Compact(keep)
	caps := &specs.LinuxCapabilities{Bounding: keep, Effective: keep, Permitted: keep}
	if uid != 0 {
		caps.Inheritable, caps.Ambient = keep, keep
	}
	return caps, nil
}

// limits gives the cgroup's limits. Memory and memory-with-swap are equal unless
// somebody wants otherwise, so that no container pages its neighbours out.
func limits(r workload.Resources) (*specs.LinuxResources, error) {
	out := &specs.LinuxResources{Devices: deviceRules()}
	if r.MilliCPU > 0 {
		if r.MilliCPU < minMilliCPU {
			return nil, fault.New(fault.Invalid, "CPU limit of %d thousandths of a core is under the least that the kernel takes, %d", r.MilliCPU, minMilliCPU).
				WithHint("give at least --cpus 0.01")
		}
		quota, period := r.MilliCPU*(cpuPeriod/1000), uint64(cpuPeriod)
		out.CPU = &specs.LinuxCPU{Quota: &quota, Period: &period}
	}
	if r.CPUShares > 0 || r.CPUSet != "" {
		if out.CPU == nil {
			out.CPU = &specs.LinuxCPU{}
		}
		out.CPU.Cpus = r.CPUSet
		if shares := uint64(r.CPUShares); shares > 0 { //nolint:gosec // Validate lets no negative number pass
			out.CPU.Shares = &shares
		}
	}
	if r.MemoryBytes > 0 || r.MemoryReservation > 0 {
		out.Memory = &specs.LinuxMemory{}
	}
	if limit := r.MemoryBytes; limit > 0 {
		swap := cmp.Or(r.MemorySwap, limit)
		out.Memory.Limit, out.Memory.Swap = &limit, &swap
	}
	if reservation := r.MemoryReservation; reservation > 0 {
		out.Memory.Reservation = &reservation
	}
	pids := r.Pids
	if pids == 0 {
		pids = workload.DefaultPids
	}
	out.Pids = &specs.LinuxPids{Limit: &pids}
	return out, nil
}
