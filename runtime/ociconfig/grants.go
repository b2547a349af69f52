package ociconfig

import (
	"cmp"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"tero.internal/common/fault"
	"tero.internal/common/workload"
)

// TypeVolume is the type of a mount whose source is the name of a volume. Where
// a node keeps the volume is no part of what is measured.
const TypeVolume = "volume"

// OptionOwn marks a mount that somebody asked for, as mount(8) leaves it to
// programs by the prefix x-: its mount point must not be a symbolic link or
// lie behind one, which the image or a neighbour with the same volume may have
// put there.
const OptionOwn = "x-tero.own"

// Node is what of the node a configuration needs to know.
type Node interface {
	// Device looks at a device of the node.
	Device(path string) (*specs.LinuxDevice, error)
}

// withGrants adds what the spec asks for beside its image. Mounts come after
// those that every container has, parents before what is mounted in them.
func withGrants(config *specs.Spec, spec workload.Spec, node Node) error {
	own := slices.SortedFunc(slices.Values(spec.Mounts), func(a, b workload.Mount) int { return cmp.Compare(a.Target, b.Target) })
	for _, m := range own {
		config.Mounts = slices.DeleteFunc(config.Mounts, func(o specs.Mount) bool { return o.Destination == m.Target })
		config.Mounts = append(config.Mounts, mount(m))
	}
	for i := range config.Mounts {
		if m := &config.Mounts[i]; m.Destination == "/dev/shm" && spec.ShmBytes > 0 {
			m.Options = slices.Clone(m.Options)
			m.Options[slices.Index(m.Options, "size=64m")] = fmt.Sprintf("size=%d", spec.ShmBytes)
		}
	}
	maps.Copy(config.Linux.Sysctl, spec.Sysctls)
	config.Process.Rlimits = rlimits(config.Process.Rlimits, spec.Ulimits)
	for _, d := range spec.Devices {
		if err := addDevice(config, d, node); err != nil {
			return err
		}
	}
	return addBlockIO(config.Linux.Resources, spec.Resources, node)
}

// mount gives the mount of a spec. What can be written cannot be executed,
// unless somebody wants it so.
func mount(m workload.Mount) specs.Mount {
	options := []string{OptionOwn, "nosuid", "nodev"}
	if m.ReadOnly {
		options = append(options, "ro")
	} else if !m.Exec {
		options = append(options, "noexec")
	}
	out := specs.Mount{Destination: m.Target, Type: string(m.Type), Source: m.Source}
	switch m.Type {
	case workload.MountTmpfs:
		size, mode := cmp.Or(m.SizeBytes, workload.DefaultTmpfsBytes), cmp.Or(m.Mode, 0o1777)
		out.Source = "tmpfs"
		options = append(options, fmt.Sprintf("mode=%o", mode), fmt.Sprintf("size=%d", size))
	case workload.MountBind:
		options = append(options, "bind", "idmap")
	case workload.MountVolume:
		options = append(options, "idmap")
	}
	out.Options = options
	return out
}

// rlimits lays a spec's limits over those that every container has.
func rlimits(all []specs.POSIXRlimit, own []workload.Ulimit) []specs.POSIXRlimit {
	value := func(v int64) uint64 {
		if v == workload.Unlimited {
			return math.MaxUint64
		}
		return uint64(v) //nolint:gosec // Validate lets no other negative number pass
	}
	for _, u := range own {
		l := specs.POSIXRlimit{Type: "RLIMIT_" + strings.ToUpper(u.Name), Soft: value(u.Soft), Hard: value(u.Hard)}
		if i := slices.IndexFunc(all, func(o specs.POSIXRlimit) bool { return o.Type == l.Type }); i >= 0 {
			all[i] = l
			continue
		}
		all = append(all, l)
	}
	return all
}

// addDevice gives the container a device: a node, as a mount whose source the
// node makes, and the cgroup's leave to use it.
func addDevice(config *specs.Spec, d workload.Device, node Node) error {
	device, err := look(node, d.Source)
	if err != nil {
		return err
	}
	device.Path = d.Target
	config.Linux.Devices = append(config.Linux.Devices, *device)
	config.Linux.Resources.Devices = append(config.Linux.Resources.Devices, specs.LinuxDeviceCgroup{
		Allow: true, Type: device.Type, Major: &device.Major, Minor: &device.Minor, Access: d.Access,
	})
	options := []string{OptionOwn, "bind", "nosuid", "noexec"}
	if !strings.Contains(d.Access, "w") {
		options = append(options, "ro")
	}
	config.Mounts = append(config.Mounts, specs.Mount{Destination: d.Target, Type: "bind", Source: d.Source, Options: options})
	return nil
}

func look(node Node, path string) (*specs.LinuxDevice, error) {
	if node == nil {
		return nil, fault.New(fault.Unsupported, "device %s cannot be looked at here", path)
	}
	return node.Device(path)
}

// addBlockIO adds limits of block devices.
func addBlockIO(r *specs.LinuxResources, want workload.Resources, node Node) error {
	if want.IOWeight == 0 && len(want.IO) == 0 {
		return nil
	}
	r.BlockIO = &specs.LinuxBlockIO{}
	if want.IOWeight > 0 {
		weight := uint16(want.IOWeight) //nolint:gosec // at most 1000
		r.BlockIO.Weight = &weight
	}
	for _, l := range want.IO {
		device, err := look(node, l.Device)
		if err != nil {
			return err
		}
		if device.Type != "b" {
			return fault.New(fault.Invalid, "IO limit: %s is not a block device", l.Device).WithHint("\"lsblk -p\" lists them")
		}
		add := func(list *[]specs.LinuxThrottleDevice, rate uint64) {
			if rate > 0 {
				t := specs.LinuxThrottleDevice{Rate: rate}
				t.Major, t.Minor = device.Major, device.Minor
				*list = append(*list, t)
			}
		}
		add(&r.BlockIO.ThrottleReadBpsDevice, l.ReadBps)
		add(&r.BlockIO.ThrottleWriteBpsDevice, l.WriteBps)
		add(&r.BlockIO.ThrottleReadIOPSDevice, l.ReadIOPS)
		add(&r.BlockIO.ThrottleWriteIOPSDevice, l.WriteIOPS)
	}
	return nil
}
