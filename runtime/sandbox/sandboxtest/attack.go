package sandboxtest

import (
	"context"
	"encoding/json"
	"maps"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"tero.internal/common/workload"
	"tero.internal/runtime/sandbox"
)

// defence is what keeps some attacks from working, with the answers that they
// must get from a container as it is by default.
type defence struct {
	what    string
	answers []string
	attacks []string
}

// defences say what stops each attack of the probe.
func defences() []defence {
	return []defence{
		{"the filter of system calls", []string{"EPERM", "ENOSYS"}, []string{
			"ptrace a process of the host", "seize a process of the host", "read a process's memory",
			"open a new mount", "clear read-only with the new calls", "reach the host by pivot_root", "reach the host by chroot",
			"load a module", "load a module's file", "remove a module", "load another kernel", "load a BPF program", "watch all of a CPU",
			"handle faults of the kernel", "make an io_uring", "set the clock", "set the time of day", "use ports of the machine",
			"use one port of the machine", "read the kernel's log", "swap off", "account processes", "hang up terminals", "set quotas",
			"search the keys of the host", "request a key of the host", "turn address randomizing off", "set a segment for old programs",
			"open by handle", "watch a file system", "open a packet socket", "open a vsock", "open a crypto socket", "open a key socket",
			"open a CAN socket", "open a TIPC socket", "open the audit channel", "open the firewall", "open the IPsec channel",
			"listen to kernel events", "make a user namespace", "make a user and mount namespace", "make a network namespace", "unshare",
			"restart the machine",
			"mount the host's disk", "mount devtmpfs", "mount debugfs", "mount tracefs", "mount securityfs", "mount configfs",
			"mount binfmt_misc and register", "mount a new procfs without masks", "write to what a mask hid", "move a mask away",
			"write to what was read-only", "write to what was mounted elsewhere",
			"set a release agent", "set a release agent of pids", "lift the memory limit", "lift the process limit", "allow itself devices",
			"leave the cgroup", "leave the cgroup of v2",
		}},
		{"no capabilities, and none over the host from its user namespace", []string{"EPERM", "EACCES"}, []string{
			"protect itself from lack of memory", "raise its hard limit", "run in real time", "run before others", "do I/O before others",
			"bend the clock", "map the first page", "open a raw socket", "map the host's root", "change its groups' map",
			"get the parent of its user namespace", "get the parent of its pid namespace",
			"join a namespace by descriptor",
		}},
		{"its id map has no such id", []string{"EINVAL"}, []string{"become an id that is not its own"}},
		{"its pid namespace has no such process", []string{"ESRCH", "ENOENT"}, []string{
			"signal a process of the host", "open a pidfd of the host", "move a process of the host", "lift a limit of the host",
			"see a process of the host", "find a namespace that is not its own",
		}},
		{"its mount namespace has no such file", []string{"ENOENT", "ENOTDIR", "EACCES"}, []string{
			"reach the host by /proc/1/root", "reach the host by /proc/1/cwd", "reach the host by any root", "open a file of the host",
			"link out of a descriptor", "leave by a descriptor", "write to the cgroup tree", "write to the cgroup tree of pids",
			"open /dev/mem", "open /dev/kmsg", "open the host's disk",
		}},
		{"Landlock, masks and read-only mounts, and the host's root owns what is below them", []string{"EACCES", "EROFS", "ENOENT", "EPERM", "empty"}, []string{
			"write core_pattern", "write modprobe", "write sysrq-trigger", "write uevent_helper", "write a parameter of memory",
			"write an interrupt's CPUs", "write a uevent", "read the kernel's memory", "read /proc/kmsg",
		}},
		{"Landlock and the user namespace: no device can be made", []string{"EACCES", "EPERM"}, []string{
			"make a node of memory", "make a node of ports", "make a node of the log", "make a node of a disk", "make a node of a loop",
			"make a node of fuse", "make a node of kvm", "make a node of /dev/null",
		}},
		{"a root without a writable layer", []string{"EROFS", "EACCES", "ETXTBSY"}, []string{
			"overwrite its own program", "overwrite the first program", "overwrite /etc/hosts", "write to the image", "make a file in the image",
		}},
		{"its network namespace has no such socket", []string{"ECONNREFUSED"}, []string{"connect to an abstract socket of the host"}},
		{"no terminal of the host is open to it", []string{"ENOTTY", "EPERM"}, []string{
			"type on its terminal", "type on the console", "take the console's output",
		}},
	}
}

// loosening is a container that was given more than any should have.
type loosening struct {
	name string
	// privileged adds all capabilities; bare leaves out filter, Landlock and no_new_privs too.
	privileged, bare, terminal bool
	// executed attacks come from a further process.
	executed bool
	// own are attacks that work then, because what they reach is the container's own.
	own []string
}

func loosenings() []loosening {
	return []loosening{
		{name: "default"},
		{name: "executed", executed: true},
		{name: "terminal", terminal: true, own: []string{"type on its terminal"}},
		{name: "all capabilities", privileged: true, own: []string{"open a raw socket"}},
		{name: "user namespace alone", privileged: true, bare: true, own: []string{
			"open a raw socket", "open a packet socket", "open the firewall", "open the IPsec channel", // of its network namespace
			"open the audit channel", "listen to kernel events", // sockets that the kernel tells and takes nothing
			"make an io_uring", "turn address randomizing off", "set a segment for old programs", "unshare", // of its own process
			"open a vsock",                                                                         // here the filter is the only defence
			"join a namespace by descriptor",                                                       // its own
			"make a user namespace", "make a user and mount namespace", "make a network namespace", // with no more rights
		}},
	}
}

// attacks tries what escapes are made of, from inside, as the container's root.
func (s *Suite) attacks(t *testing.T) {
	victim := exec.CommandContext(t.Context(), "sleep", "1000")
	if err := victim.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = victim.Process.Kill()
		_ = victim.Wait()
	})
	marker := filepath.Join(openFolder(t), "marker")
	if err := os.WriteFile(marker, []byte("the host's"), 0o644); err != nil { //nolint:gosec // to be read by others, if they can
		t.Fatal(err)
	}
	name := "tero-test-" + workload.NewID().Short()
	socket, err := (&net.ListenConfig{}).Listen(t.Context(), "unix", "@"+name)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = socket.Close() }()
	key, err := unix.AddKey("user", name, []byte("the host's"), unix.KEY_SPEC_USER_KEYRING)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _, _ = unix.KeyctlInt(unix.KEYCTL_UNLINK, key, unix.KEY_SPEC_USER_KEYRING, 0, 0) }()
	target, err := json.Marshal(map[string]any{"PID": victim.Process.Pid, "Marker": marker, "Socket": name, "Key": name})
	if err != nil {
		t.Fatal(err)
	}
	before := hostState(t, victim.Process.Pid)
	for _, l := range loosenings() {
		t.Run(l.name, func(t *testing.T) { s.attackAs(t, l, string(target)) })
	}
	after := hostState(t, victim.Process.Pid)
	for k, v := range before {
		if after[k] != v {
			t.Errorf("the host's %s was %q and is %q", k, v, after[k])
		}
	}
}

// attackAs attacks from one container.
func (s *Suite) attackAs(t *testing.T, l loosening, target string) {
	spec := s.Spec(t, "attack", target)
	if l.executed {
		spec.Args = []string{"/probe", "hold"}
	}
	spec.Terminal, spec.NoLandlock = l.terminal, l.bare
	if l.privileged {
		spec.CapAdd = everyCapability()
	}
	config, err := s.Configure(spec, s.Image)
	if err != nil {
		t.Fatal(err)
	}
	if l.bare {
		config.Linux.Seccomp, config.Process.NoNewPrivileges = nil, false
	}
	id := workload.NewID()
	if _, err := s.Create(t.Context(), id, config, s.Image); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Destroy(context.WithoutCancel(t.Context()), id); err != nil {
			t.Error(err)
		}
	})
	if err := s.Start(t.Context(), id, nil); err != nil {
		t.Fatal(err)
	}
	var out string
	if l.executed {
		s.Expect(t, id, "holding")
		out, _ = s.execute(t, id, sandbox.ExecSpec{Args: []string{"/probe", "attack", target}})
	} else {
		s.End(t, id)
		out = s.Output(t, id)
	}
	var got map[string]string
	if err := json.Unmarshal([]byte(out[max(strings.IndexByte(out, '{'), 0):]), &got); err != nil {
		t.Fatalf("%v in %q", err, out)
	}
	strict := !l.privileged && !l.bare
	for _, d := range defences() {
		for _, a := range d.attacks {
			answer, tried := got[a]
			delete(got, a)
			switch {
			case !tried:
				t.Errorf("%s: not tried", a)
			case slices.Contains(l.own, a):
			case answer == "done", strict && !slices.Contains(d.answers, answer):
				t.Errorf("%s: %s, and not one of %s", a, answer, strings.Join(d.answers, ", "))
			case l.name == "default":
				t.Logf("%-44s %-12s %s", a, answer, d.what)
			}
		}
	}
	for _, a := range slices.Sorted(maps.Keys(got)) {
		t.Errorf("%s: %s; nothing says what stops it", a, got[a])
	}
}

// hostState is what the attacks would change.
func hostState(t *testing.T, pid int) map[string]string {
	t.Helper()
	state := map[string]string{}
	for _, path := range []string{
		"/proc/sys/kernel/core_pattern", "/proc/sys/kernel/hostname", "/proc/sys/vm/overcommit_memory", "/proc/sys/kernel/modprobe",
		"/proc/irq/default_smp_affinity", "/proc/sys/kernel/randomize_va_space", "/proc/sys/kernel/ctrl-alt-del", "/proc/modules",
	} {
		b, err := os.ReadFile(path) //nolint:gosec // of the list
		state[path] = string(b)
		if err != nil {
			state[path] = "none"
		}
	}
	var cpus unix.CPUSet
	if err := unix.SchedGetaffinity(pid, &cpus); err != nil {
		t.Errorf("the victim: %v", err)
	}
	var limit unix.Rlimit
	if err := unix.Prlimit(pid, unix.RLIMIT_CPU, nil, &limit); err != nil {
		t.Errorf("the victim: %v", err)
	}
	b, err := json.Marshal([]any{cpus, limit})
	if err != nil {
		t.Fatal(err)
	}
	state["victim"] = string(b)
	return state
}

// openFolder gives a folder that everybody can look into, through all above it.
func openFolder(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	for d := dir; strings.HasPrefix(d, os.TempDir()+"/"); d = filepath.Dir(d) {
		if err := os.Chmod(d, 0o755); err != nil { //nolint:gosec // as said above
			t.Fatal(err)
		}
	}
	return dir
}

func everyCapability() []string {
	return strings.Fields(`CAP_CHOWN CAP_DAC_OVERRIDE CAP_DAC_READ_SEARCH CAP_FOWNER CAP_FSETID CAP_KILL CAP_SETGID CAP_SETUID
		CAP_SETPCAP CAP_LINUX_IMMUTABLE CAP_NET_BIND_SERVICE CAP_NET_BROADCAST CAP_NET_ADMIN CAP_NET_RAW CAP_IPC_LOCK CAP_IPC_OWNER
		CAP_SYS_MODULE CAP_SYS_RAWIO CAP_SYS_CHROOT CAP_SYS_PTRACE CAP_SYS_PACCT CAP_SYS_ADMIN CAP_SYS_BOOT CAP_SYS_NICE
		CAP_SYS_RESOURCE CAP_SYS_TIME CAP_SYS_TTY_CONFIG CAP_MKNOD CAP_LEASE CAP_AUDIT_WRITE CAP_AUDIT_CONTROL CAP_SETFCAP
		CAP_MAC_OVERRIDE CAP_MAC_ADMIN CAP_SYSLOG CAP_WAKE_ALARM CAP_BLOCK_SUSPEND CAP_AUDIT_READ CAP_PERFMON CAP_BPF
		CAP_CHECKPOINT_RESTORE`)
}
