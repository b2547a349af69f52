package conformance

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// bundle is one configuration that all contestants run.
type bundle struct {
	name string
	// args are the command; "/probe look" when nil.
	args []string
	// change makes the configuration differ from TERO's own.
	change func(*specs.Spec)
	// want is the outcome that TERO must have, when that is not just the peers'.
	want string
	// silent bundles print nothing although they run.
	silent bool

	config *specs.Spec
}

func (b *bundle) hold() bool { return len(b.args) > 1 && b.args[1] == "hold" }

// hold makes the probe wait until the host has looked at the cgroup.
func hold() []string { return []string{"/probe", "hold"} }

// paths are what the probe tries to read and write.
func paths(c *specs.Spec) []string {
	list := slices.Concat(c.Linux.MaskedPaths, c.Linux.ReadonlyPaths, []string{
		"/proc/kcore", "/proc/keys", "/proc/interrupts", "/proc/timer_list", "/proc/acpi", "/proc/sys/kernel/core_pattern",
		"/proc/sys/vm/drop_caches", "/proc/sysrq-trigger", "/sys/firmware", "/sys/kernel/uevent_helper", "/sys/fs/cgroup",
		"/sys/kernel/debug", "/sys/module", "/data", "/data/file", "/closed", "/etc", "/etc/passwd", "/tmp", "/run", "/dev/shm",
	})
	for _, m := range c.Mounts {
		if d := filepath.Clean(m.Destination); d != "/proc" && d != "/sys" && d != "/dev" && d != "/dev/pts" {
			list = append(list, d)
		}
	}
	slices.Sort(list)
	return slices.Compact(list)
}

// bundles gives them all, dimension by dimension. dir is for files of the host.
func bundles(dir string) []bundle {
	return slices.Concat(
		[]bundle{{name: "default", args: hold()}},
		users(), capabilitySets(), privileges(), mountKinds(dir), pathRestrictions(), limitKinds(), resources(),
		filters(), environments(), commands(), hosts(), terminals(), namespaces(), processes(), exits(), refusals(),
	)
}

func users() []bundle {
	user := func(name string, u specs.User) bundle {
		return bundle{name: "user " + name, change: func(c *specs.Spec) { c.Process.User = u }}
	}
	umask := func(m uint32) *uint32 { return &m }
	many := make([]uint32, 40)
	for i := range many {
		many[i] = uint32(3000 + i)
	}
	return []bundle{
		user("1000:1000", specs.User{UID: 1000, GID: 1000}),
		user("1000:0", specs.User{UID: 1000}),
		user("0:1000", specs.User{GID: 1000}),
		user("nobody", specs.User{UID: 65534, GID: 65534}),
		user("with groups", specs.User{UID: 1000, GID: 1000, AdditionalGids: []uint32{5, 6, 1000, 60000}}),
		user("root with groups", specs.User{AdditionalGids: []uint32{10, 20}}),
		user("with 40 groups", specs.User{UID: 7, GID: 8, AdditionalGids: many}),
		user("umask 000", specs.User{Umask: umask(0)}),
		user("umask 077", specs.User{UID: 1000, GID: 1000, Umask: umask(0o077)}),
		user("umask not given", specs.User{}),
		{name: "user beyond the ids", change: func(c *specs.Spec) { c.Process.User.UID = 70_000 }, want: "refused"},
	}
}

// all are the capabilities that every peer knows.
func all() []string {
	return strings.Fields(`CAP_CHOWN CAP_DAC_OVERRIDE CAP_DAC_READ_SEARCH CAP_FOWNER CAP_FSETID CAP_KILL CAP_SETGID CAP_SETUID
		CAP_SETPCAP CAP_LINUX_IMMUTABLE CAP_NET_BIND_SERVICE CAP_NET_BROADCAST CAP_NET_ADMIN CAP_NET_RAW CAP_IPC_LOCK CAP_IPC_OWNER
		CAP_SYS_MODULE CAP_SYS_RAWIO CAP_SYS_CHROOT CAP_SYS_PTRACE CAP_SYS_PACCT CAP_SYS_ADMIN CAP_SYS_BOOT CAP_SYS_NICE
		CAP_SYS_RESOURCE CAP_SYS_TIME CAP_SYS_TTY_CONFIG CAP_MKNOD CAP_LEASE CAP_AUDIT_WRITE CAP_AUDIT_CONTROL CAP_SETFCAP
		CAP_MAC_OVERRIDE CAP_MAC_ADMIN CAP_SYSLOG CAP_WAKE_ALARM CAP_BLOCK_SUSPEND CAP_AUDIT_READ CAP_PERFMON CAP_BPF
		CAP_CHECKPOINT_RESTORE`)
}

// docker are the capabilities that Docker leaves to containers.
func docker() []string {
	return strings.Fields(`CAP_CHOWN CAP_DAC_OVERRIDE CAP_FSETID CAP_FOWNER CAP_MKNOD CAP_NET_RAW CAP_SETGID CAP_SETUID
		CAP_SETFCAP CAP_SETPCAP CAP_NET_BIND_SERVICE CAP_SYS_CHROOT CAP_KILL CAP_AUDIT_WRITE`)
}

func capabilitySets() []bundle {
	sets := func(name string, uid uint32, bounding, effective, permitted, inheritable, ambient []string) bundle {
		return bundle{name: "capabilities " + name, change: func(c *specs.Spec) {
			c.Process.User.UID = uid
			c.Process.Capabilities = &specs.LinuxCapabilities{
				Bounding: bounding, Effective: effective, Permitted: permitted, Inheritable: inheritable, Ambient: ambient,
			}
		}}
	}
	raw, d := []string{"CAP_NET_RAW"}, docker()
	return []bundle{
		sets("not given", 0, nil, nil, nil, nil, nil),
		sets("one", 0, raw, raw, raw, nil, nil),
		sets("one of a user", 1000, raw, raw, raw, raw, raw),
		sets("one of a user without ambient", 1000, raw, raw, raw, nil, nil),
		sets("docker's", 0, d, d, d, nil, nil),
		sets("docker's of a user", 1000, d, d, d, d, d),
		sets("bounding alone", 0, d, nil, nil, nil, nil),
		sets("bounding alone of a user", 1000, d, nil, nil, nil, nil),
		sets("permitted but not effective", 1000, d, raw, d, d, raw),
		sets("inheritable", 0, d, d, d, d, nil),
		sets("all", 0, all(), all(), all(), nil, nil),
		sets("all of a user", 1000, all(), all(), all(), all(), all()),
	}
}

func privileges() []bundle {
	change := func(uid uint32, caps []string, nnp bool, profile *specs.LinuxSeccomp) func(*specs.Spec) {
		return func(c *specs.Spec) {
			c.Process.User.UID, c.Process.NoNewPrivileges = uid, nnp
			c.Process.Capabilities = &specs.LinuxCapabilities{Bounding: caps, Effective: caps, Permitted: caps}
			if profile == nil {
				c.Linux.Seccomp = nil
			}
		}
	}
	keep := &specs.LinuxSeccomp{}
	return []bundle{
		{name: "new privileges allowed", change: change(0, nil, false, keep)},
		{name: "new privileges allowed to a user", change: change(1000, nil, false, keep)},
		{name: "new privileges and docker's capabilities", change: change(0, docker(), false, keep)},
		{name: "no filter", change: change(0, nil, true, nil)},
		{name: "no filter, all capabilities", change: change(0, all(), true, nil)},
		{name: "no filter, all capabilities, new privileges", change: change(0, all(), false, nil)},
	}
}

// mount adds mounts.
func mount(name string, list ...specs.Mount) bundle {
	return bundle{name: "mount " + name, change: func(c *specs.Spec) { c.Mounts = append(c.Mounts, list...) }}
}

func mountKinds(dir string) []bundle {
	host := filepath.Join(dir, "host")
	for _, d := range []string{host, filepath.Join(host, "below")} {
		_ = os.MkdirAll(d, 0o755)
		_ = os.Chmod(d, 0o777) // the containers' ids differ, so all are others
	}
	file := filepath.Join(host, "file")
	_ = os.WriteFile(file, []byte("of the host\n"), 0o644)
	bind := func(source, destination string, options ...string) specs.Mount {
		return specs.Mount{Destination: destination, Type: "bind", Source: source, Options: append([]string{"bind"}, options...)}
	}
	tmpfs := func(destination string, options ...string) specs.Mount {
		return specs.Mount{Destination: destination, Type: "tmpfs", Source: "tmpfs", Options: options}
	}
	without := func(destination string) func(*specs.Spec) {
		return func(c *specs.Spec) {
			c.Mounts = slices.DeleteFunc(c.Mounts, func(m specs.Mount) bool { return m.Destination == destination })
		}
	}
	return []bundle{
		mount("tmpfs with size", tmpfs("/mnt", "size=128k", "mode=0700")),
		mount("tmpfs read-only", tmpfs("/mnt", "ro", "nosuid", "nodev", "noexec", "size=64k")),
		mount("tmpfs without options", tmpfs("/mnt", "size=64k")),
		mount("tmpfs below tmpfs", tmpfs("/mnt", "size=64k", "mode=755"), tmpfs("/mnt/a/b", "size=64k", "ro")),
		mount("tmpfs that executes", tmpfs("/tmp", "nosuid", "nodev", "exec", "mode=1777", "size=16m")),
		mount("tmpfs on a folder that is missing", tmpfs("/new/folder", "size=64k")),
		mount("bind read-only", bind(host, "/mnt", "ro", "nosuid", "nodev", "noexec")),
		mount("bind", bind(host, "/mnt")),
		mount("bind noexec", bind(host, "/mnt", "noexec", "nosuid")),
		mount("bind nosymfollow", bind(host, "/mnt", "nosymfollow")),
		mount("bind of a file", bind(file, "/etc/passwd", "ro")),
		mount("bind of a file that is missing inside", bind(file, "/etc/extra", "ro")),
		mount("bind below tmpfs", tmpfs("/mnt", "size=64k", "mode=755"), bind(host, "/mnt/below", "ro")),
		mount("through a link", bind(host, "/link", "ro")),
		mount("through a link that climbs", bind(host, "/climb", "ro")),
		mount("with dots", tmpfs("/mnt/../work/./", "size=64k")),
		mount("bind with a folder's id map", bind(host, "/mnt", "idmap", "ro")),
		mount("noatime", tmpfs("/mnt", "noatime", "size=64k"), tmpfs("/work", "nodiratime", "size=64k")),
		{name: "no /dev/shm", change: without("/dev/shm")},
		{name: "no /tmp", change: without("/tmp")},
		{name: "root writable", change: func(c *specs.Spec) {
			c.Root.Readonly = false
			without("/tmp")(c)
			without("/run")(c)
		}},
		{name: "root writable for a user", change: func(c *specs.Spec) { c.Root.Readonly, c.Process.User.UID = false, 1000 }},
	}
}

func pathRestrictions() []bundle {
	paths := func(name string, masked, readonly []string) bundle {
		return bundle{name: "paths " + name, change: func(c *specs.Spec) {
			c.Linux.MaskedPaths, c.Linux.ReadonlyPaths = masked, readonly
			if masked == nil && readonly == nil {
				return
			}
			c.Mounts = append(c.Mounts, specs.Mount{Destination: "/mnt", Type: "tmpfs", Source: "tmpfs", Options: []string{"size=64k"}})
		}}
	}
	return []bundle{
		paths("none", nil, nil),
		paths("docker's", strings.Fields("/proc/asound /proc/acpi /proc/kcore /proc/keys /proc/latency_stats /proc/timer_list /proc/timer_stats /proc/sched_debug /proc/scsi /sys/firmware"),
			strings.Fields("/proc/bus /proc/fs /proc/irq /proc/sys /proc/sysrq-trigger")),
		paths("of files and folders", []string{"/data", "/etc/passwd", "/proc/kcore"}, []string{"/mnt", "/proc/sys"}),
		paths("that are missing", []string{"/nothing", "/proc/nothing", "/data/file/below"}, []string{"/nowhere"}),
		paths("the same twice", []string{"/data", "/data"}, []string{"/proc/sys", "/proc/sys"}),
		paths("masked below read-only", []string{"/proc/sys/kernel/core_pattern"}, []string{"/proc/sys"}),
	}
}

func limitKinds() []bundle {
	limits := func(name string, list ...specs.POSIXRlimit) bundle {
		return bundle{name: "limits " + name, change: func(c *specs.Spec) { c.Process.Rlimits = list }}
	}
	return []bundle{
		limits("none"),
		limits("files", specs.POSIXRlimit{Type: "RLIMIT_NOFILE", Soft: 64, Hard: 128}),
		limits("several", specs.POSIXRlimit{Type: "RLIMIT_NPROC", Soft: 500, Hard: 600}, specs.POSIXRlimit{Type: "RLIMIT_STACK", Soft: 1 << 20, Hard: 1 << 21},
			specs.POSIXRlimit{Type: "RLIMIT_FSIZE", Soft: 1 << 30, Hard: 1 << 31}, specs.POSIXRlimit{Type: "RLIMIT_MEMLOCK", Soft: 0, Hard: 4096}),
		limits("zero core and messages", specs.POSIXRlimit{Type: "RLIMIT_CORE"}, specs.POSIXRlimit{Type: "RLIMIT_MSGQUEUE"}, specs.POSIXRlimit{Type: "RLIMIT_RTPRIO"}),
		limits("unlimited where the host is", specs.POSIXRlimit{Type: "RLIMIT_CPU", Soft: ^uint64(0), Hard: ^uint64(0)}, specs.POSIXRlimit{Type: "RLIMIT_AS", Soft: 1 << 42, Hard: ^uint64(0)}),
		{name: "limits unknown", change: func(c *specs.Spec) { c.Process.Rlimits = []specs.POSIXRlimit{{Type: "RLIMIT_NOTHING"}} }, want: "refused"},
		{name: "limits soft over hard", change: func(c *specs.Spec) {
			c.Process.Rlimits = []specs.POSIXRlimit{{Type: "RLIMIT_NOFILE", Soft: 200, Hard: 100}}
		}, want: "refused"},
		{name: "limits given twice", change: func(c *specs.Spec) {
			c.Process.Rlimits = []specs.POSIXRlimit{{Type: "RLIMIT_CORE"}, {Type: "RLIMIT_CORE", Soft: 1, Hard: 1}}
		}, want: "refused"},
	}
}

func resources() []bundle {
	with := func(name string, change func(*specs.LinuxResources)) bundle {
		return bundle{name: "resources " + name, args: hold(), change: func(c *specs.Spec) { change(c.Linux.Resources) }}
	}
	return []bundle{
		with("memory", func(r *specs.LinuxResources) { r.Memory = &specs.LinuxMemory{Limit: new(int64(64 << 20))} }),
		with("memory and swap", func(r *specs.LinuxResources) {
			r.Memory = &specs.LinuxMemory{Limit: new(int64(64 << 20)), Swap: new(int64(96 << 20))}
		}),
		with("memory unlimited", func(r *specs.LinuxResources) { r.Memory = &specs.LinuxMemory{Limit: new(int64(-1))} }),
		with("processes", func(r *specs.LinuxResources) { r.Pids = &specs.LinuxPids{Limit: new(int64(50))} }),
		with("processes unlimited", func(r *specs.LinuxResources) { r.Pids = &specs.LinuxPids{Limit: new(int64(-1))} }),
		with("quota", func(r *specs.LinuxResources) {
			r.CPU = &specs.LinuxCPU{Quota: new(int64(150_000)), Period: new(uint64(50_000))}
		}),
		with("devices not restricted", func(r *specs.LinuxResources) {
			r.Devices = []specs.LinuxDeviceCgroup{{Allow: true, Type: "a", Access: "rwm"}}
		}),
		with("one more device", func(r *specs.LinuxResources) {
			r.Devices = append(r.Devices, specs.LinuxDeviceCgroup{Allow: true, Type: "c", Major: new(int64(10)), Minor: new(int64(229)), Access: "rw"})
		}),
	}
}

func environments() []bundle {
	env := func(name string, list ...string) bundle {
		return bundle{name: "environment " + name, change: func(c *specs.Spec) { c.Process.Env = list }}
	}
	var big []string
	for i := range 20 {
		big = append(big, fmt.Sprintf("BIG%d=%s", i, strings.Repeat("x", 50_000)))
	}
	return []bundle{
		env("none"),
		env("plain", "A=1", "PATH=/bin", "HOME=/somewhere"),
		env("odd", "EMPTY=", "SPACES=a b  c", "EQUALS=a=b=c", "LINES=a\nb", "UMLAUT=ä€", "lower=1"),
		env("of a megabyte", big...),
	}
}

func commands() []bundle {
	command := func(name string, args []string, change func(*specs.Spec)) bundle {
		return bundle{name: "command " + name, args: args, change: change}
	}
	cwd := func(dir string) func(*specs.Spec) { return func(c *specs.Spec) { c.Process.Cwd = dir } }
	return []bundle{
		command("found in PATH", []string{"probe", "look"}, func(c *specs.Spec) { c.Process.Env = []string{"PATH=/nothing:/data:/"} }),
		command("with odd arguments", []string{"/probe", "look", "", " ", "a b", "ü"}, nil),
		command("relative", []string{"./probe", "look"}, nil),
		command("relative in another folder", []string{"../probe", "look"}, cwd("/data")),
		command("a script", []string{"/script", "7"}, nil),
		{name: "folder /tmp", change: cwd("/tmp")},
		{name: "folder of the image", change: cwd("/data")},
		{name: "folder through a link", change: cwd("/link")},
		{name: "folder with dots", change: cwd("/data/../etc/.")},
		{name: "folder that is missing", change: cwd("/data/new"), want: "refused"},
		{name: "folder that is a file", change: cwd("/data/file"), want: "refused"},
		{name: "folder that is closed to the user", change: func(c *specs.Spec) { c.Process.User.UID, c.Process.Cwd = 1000, "/closed" }, want: "refused"},
		{name: "folder that is a descriptor", change: cwd("/proc/self/fd/7"), want: "refused"},
		{name: "folder that is relative", change: cwd("data"), want: "refused"},
	}
}

func hosts() []bundle {
	sysctl := func(name, key, value string) bundle {
		return bundle{name: "sysctl " + name, change: func(c *specs.Spec) { c.Linux.Sysctl = map[string]string{key: value} }}
	}
	refused := func(b bundle) bundle { b.want = "refused"; return b }
	return []bundle{
		{name: "host name not given", change: func(c *specs.Spec) { c.Hostname = "" }},
		{name: "host name long", change: func(c *specs.Spec) { c.Hostname = strings.Repeat("h", 64) }},
		sysctl("messages", "kernel.msgmax", "16384"),
		sysctl("shared memory", "kernel.shm_rmid_forced", "1"),
		sysctl("queues", "fs.mqueue.msg_max", "20"),
		sysctl("network", "net.ipv4.ping_group_range", "0 1"),
		refused(sysctl("of the host", "kernel.panic", "1")),
		refused(sysctl("of the host's memory", "vm.drop_caches", "1")),
		refused(sysctl("that is missing", "net.nothing", "1")),
		refused(sysctl("that climbs", "net.../../../../sysrq-trigger", "h")),
	}
}

func terminals() []bundle {
	terminal := func(name string, change func(*specs.Spec)) bundle {
		return bundle{name: "terminal " + name, change: func(c *specs.Spec) {
			c.Process.Terminal = true
			change(c)
		}}
	}
	return []bundle{
		terminal("of root", func(*specs.Spec) {}),
		terminal("of a user", func(c *specs.Spec) { c.Process.User.UID = 1000 }),
		terminal("with size", func(c *specs.Spec) { c.Process.ConsoleSize = &specs.Box{Height: 33, Width: 77} }),
		terminal("root writable", func(c *specs.Spec) { c.Root.Readonly = false }),
	}
}

func namespaces() []bundle {
	without := func(t specs.LinuxNamespaceType) func(*specs.Spec) {
		return func(c *specs.Spec) {
			c.Linux.Namespaces = slices.DeleteFunc(c.Linux.Namespaces, func(ns specs.LinuxNamespace) bool { return ns.Type == t })
			c.Linux.Sysctl = nil
			if t == specs.NetworkNamespace { // then the kernel lets nobody mount sysfs
				c.Mounts = slices.DeleteFunc(c.Mounts, func(m specs.Mount) bool { return m.Type == "sysfs" })
			}
			if t == specs.IPCNamespace {
				c.Mounts = slices.DeleteFunc(c.Mounts, func(m specs.Mount) bool { return m.Type == "mqueue" })
			}
			if t == specs.UTSNamespace {
				c.Hostname = ""
			}
		}
	}
	return []bundle{
		{name: "namespace ipc of the host", change: without(specs.IPCNamespace)},
		{name: "namespace uts of the host", change: without(specs.UTSNamespace)},
		{name: "namespace cgroup of the host", change: without(specs.CgroupNamespace)},
		{name: "namespace network of the host", change: without(specs.NetworkNamespace)},
		{name: "namespace pid of the host", change: without(specs.PIDNamespace), want: "refused"},
		{name: "namespace joined", change: func(c *specs.Spec) {
			for i := range c.Linux.Namespaces {
				if c.Linux.Namespaces[i].Type == specs.UTSNamespace {
					c.Linux.Namespaces[i].Path = "/proc/self/ns/uts"
				}
			}
		}, want: "refused"},
	}
}

func processes() []bundle {
	return []bundle{
		{name: "process likelier to be killed", change: func(c *specs.Spec) { c.Process.OOMScoreAdj = new(500) }},
		{name: "process first to be killed", change: func(c *specs.Spec) { c.Process.OOMScoreAdj = new(1000) }},
		{name: "process for 32 bits", change: func(c *specs.Spec) {
			c.Linux.Personality = &specs.LinuxPersonality{Domain: specs.PerLinux32}
		}},
		{name: "process with idle I/O", change: func(c *specs.Spec) {
			c.Process.IOPriority = &specs.LinuxIOPriority{Class: specs.IOPRIO_CLASS_IDLE}
		}},
		{name: "process with a domain name", change: func(c *specs.Spec) { c.Domainname = "example" }},
		{name: "process with mount propagation", change: func(c *specs.Spec) { c.Linux.RootfsPropagation = "rslave" }},
	}
}

func exits() []bundle {
	exit := func(name string, args ...string) bundle { return bundle{name: "exit " + name, args: args} }
	refused := func(name string, args ...string) bundle {
		return bundle{name: "exec " + name, args: args, want: "refused"}
	}
	quiet := bundle{name: "exit 0 without a word", args: []string{"/probe", "nothing"}, silent: true}
	return []bundle{
		exit("0", "/probe", "exit", "0"), exit("1", "/probe", "exit", "1"), exit("42", "/probe", "exit", "42"), exit("255", "/probe", "exit", "255"),
		quiet,
		exit("by SIGSEGV", "/probe", "signal", "11"),
		refused("of what is missing", "/nothing"), refused("of a name that is missing", "nothing"),
		refused("of a folder", "/data"), refused("of a file without x", "/plain"),
		refused("without its interpreter", "/interpreter"), refused("of text", "/text"),
		refused("of an empty name", ""),
	}
}

// refusals ask for what TERO does not do: each is refused with a reason.
func refusals() []bundle {
	refused := func(name string, change func(*specs.Spec)) bundle {
		return bundle{name: "refused " + name, change: change, want: "refused"}
	}
	return []bundle{
		refused("hooks", func(c *specs.Spec) {
			c.Hooks = &specs.Hooks{Poststop: []specs.Hook{{Path: "/bin/true"}}}
		}),
		refused("huge pages", func(c *specs.Spec) {
			c.Linux.Resources.HugepageLimits = []specs.LinuxHugepageLimit{{Pagesize: "2MB", Limit: 1 << 21}}
		}),
		refused("shared mount propagation", func(c *specs.Spec) { c.Linux.RootfsPropagation = "shared" }),
		refused("a mount of a block device's format", func(c *specs.Spec) {
			c.Mounts = append(c.Mounts, specs.Mount{Destination: "/mnt", Type: "ext4", Source: "/dev/null"})
		}),
		refused("a mount of cgroups", func(c *specs.Spec) {
			c.Mounts = append(c.Mounts, specs.Mount{Destination: "/sys/fs/cgroup", Type: "cgroup", Source: "cgroup", Options: []string{"ro", "nosuid", "noexec", "nodev"}})
		}),
		refused("a mount from what is missing", func(c *specs.Spec) {
			c.Mounts = append(c.Mounts, specs.Mount{Destination: "/mnt", Type: "bind", Source: "/nothing/here", Options: []string{"bind"}})
		}),
		refused("a mount over /proc", func(c *specs.Spec) {
			c.Mounts = append(c.Mounts, specs.Mount{Destination: "/proc", Type: "bind", Source: "/tmp", Options: []string{"bind"}})
		}),
		refused("a mount into /proc", func(c *specs.Spec) {
			c.Mounts = append(c.Mounts, specs.Mount{Destination: "/proc/sys/kernel", Type: "tmpfs", Source: "tmpfs"})
		}),
		refused("a filter with an unknown action", func(c *specs.Spec) { c.Linux.Seccomp.DefaultAction = "SCMP_ACT_NOTHING" }),
		refused("a filter with a listener", func(c *specs.Spec) {
			c.Linux.Seccomp.ListenerPath = "/run/listener"
			c.Linux.Seccomp.Syscalls = append(c.Linux.Seccomp.Syscalls, specs.LinuxSyscall{Names: []string{"getppid"}, Action: specs.ActNotify})
		}),
		refused("an unknown capability", func(c *specs.Spec) {
			c.Process.Capabilities = &specs.LinuxCapabilities{Bounding: []string{"CAP_NOTHING"}}
		}),
		refused("a version to come", func(c *specs.Spec) { c.Version = "2.0.0" }),
	}
}
