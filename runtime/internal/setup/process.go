package setup

import (
	"strconv"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"tero.internal/runtime/internal/program"
)

// StepOOM names the step whose refusal is a matter of rights.
const StepOOM = "set the OOM score"

// oomScore makes the process likelier to be killed for lack of memory, through
// the host's /proc and while it is still the host's root: after that it is
// nobody's that may. Less likely than the keeper is a right of the host's.
func (c *Setup) oomScore(p *specs.Process) {
	if p.OOMScoreAdj == nil {
		return
	}
	value := strconv.Itoa(*p.OOMScoreAdj)
	c.Step(StepOOM)
	c.Call(unix.SYS_OPENAT, cwd(), c.String("/proc/self/oom_score_adj"), program.I(unix.O_WRONLY|unix.O_CLOEXEC), program.I(0)).Out(slotContext)
	c.Call(unix.SYS_WRITE, program.S(slotContext), c.String(value), program.I(len(value)))
	c.closeSlot(slotContext)
}

// The arguments of ioprio_set(2), see linux/ioprio.h.
const (
	ioprioWhoProcess = 1
	ioprioShift      = 13
)

func priorityClass(c specs.IOPriorityClass) (int, bool) {
	switch c {
	case specs.IOPRIO_CLASS_RT:
		return 1, true
	case specs.IOPRIO_CLASS_BE:
		return 2, true
	case specs.IOPRIO_CLASS_IDLE:
		return 3, true
	}
	return 0, false
}

// execution sets how the process is to be treated by the kernel.
func (c *Setup) execution(p *specs.Process) {
	if p.IOPriority != nil {
		class, _ := priorityClass(p.IOPriority.Class)
		c.Step("set the I/O priority")
		c.Call(unix.SYS_IOPRIO_SET, program.I(ioprioWhoProcess), program.I(0), program.I(class<<ioprioShift|p.IOPriority.Priority))
	}
	if o := c.config.Linux.Personality; o != nil && o.Domain == specs.PerLinux32 {
		const linux32 = 8 // linux/personality.h
		c.Step("set the personality")
		c.Call(unix.SYS_PERSONALITY, program.I(linux32))
	}
}
