// Package setup compiles the configuration of a container, or of a further
// process in one, to programs of raw system calls: one that prepares a process
// for any container of a Shape, and one that makes it a certain container.
package setup

import (
	"encoding/binary"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"tero.internal/common/fault"
	"tero.internal/runtime/internal/landlock"
	"tero.internal/runtime/internal/program"
	"tero.internal/runtime/internal/protocol"
)

// Slots of the programs.
const (
	slotTarget  = iota // where a mount goes
	slotMount          // a mount that is nowhere yet
	slotContext        // a file system context, or a file of the moment
	slotFolder         // a folder of the moment
	slotMaster         // the terminal
	slotSlave
	slotRules // the Landlock rules
	slotStage // the file system that what is prepared is mounted on
)

// Setup is the program of one process, with the files that it refers to.
type Setup struct {
	program.Builder
	config *specs.Spec
	// files are what is sent along; owned those of them to close afterwards.
	files []*os.File
	owned []*os.File
	// root is what paths are resolved in: the stage, or the container's root.
	root   program.Arg
	limits []protocol.Rlimit
	filter []unix.SockFilter
	// filterFlags are those of seccomp(2) for the filter.
	filterFlags uint64
	// fenced is the Landlock layer, or nil; proc the index of the host's /proc,
	// when there are labels to write to it.
	fenced *landlock.Ruleset
	proc   int
}

// Files are the files that the program refers to, in order.
func (c *Setup) Files() []*os.File { return c.files }

// Close closes the files that were opened for the program.
func (c *Setup) Close() {
	for _, f := range c.owned {
		_ = f.Close()
	}
}

// Send adds a file and gives its index.
func (c *Setup) Send(f *os.File) int {
	c.files = append(c.files, f)
	return len(c.files) - 1
}

// SendOwn adds a file that Close closes.
func (c *Setup) SendOwn(f *os.File) int {
	c.owned = append(c.owned, f)
	return c.Send(f)
}

func cwd() program.Arg { return program.I(unix.AT_FDCWD) }

// joinCgroups writes "0", which is the writer, to each v1 tasks file.
func (c *Setup) joinCgroups(tasks []*os.File) {
	c.Step("enter the cgroup")
	for _, f := range tasks {
		file := program.F(c.Send(f))
		c.Call(unix.SYS_WRITE, file, c.String("0"), program.I(1))
		c.Call(unix.SYS_CLOSE, file)
	}
}

// becomeRoot takes the identity that the id map gives root.
func (c *Setup) becomeRoot() {
	c.Step("take the ids of the user namespace")
	c.Call(unix.SYS_SETGROUPS, program.I(0), program.I(0))
	c.Call(unix.SYS_SETRESGID, program.I(0), program.I(0), program.I(0))
	c.Call(unix.SYS_SETRESUID, program.I(0), program.I(0), program.I(0))
	c.notDumpable()
	c.Step("start a session")
	c.Call(unix.SYS_SETSID)
	c.Step("leave the session keyring of the host")
	c.Call(unix.SYS_KEYCTL, program.I(unix.KEYCTL_JOIN_SESSION_KEYRING), program.I(0)).Tolerate(unix.ENOSYS)
}

func (c *Setup) notDumpable() {
	c.Call(unix.SYS_PRCTL, program.I(unix.PR_SET_DUMPABLE), program.I(0), program.I(0), program.I(0), program.I(0))
}

// loopback brings the loopback interface up.
func (c *Setup) loopback() {
	c.Step("bring up the loopback interface")
	request := make([]byte, 40) // struct ifreq
	copy(request, "lo")
	binary.LittleEndian.PutUint16(request[16:], unix.IFF_UP|unix.IFF_RUNNING)
	c.Call(unix.SYS_SOCKET, program.I(unix.AF_INET), program.I(unix.SOCK_DGRAM|unix.SOCK_CLOEXEC), program.I(0)).Out(slotContext)
	c.Call(unix.SYS_IOCTL, program.S(slotContext), program.I(unix.SIOCSIFFLAGS), c.Bytes(request))
	c.closeSlot(slotContext)
}

// hostname sets the host name.
func (c *Setup) hostname() {
	if name := c.config.Hostname; name != "" {
		c.Step("set the host name")
		c.Call(unix.SYS_SETHOSTNAME, c.String(name), program.I(len(name)))
	}
	if name := c.config.Domainname; name != "" {
		c.Step("set the domain name")
		c.Call(unix.SYS_SETDOMAINNAME, c.String(name), program.I(len(name)))
	}
}

func (c *Setup) closeSlot(slot int) { c.Call(unix.SYS_CLOSE, program.S(slot)) }

// enter makes the container's root the root. It is mounted over the stage, which
// has nothing left but empty folders and devices that every container has, so
// that there is nothing to unmount, for which the kernel waits for a grace
// period; who joins the namespace comes to the uppermost mount, as after
// switch_root(8).
func (c *Setup) enter() {
	c.Step("change to the root file system")
	c.Call(unix.SYS_FCHDIR, c.root)
	c.Call(unix.SYS_CHROOT, c.String("."))
	c.Call(unix.SYS_CLOSE, c.root)
}

// stdio puts the standard streams in place.
func (c *Setup) stdio(terminal bool) {
	c.Step("put the standard streams in place")
	streams := []program.Arg{program.O(program.OwnStdin), program.O(program.OwnStdout), program.O(program.OwnStderr)}
	if terminal {
		streams = []program.Arg{program.S(slotSlave), program.S(slotSlave), program.S(slotSlave)}
	}
	for i, s := range streams {
		c.Call(unix.SYS_DUP3, s, program.I(i), program.I(0))
	}
	if terminal {
		c.Call(unix.SYS_IOCTL, program.I(0), program.I(unix.TIOCSCTTY), program.I(0))
	}
}

// terminal opens a pseudo-terminal of the container's own devpts; the program's
// root must be the container's. It has its size before the process can look.
func (c *Setup) terminal(p *specs.Process) {
	c.Step("open a terminal")
	const flags = unix.O_RDWR | unix.O_NOCTTY | unix.O_CLOEXEC
	c.Call(unix.SYS_OPENAT, cwd(), c.String("/dev/pts/ptmx"), program.I(flags|unix.O_NOFOLLOW), program.I(0)).Out(slotMaster)
	c.Call(unix.SYS_IOCTL, program.S(slotMaster), program.I(unix.TIOCSPTLCK), c.Bytes(make([]byte, 4)))
	c.Call(unix.SYS_IOCTL, program.S(slotMaster), program.I(unix.TIOCGPTPEER), program.I(flags)).Out(slotSlave)
	c.Call(unix.SYS_FCHOWN, program.S(slotSlave), program.I(p.User.UID), program.I(^uint32(0)))
	if p.ConsoleSize != nil {
		size := make([]byte, 8) // struct winsize
		binary.LittleEndian.PutUint16(size, uint16(min(p.ConsoleSize.Height, math.MaxUint16)))
		binary.LittleEndian.PutUint16(size[2:], uint16(min(p.ConsoleSize.Width, math.MaxUint16)))
		c.Call(unix.SYS_IOCTL, program.S(slotMaster), program.I(unix.TIOCSWINSZ), c.Bytes(size))
	}
}

// sendTerminal hands over the master of the terminal.
func (c *Setup) sendTerminal() {
	c.Step("hand over the terminal")
	var report [program.ReportSize]byte
	binary.LittleEndian.PutUint32(report[:], program.ReportReady)
	data := c.Bytes(report[:])
	// struct msghdr with one iovec and one SCM_RIGHTS message.
	control := make([]byte, 24)
	binary.LittleEndian.PutUint64(control[0:], 20)
	binary.LittleEndian.PutUint32(control[8:], unix.SOL_SOCKET)
	binary.LittleEndian.PutUint32(control[12:], unix.SCM_RIGHTS)
	message := c.Bytes(control)
	vector := c.Words(0, program.ReportSize)
	c.Pointer(vector, 0, data)
	header := c.Words(0, 0, 0, 1, 0, uint64(len(control)), 0)
	c.Pointer(header, 16, vector)
	c.Pointer(header, 32, message)
	message.Value += 16
	c.Store(message, slotMaster)
	c.Call(unix.SYS_SENDMSG, program.O(program.OwnStatus), header, program.I(unix.MSG_NOSIGNAL))
	c.closeSlot(slotMaster)
}

// closeFiles closes all that the program came with: nothing that is opened by a
// name of the configuration may be one of these (CVE-2024-21626).
func (c *Setup) closeFiles() {
	c.Step("close files")
	c.Call(unix.SYS_CLOSE_RANGE, program.I(program.StatusFD+1), program.I(^uint32(0)), program.I(0))
}

// confine drops what the payload must not have.
func (c *Setup) confine(p *specs.Process) error {
	c.labels(p)
	c.closeFiles()
	c.execution(p)
	c.fence()
	if !p.NoNewPrivileges { // only a privileged process may do these without no_new_privs
		c.enclose()
		c.rlimits()
		c.seccomp()
	}
	if err := c.capabilities(p); err != nil {
		return err
	}
	c.notDumpable()
	if p.NoNewPrivileges {
		c.Step("set no_new_privs")
		c.Call(unix.SYS_PRCTL, program.I(unix.PR_SET_NO_NEW_PRIVS), program.I(1), program.I(0), program.I(0), program.I(0))
		c.enclose()
	}
	umask := uint32(0o022)
	if p.User.Umask != nil {
		umask = *p.User.Umask
	}
	c.Step("set the umask")
	c.Call(unix.SYS_UMASK, program.I(umask))
	c.Step(StepFolder + p.Cwd)
	c.Call(unix.SYS_CHDIR, c.String(p.Cwd))
	return nil
}

// seccomp loads the filter.
func (c *Setup) seccomp() {
	if len(c.filter) == 0 {
		return
	}
	c.Step("load the system call filter")
	code := make([]byte, 0, 8*len(c.filter))
	for _, f := range c.filter {
		code = binary.LittleEndian.AppendUint16(code, f.Code)
		code = append(code, f.Jt, f.Jf)
		code = binary.LittleEndian.AppendUint32(code, f.K)
	}
	instructions := c.Bytes(code)
	prog := c.Words(uint64(len(c.filter)), 0)
	c.Pointer(prog, 8, instructions)
	c.Call(unix.SYS_SECCOMP, program.I(unix.SECCOMP_SET_MODE_FILTER), program.I(c.filterFlags), prog)
}

// capabilities takes the user's ids and leaves it the listed capabilities.
func (c *Setup) capabilities(p *specs.Process) error {
	lists := p.Capabilities
	if lists == nil {
		lists = &specs.LinuxCapabilities{}
	}
	var sets [5]uint64
	for i, list := range [][]string{lists.Bounding, lists.Effective, lists.Permitted, lists.Inheritable, lists.Ambient} {
		for _, name := range list {
			at := slices.Index(capabilityNames(), name)
			if at < 0 {
				return fault.New(fault.Invalid, "there is no capability %q", name).
					WithHint("name one of capabilities(7), such as CAP_NET_RAW")
			}
			sets[i] |= 1 << at
		}
	}
	bounding, effective, permitted, inheritable, ambient := sets[0], sets[1], sets[2], sets[3], sets[4]
	c.Step("drop capabilities")
	for i := range 64 {
		if bounding>>i&1 == 0 {
			drop := c.Call(unix.SYS_PRCTL, program.I(unix.PR_CAPBSET_DROP), program.I(i), program.I(0), program.I(0), program.I(0))
			if i >= len(capabilityNames())-1 {
				drop.Tolerate(unix.EINVAL) // beyond the kernel's last
			}
		}
		if i > len(capabilityNames())+8 {
			break
		}
	}
	c.Step("change to the user")
	var groups []byte
	for _, g := range p.User.AdditionalGids {
		groups = binary.LittleEndian.AppendUint32(groups, g)
	}
	c.Call(unix.SYS_SETGROUPS, program.I(len(p.User.AdditionalGids)), c.Bytes(groups))
	c.Call(unix.SYS_PRCTL, program.I(unix.PR_SET_KEEPCAPS), program.I(1), program.I(0), program.I(0), program.I(0))
	gid, uid := program.I(p.User.GID), program.I(p.User.UID)
	c.Call(unix.SYS_SETRESGID, gid, gid, gid)
	c.Call(unix.SYS_SETRESUID, uid, uid, uid)
	c.Call(unix.SYS_PRCTL, program.I(unix.PR_SET_KEEPCAPS), program.I(0), program.I(0), program.I(0), program.I(0))
	c.Step("set capabilities")
	var header, data []byte
	header = binary.LittleEndian.AppendUint32(header, unix.LINUX_CAPABILITY_VERSION_3)
	header = binary.LittleEndian.AppendUint32(header, 0)
	for _, shift := range []int{0, 32} {
		for _, set := range []uint64{effective, permitted, inheritable} {
			data = binary.LittleEndian.AppendUint32(data, uint32(set>>shift)) //nolint:gosec // one half after the other
		}
	}
	c.Call(unix.SYS_CAPSET, c.Bytes(header), c.Bytes(data))
	c.Call(unix.SYS_PRCTL, program.I(unix.PR_CAP_AMBIENT), program.I(unix.PR_CAP_AMBIENT_CLEAR_ALL), program.I(0), program.I(0), program.I(0))
	for i := range capabilityNames() {
		if ambient>>i&1 != 0 {
			c.Call(unix.SYS_PRCTL, program.I(unix.PR_CAP_AMBIENT), program.I(unix.PR_CAP_AMBIENT_RAISE), program.I(i), program.I(0), program.I(0))
		}
	}
	return nil
}

// exec executes the payload: the last steps of every program.
func (c *Setup) exec(p *specs.Process) {
	argv, env := c.Vector(p.Args), c.Vector(p.Env)
	paths := Candidates(p.Args[0], p.Env)
	targets := make([]program.Arg, len(paths))
	for i, path := range paths {
		targets[i] = c.String(path)
	}
	if p.NoNewPrivileges {
		c.rlimits()
		c.seccomp()
	}
	c.Step(StepExec)
	for _, target := range targets {
		c.Call(unix.SYS_EXECVE, target, argv, env).
			Tolerate(unix.ENOENT, unix.ENOTDIR, unix.EACCES, unix.ENAMETOOLONG).Flag(program.FlagKeep)
	}
	c.Fail()
}

// StepExec names the last step, whose failures have messages of their own.
const StepExec = "execute the command"

// StepMount begins the names of the steps that mount something.
const StepMount = "mount "

// StepFolder begins the name of the step that changes to the working directory.
const StepFolder = "change to the working directory "

// Candidates gives the paths that a command may be at, as execvp(3) finds it.
func Candidates(command string, env []string) []string {
	if strings.Contains(command, "/") {
		return []string{command}
	}
	path := "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
	for _, e := range env {
		if v, ok := strings.CutPrefix(e, "PATH="); ok {
			path = v
		}
	}
	var list []string
	for dir := range strings.SplitSeq(path, ":") {
		if filepath.IsAbs(dir) { // a relative one would be looked up in a folder that may be anybody's
			list = append(list, filepath.Join(dir, command))
		}
	}
	return list
}

// capabilityNames are the capabilities by number (linux/capability.h).
func capabilityNames() []string {
	return []string{
		"CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_DAC_READ_SEARCH", "CAP_FOWNER", "CAP_FSETID", "CAP_KILL", "CAP_SETGID",
		"CAP_SETUID", "CAP_SETPCAP", "CAP_LINUX_IMMUTABLE", "CAP_NET_BIND_SERVICE", "CAP_NET_BROADCAST", "CAP_NET_ADMIN",
		"CAP_NET_RAW", "CAP_IPC_LOCK", "CAP_IPC_OWNER", "CAP_SYS_MODULE", "CAP_SYS_RAWIO", "CAP_SYS_CHROOT",
		"CAP_SYS_PTRACE", "CAP_SYS_PACCT", "CAP_SYS_ADMIN", "CAP_SYS_BOOT", "CAP_SYS_NICE", "CAP_SYS_RESOURCE",
		"CAP_SYS_TIME", "CAP_SYS_TTY_CONFIG", "CAP_MKNOD", "CAP_LEASE", "CAP_AUDIT_WRITE", "CAP_AUDIT_CONTROL",
		"CAP_SETFCAP", "CAP_MAC_OVERRIDE", "CAP_MAC_ADMIN", "CAP_SYSLOG", "CAP_WAKE_ALARM", "CAP_BLOCK_SUSPEND",
		"CAP_AUDIT_READ", "CAP_PERFMON", "CAP_BPF", "CAP_CHECKPOINT_RESTORE",
	}
}

// unshareCgroup makes the present cgroup the root of what the container sees.
func (c *Setup) unshareCgroup() {
	c.Step("make a cgroup namespace")
	c.Call(unix.SYS_UNSHARE, program.I(unix.CLONE_NEWCGROUP))
}
