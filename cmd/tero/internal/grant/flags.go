package grant

import (
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/spf13/pflag"

	runtimev1 "tero.internal/api/runtime/v1"
	"tero.internal/cmd/tero/internal/render"
	"tero.internal/cmd/tero/internal/session"
	"tero.internal/common/fault"
)

// Flags are the flags of run that give a container something of its node, or
// limit what it takes.
type Flags struct {
	volumes, mounts, tmpfs, devices, ulimits, sysctls []string
	shm, reservation, swap                            string
	readBps, writeBps, readIOPS, writeIOPS            []string
	cpuShares, ioWeight                               int64
	cpuSet                                            string
	readOnly                                          bool
}

// Add adds the flags.
func (o *Flags) Add(f *pflag.FlagSet) {
	f.StringArrayVarP(&o.volumes, "volume", "v", nil, "SOURCE:TARGET[:ro,exec]: mount a path of the node, or a volume by its name")
	f.StringArrayVar(&o.mounts, "mount", nil, "type=bind|volume|tmpfs,source=..,target=..[,readonly][,exec][,tmpfs-size=..][,tmpfs-mode=..]")
	f.StringArrayVar(&o.tmpfs, "tmpfs", nil, "TARGET[:size=..,mode=..]: mount a file system in memory (256 MiB)")
	f.StringArrayVar(&o.devices, "device", nil, "/dev/NAME[:/dev/OTHER[:rwm]]: let it use a device of the node; loosens the sandbox")
	f.StringArrayVar(&o.ulimits, "ulimit", nil, "NAME=SOFT[:HARD], such as nofile=1024:4096")
	f.StringArrayVar(&o.sysctls, "sysctl", nil, "NAME=value of a kernel parameter of the container's own: net.*, kernel.shm*, kernel.msg*, kernel.sem, fs.mqueue.*")
	f.StringVar(&o.shm, "shm-size", "", "size of /dev/shm (64MiB)")
	f.Int64VarP(&o.cpuShares, "cpu-shares", "c", 0, "weight on busy CPUs, 2 to 262144 (1024)")
	f.StringVar(&o.cpuSet, "cpuset-cpus", "", "CPUs that it may use, such as 0-2,5")
	f.StringVar(&o.reservation, "memory-reservation", "", "memory that it keeps when the node runs short")
	f.StringVar(&o.swap, "memory-swap", "", "most memory and swap together; -1 for any (no swap)")
	f.Int64Var(&o.ioWeight, "blkio-weight", 0, "weight on busy disks, 10 to 1000")
	f.StringArrayVar(&o.readBps, "device-read-bps", nil, "DEVICE:RATE: most bytes read from a disk a second, such as /dev/sda:1m")
	f.StringArrayVar(&o.writeBps, "device-write-bps", nil, "DEVICE:RATE: most bytes written")
	f.StringArrayVar(&o.readIOPS, "device-read-iops", nil, "DEVICE:RATE: most reads a second")
	f.StringArrayVar(&o.writeIOPS, "device-write-iops", nil, "DEVICE:RATE: most writes a second")
	f.BoolVar(&o.readOnly, "read-only", false, "do not let it write to its file system, which is the default")
}

// Apply adds what the flags say to a spec.
func (o *Flags) Apply(spec *runtimev1.ContainerSpec) error {
	if o.readOnly && spec.GetWritableRootfs() {
		return fault.New(fault.Invalid, "--read-only and --writable exclude each other").WithHint("leave --read-only away: it is the default")
	}
	for _, apply := range []func(*runtimev1.ContainerSpec) error{o.applyMounts, o.applyProcess, o.applyLimits, o.applyIO} {
		if err := apply(spec); err != nil {
			return err
		}
	}
	return nil
}

func (o *Flags) applyMounts(spec *runtimev1.ContainerSpec) error {
	dir, err := os.Getwd()
	if err != nil {
		dir = "" // a relative path is refused by the node then
	}
	for _, list := range []struct {
		texts []string
		read  func(string) (*runtimev1.Mount, error)
	}{
		{o.volumes, func(s string) (*runtimev1.Mount, error) { return Volume(s, dir) }},
		{o.mounts, func(s string) (*runtimev1.Mount, error) { return Mount(s, dir) }},
		{o.tmpfs, Tmpfs},
	} {
		for _, text := range list.texts {
			m, err := list.read(text)
			if err != nil {
				return err
			}
			spec.Mounts = append(spec.Mounts, m)
		}
	}
	return nil
}

func (o *Flags) applyProcess(spec *runtimev1.ContainerSpec) (err error) {
	for _, text := range o.devices {
		d, err := Device(text)
		if err != nil {
			return err
		}
		spec.Devices = append(spec.Devices, d)
	}
	for _, text := range o.ulimits {
		u, err := Ulimit(text)
		if err != nil {
			return err
		}
		spec.Ulimits = append(spec.Ulimits, u)
	}
	spec.Sysctls, err = session.Pairs("--sysctl", o.sysctls)
	return err
}

func (o *Flags) applyLimits(spec *runtimev1.ContainerSpec) (err error) {
	spec.CpuShares, spec.CpuSet, spec.IoWeight = o.cpuShares, o.cpuSet, o.ioWeight
	if spec.ShmBytes, err = bytesOf("shm-size", o.shm); err != nil {
		return err
	}
	if spec.MemoryReservationBytes, err = bytesOf("memory-reservation", o.reservation); err != nil {
		return err
	}
	spec.MemorySwapBytes, err = swap(o.swap)
	return err
}

func (o *Flags) applyIO(spec *runtimev1.ContainerSpec) error {
	for _, list := range []struct {
		name  string
		texts []string
		bytes bool
		to    func(*runtimev1.IoLimit) *uint64
	}{
		{"device-read-bps", o.readBps, true, func(l *runtimev1.IoLimit) *uint64 { return &l.ReadBps }},
		{"device-write-bps", o.writeBps, true, func(l *runtimev1.IoLimit) *uint64 { return &l.WriteBps }},
		{"device-read-iops", o.readIOPS, false, func(l *runtimev1.IoLimit) *uint64 { return &l.ReadIops }},
		{"device-write-iops", o.writeIOPS, false, func(l *runtimev1.IoLimit) *uint64 { return &l.WriteIops }},
	} {
		for _, text := range list.texts {
			device, n, err := rate(list.name, text, list.bytes)
			if err != nil {
				return err
			}
			i := slices.IndexFunc(spec.GetIoLimits(), func(l *runtimev1.IoLimit) bool { return l.GetDevice() == device })
			if i < 0 {
				i = len(spec.GetIoLimits())
				spec.IoLimits = append(spec.IoLimits, &runtimev1.IoLimit{Device: device})
			}
			*list.to(spec.GetIoLimits()[i]) = n
		}
	}
	return nil
}

// Loosened names what a container was given that its sandbox would have kept
// from it.
func Loosened(spec *runtimev1.ContainerSpec) []string {
	var l []string
	for _, m := range spec.GetMounts() {
		access := ""
		if m.GetReadOnly() {
			access = ":ro"
		}
		switch m.GetType() {
		case runtimev1.Mount_TYPE_BIND:
			l = append(l, "bind "+m.GetSource()+access)
		case runtimev1.Mount_TYPE_VOLUME:
			l = append(l, "volume "+m.GetSource()+access)
		}
		if m.GetExec() && !m.GetReadOnly() {
			l = append(l, "exec "+m.GetTarget())
		}
	}
	for _, d := range spec.GetDevices() {
		l = append(l, "device "+d.GetSource()+":"+d.GetAccess())
	}
	for _, name := range sorted(spec.GetSysctls()) {
		l = append(l, "sysctl "+name)
	}
	for _, u := range spec.GetUlimits() {
		l = append(l, "ulimit "+u.GetName())
	}
	return l
}

// Limits tells the limits that Apply sets.
func Limits(spec *runtimev1.ContainerSpec) []string {
	var l []string
	add := func(set bool, format string, args ...any) {
		if set {
			l = append(l, fmt.Sprintf(format, args...))
		}
	}
	add(spec.GetCpuShares() > 0, "%d CPU shares", spec.GetCpuShares())
	add(spec.GetCpuSet() != "", "CPUs %s", spec.GetCpuSet())
	add(spec.GetMemoryReservationBytes() > 0, "%s reserved", render.Size(spec.GetMemoryReservationBytes()))
	add(spec.GetMemorySwapBytes() > 0, "%s memory and swap", render.Size(spec.GetMemorySwapBytes()))
	add(spec.GetMemorySwapBytes() < 0, "any swap")
	add(spec.GetShmBytes() > 0, "%s in /dev/shm", render.Size(spec.GetShmBytes()))
	add(spec.GetIoWeight() > 0, "IO weight %d", spec.GetIoWeight())
	for _, d := range spec.GetIoLimits() {
		for _, r := range []struct {
			what string
			n    uint64
		}{{"bytes read", d.GetReadBps()}, {"bytes written", d.GetWriteBps()}, {"reads", d.GetReadIops()}, {"writes", d.GetWriteIops()}} {
			add(r.n > 0, "%s %d %s a second", d.GetDevice(), r.n, r.what)
		}
	}
	return l
}

func sorted(m map[string]string) []string {
	var names []string
	for k := range m {
		names = append(names, k)
	}
	slices.SortFunc(names, strings.Compare)
	return names
}
