package setup

import (
	"encoding/binary"
	"os"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"tero.internal/common/fault"
	"tero.internal/runtime/internal/landlock"
	"tero.internal/runtime/internal/lsm"
	"tero.internal/runtime/internal/program"
)

// StepAppArmor and StepSELinux begin the names of the steps that ask for a label.
const (
	StepAppArmor = "take the AppArmor profile "
	StepSELinux  = "take the SELinux label "
)

// pathBeneath is LANDLOCK_RULE_PATH_BENEATH.
const pathBeneath = 1

// landlockABI is the version of the kernel, asked once.
func (f *Filters) landlockABI() int {
	f.once.Do(func() { f.abi = landlock.ABI() })
	return f.abi
}

// fence lays out the Landlock rules, as long as the process may open every path.
// A path that is not there, because a process of the container moved it away
// before another one joins, allows nothing.
func (c *Setup) fence() {
	r := c.fenced
	if r == nil {
		return
	}
	c.Step("make the Landlock rules")
	attributes := c.Words(r.Handled) // struct landlock_ruleset_attr, as far as it is used
	c.Call(unix.SYS_LANDLOCK_CREATE_RULESET, attributes, program.I(8), program.I(0)).Out(slotRules)
	how := c.Words(unix.O_PATH|unix.O_CLOEXEC, 0, unix.RESOLVE_IN_ROOT|unix.RESOLVE_NO_SYMLINKS|unix.RESOLVE_NO_MAGICLINKS)
	for _, rule := range r.Rules {
		missing := c.Call(unix.SYS_OPENAT2, cwd(), c.String(rule.Path), how, program.I(24)).Out(slotTarget).
			Tolerate(unix.ENOENT, unix.ENOTDIR, unix.ELOOP, unix.EACCES)
		whole := c.beneath(rule.Access, slotTarget).Tolerate(unix.EINVAL) // for a file these are too many
		done := c.Skip()
		whole.Land()
		c.beneath(rule.ForFile(), slotTarget)
		done.Land()
		c.closeSlot(slotTarget)
		missing.Land()
	}
	if c.config.Process.Terminal {
		return // the streams are in the container's /dev
	}
	folder := c.Words(unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0, 0)
	for fd := range 3 {
		// A folder in place of a stream must not open what lies below it.
		file := c.Call(unix.SYS_OPENAT2, program.I(fd), c.String("."), folder, program.I(24)).Out(slotTarget).Tolerate(unix.ENOTDIR, unix.EACCES)
		c.closeSlot(slotTarget)
		done := c.Skip()
		file.Land()
		rule := c.Bytes(beneathAttributes(r.Stream, int32(fd)))
		c.Call(unix.SYS_LANDLOCK_ADD_RULE, program.S(slotRules), program.I(pathBeneath), rule, program.I(0)).
			Tolerate(unix.EBADFD) // a pipe or socket needs no rule
		done.Land()
	}
}

// beneath adds a rule for the file in a slot.
func (c *Setup) beneath(access uint64, slot int) *program.Last {
	rule := c.Bytes(beneathAttributes(access, -1))
	descriptor := rule
	descriptor.Value += 8
	c.Store(descriptor, slot)
	return c.Call(unix.SYS_LANDLOCK_ADD_RULE, program.S(slotRules), program.I(pathBeneath), rule, program.I(0))
}

// beneathAttributes is struct landlock_path_beneath_attr.
func beneathAttributes(access uint64, fd int32) []byte {
	b := binary.LittleEndian.AppendUint64(nil, access)
	return binary.LittleEndian.AppendUint32(b, uint32(fd)) //nolint:gosec // as it lies in memory
}

// enclose puts the process behind the fence, for good.
func (c *Setup) enclose() {
	if c.fenced == nil {
		return
	}
	c.Step("restrict the process with Landlock")
	c.Call(unix.SYS_LANDLOCK_RESTRICT_SELF, program.S(slotRules), program.I(0))
	c.closeSlot(slotRules)
}

// openProc sends the host's /proc along when a label has to be written to it. No
// path of the container leads there: an image, a volume or a process inside can
// put something else in the place of its own /proc.
func (c *Setup) openProc(p *specs.Process) error {
	if lsm.Profile(p) == "" && p.SelinuxLabel == "" {
		return nil
	}
	f, err := os.OpenFile("/proc", unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return fault.New(fault.Unsupported, "cannot set security labels: %w", err)
	}
	c.proc = c.SendOwn(f)
	var st unix.Statfs_t
	if err := unix.Statfs("/proc/.", &st); err != nil || st.Type != unix.PROC_SUPER_MAGIC {
		return fault.New(fault.Unsupported, "cannot set security labels: the host's /proc is no procfs")
	}
	return nil
}

// labels asks for the labels that the payload is executed under.
func (c *Setup) labels(p *specs.Process) {
	if name := lsm.Profile(p); name != "" {
		c.Step(StepAppArmor + name)
		missing := c.attribute("self/attr/apparmor/exec").Tolerate(unix.ENOENT) // before 5.8
		found := c.Skip()
		missing.Land()
		c.attribute("self/attr/exec")
		found.Land()
		c.writeAttribute("exec " + name)
	}
	if p.SelinuxLabel != "" {
		c.Step(StepSELinux + p.SelinuxLabel)
		c.attribute("self/attr/exec")
		c.writeAttribute(p.SelinuxLabel)
	}
}

// attribute opens a file of the host's procfs, and of nothing that is mounted on it.
func (c *Setup) attribute(path string) *program.Last {
	how := c.Words(unix.O_WRONLY|unix.O_CLOEXEC, 0, unix.RESOLVE_BENEATH|unix.RESOLVE_NO_XDEV|unix.RESOLVE_NO_MAGICLINKS)
	return c.Call(unix.SYS_OPENAT2, program.F(c.proc), c.String(path), how, program.I(24)).Out(slotContext)
}

func (c *Setup) writeAttribute(value string) {
	c.Call(unix.SYS_WRITE, program.S(slotContext), c.Bytes([]byte(value)), program.I(len(value)))
	c.closeSlot(slotContext)
}
