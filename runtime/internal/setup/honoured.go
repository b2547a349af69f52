package setup

import (
	"errors"
	"path/filepath"
	"reflect"
	"slices"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"tero.internal/common/fault"
	"tero.internal/runtime/internal/lsm"
)

// honoured tells whether the native class does what a field of the OCI
// configuration says; fields go by their path in config.json. A field that is
// not named here is refused when it is set: what a new version of the
// specification adds is an answer and not a surprise.
//
// Annotations are for others, as the specification wants it. Some values of
// honoured fields are refused too, see Check.
func honoured(path string) bool {
	switch path {
	case "ociVersion", "root.path", "root.readonly", "hostname", "domainname", "annotations",
		"process.terminal", "process.consoleSize", "process.args", "process.env", "process.cwd",
		"process.user.uid", "process.user.gid", "process.user.umask", "process.user.additionalGids",
		"process.capabilities", "process.rlimits", "process.noNewPrivileges", "process.oomScoreAdj", "process.ioPriority",
		"process.apparmorProfile", "process.selinuxLabel", "linux.mountLabel",
		"mounts.destination", "mounts.type", "mounts.source", "mounts.options",
		"linux.namespaces", "linux.sysctl", "linux.maskedPaths", "linux.readonlyPaths", "linux.rootfsPropagation",
		"linux.personality.domain",
		"linux.seccomp.defaultAction", "linux.seccomp.defaultErrnoRet", "linux.seccomp.architectures",
		"linux.seccomp.flags", "linux.seccomp.syscalls", "linux.seccomp.listenerPath", // the compiler refuses listeners
		"linux.resources.devices", "linux.resources.memory.limit", "linux.resources.memory.swap",
		"linux.resources.memory.reservation", "linux.resources.cpu.quota", "linux.resources.cpu.period",
		"linux.resources.cpu.shares", "linux.resources.cpu.cpus", "linux.resources.pids.limit",
		"linux.resources.blockIO.weight", "linux.resources.blockIO.throttleReadBpsDevice",
		"linux.resources.blockIO.throttleWriteBpsDevice", "linux.resources.blockIO.throttleReadIOPSDevice",
		"linux.resources.blockIO.throttleWriteIOPSDevice",
		"linux.devices": // those that a mount makes, see Check
		return true
	}
	return false
}

// Check refuses a configuration that asks for what the native class does not do.
func Check(config *specs.Spec) error {
	if path := unknown(reflect.ValueOf(config).Elem(), ""); path != "" {
		return fault.New(fault.Unsupported, "the configuration sets %q, which the native class does not do", path).
			WithHint("leave it out")
	}
	if err := checkStrings(config); err != nil {
		return err
	}
	switch {
	case !strings.HasPrefix(config.Version, "1."):
		return fault.New(fault.Unsupported, "the configuration is of version %q of the OCI specification", config.Version).
			WithHint("write one of version 1")
	case !slices.Contains([]string{"", "private", "rprivate", "slave", "rslave"}, config.Linux.RootfsPropagation):
		// A slave root would let mounts of the host in; ours has no way in or out.
		return fault.New(fault.Unsupported, "mount propagation %q of the root file system would reach into the host", config.Linux.RootfsPropagation).
			WithHint("use \"private\"")
	}
	for _, ns := range config.Linux.Namespaces {
		if ns.Path != "" {
			return fault.New(fault.Unsupported, "joining the %s namespace %s is not supported", ns.Type, ns.Path).
				WithHint("leave the path out: the container gets one of its own")
		}
		if !slices.Contains(namespaceTypes(), ns.Type) {
			return fault.New(fault.Unsupported, "the native class makes no %q namespaces", ns.Type).WithHint("leave it out")
		}
	}
	if p := config.Linux.Personality; p != nil && p.Domain != specs.PerLinux && p.Domain != specs.PerLinux32 {
		return fault.New(fault.Invalid, "there is no personality %q", p.Domain).WithHint("use %q or %q", specs.PerLinux, specs.PerLinux32)
	}
	if p := config.Process.IOPriority; p != nil {
		if _, ok := priorityClass(p.Class); !ok || p.Priority < 0 || p.Priority > 7 {
			return fault.New(fault.Invalid, "there is no I/O priority %q %d", p.Class, p.Priority).
				WithHint("use %q or %q with 0 to 7", specs.IOPRIO_CLASS_BE, specs.IOPRIO_CLASS_IDLE)
		}
	}
	if a := config.Process.OOMScoreAdj; a != nil && (*a < -1000 || *a > 1000) {
		return fault.New(fault.Invalid, "oomScoreAdj %d is not between -1000 and 1000", *a).WithHint("choose one from 0 to 1000")
	}
	if r := config.Linux.Resources; r != nil && r.Memory != nil && r.Memory.Swap != nil && r.Memory.Limit == nil {
		return fault.New(fault.Invalid, "a limit of memory and swap needs one of memory").WithHint("set both")
	}
	for _, d := range config.Linux.Devices {
		if !slices.ContainsFunc(config.Mounts, func(m specs.Mount) bool { return m.Type == "bind" && m.Destination == d.Path }) {
			return fault.New(fault.Unsupported, "the configuration sets \"linux.devices\" with %s, and no mount makes it", d.Path).
				WithHint("add a bind mount of the node's device on that path")
		}
	}
	if err := errors.Join(checkMounts(config.Mounts), checkLimits(config.Process.Rlimits)); err != nil {
		return err
	}
	if err := lsm.Check(config); err != nil {
		return err
	}
	_, err := filterFlags(config.Linux.Seccomp)
	return err
}

// unknown gives the path of a field that is set and not honoured, or "".
func unknown(v reflect.Value, prefix string) string {
	switch v.Kind() {
	case reflect.Pointer:
		return unknown(v.Elem(), prefix)
	case reflect.Slice:
		for i := range v.Len() {
			if path := unknown(v.Index(i), prefix); path != "" {
				return path
			}
		}
		return ""
	case reflect.Struct:
	case reflect.Bool:
		if !v.Bool() {
			return "" // asks for nothing, set or not
		}
		return prefix
	default:
		return prefix
	}
	for i := range v.NumField() {
		field, value := v.Type().Field(i), v.Field(i)
		if !isSet(value) {
			continue
		}
		path, _, _ := strings.Cut(field.Tag.Get("json"), ",")
		if prefix != "" {
			path = prefix + "." + path
		}
		if honoured(path) {
			continue
		}
		if path := unknown(value, path); path != "" {
			return path
		}
	}
	return ""
}

// isSet tells whether a field says anything.
func isSet(v reflect.Value) bool {
	switch v.Kind() {
	case reflect.Slice, reflect.Map:
		return v.Len() > 0
	default:
		return !v.IsZero()
	}
}

// checkStrings refuses what the kernel would take for the end of a string.
func checkStrings(config *specs.Spec) error {
	lists := [][]string{
		config.Process.Args, config.Process.Env,
		{config.Process.Cwd, config.Hostname, config.Domainname},
		config.Linux.MaskedPaths, config.Linux.ReadonlyPaths,
	}
	for i := range config.Mounts {
		m := &config.Mounts[i]
		lists = append(lists, []string{m.Destination, m.Source, m.Type}, m.Options)
	}
	for k, v := range config.Linux.Sysctl {
		lists = append(lists, []string{k, v})
	}
	for _, list := range lists {
		for _, s := range list {
			if strings.IndexByte(s, 0) >= 0 {
				return fault.New(fault.Invalid, "the configuration has a zero byte in %q", s).WithHint("take it out")
			}
		}
	}
	return nil
}

// checkMounts refuses mounts that would take the place of what confines the
// container: its /proc, whose paths are masked and which parameters are set through.
func checkMounts(mounts []specs.Mount) error {
	for i := range mounts {
		m := &mounts[i]
		switch d := filepath.Clean(m.Destination); {
		case !filepath.IsAbs(m.Destination):
			return fault.New(fault.Invalid, "mount point %q is not an absolute path", m.Destination).WithHint("begin it with a slash")
		case d == "/":
			return fault.New(fault.Invalid, "a mount on / would hide the image").WithHint("choose a folder below it")
		case d == "/proc" && m.Type != "proc", strings.HasPrefix(d, "/proc/"):
			return fault.New(fault.Invalid, "a mount on %s would hide what confines the container", d).
				WithHint("choose a folder that is not /proc or below it")
		}
	}
	return nil
}

// checkLimits refuses resource limits that the kernel would, or that are not known.
func checkLimits(limits []specs.POSIXRlimit) error {
	for i, l := range limits {
		if _, ok := limitNumber(l.Type); !ok {
			return fault.New(fault.Invalid, "there is no resource limit %q", l.Type).WithHint("name one of getrlimit(2), such as RLIMIT_NOFILE")
		}
		if l.Soft > l.Hard {
			return fault.New(fault.Invalid, "the soft limit %d of %s is over the hard one, %d", l.Soft, l.Type, l.Hard).WithHint("lower the first, or raise the second")
		}
		if slices.ContainsFunc(limits[:i], func(o specs.POSIXRlimit) bool { return o.Type == l.Type }) {
			return fault.New(fault.Invalid, "the configuration sets %s twice", l.Type).WithHint("leave one out")
		}
	}
	return nil
}

// namespaceTypes are the namespaces that containers can have of their own.
func namespaceTypes() []specs.LinuxNamespaceType {
	return []specs.LinuxNamespaceType{
		specs.UserNamespace, specs.PIDNamespace, specs.MountNamespace, specs.NetworkNamespace, specs.IPCNamespace,
		specs.UTSNamespace, specs.CgroupNamespace,
	}
}

// filterFlags gives the flags of seccomp(2) that a profile asks for.
func filterFlags(profile *specs.LinuxSeccomp) (uint64, error) {
	var flags uint64
	if profile == nil {
		return 0, nil
	}
	for _, f := range profile.Flags {
		switch f {
		case specs.LinuxSeccompFlagLog:
			flags |= unix.SECCOMP_FILTER_FLAG_LOG
		case specs.LinuxSeccompFlagSpecAllow:
			flags |= unix.SECCOMP_FILTER_FLAG_SPEC_ALLOW
		case "SECCOMP_FILTER_FLAG_TSYNC": // there is one thread
		default:
			return 0, fault.New(fault.Unsupported, "the seccomp profile has the flag %q, which the native class does not do", f).
				WithHint("leave it out")
		}
	}
	return flags, nil
}
