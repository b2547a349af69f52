// Package procfs reads what the host's /proc tells about the processes of a
// container. A process is an open folder of /proc: that stays with the process
// and never becomes another's that was given the same pid.
package procfs

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// ErrGone is a process that has ended.
var ErrGone = errors.New("the process has ended")

// Process is a process, alive or not.
type Process struct {
	PID  int
	root *os.Root
}

// Open opens a process's folder.
func Open(pid int) (*Process, error) {
	root, err := os.OpenRoot("/proc/" + strconv.Itoa(pid))
	if errors.Is(err, os.ErrNotExist) {
		return nil, ErrGone
	}
	if err != nil {
		return nil, fmt.Errorf("look at process %d: %w", pid, err)
	}
	return &Process{PID: pid, root: root}, nil
}

// Close closes the folder.
func (p *Process) Close() { _ = p.root.Close() }

// maxFile bounds what is read of one file: a command line may be as long as its
// process likes.
const maxFile = 64 << 10

func (p *Process) read(name string) ([]byte, error) {
	f, err := p.root.Open(name)
	if err == nil {
		defer func() { _ = f.Close() }()
		var b []byte
		if b, err = io.ReadAll(io.LimitReader(f, maxFile)); err == nil {
			return b, nil
		}
	}
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ESRCH) {
		return nil, ErrGone
	}
	return nil, err
}

// Info is what there is to see of a process.
type Info struct {
	// HostPID is the process in the host's numbers; PID and ParentPID are in the
	// container's own, 0 for a parent outside.
	HostPID, PID, ParentPID int
	// UID is the effective user in the host's numbers.
	UID     uint32
	State   string // one letter, as ps(1) explains
	Threads int
	// RSS is resident memory in bytes.
	RSS uint64
	CPU time.Duration
	// Started is how long after the machine the process was started.
	Started time.Duration
	// Name is what the process calls itself; Args its command line, empty for
	// one that has none. Both are the container's own words.
	Name string
	Args []string
}

// Info reads what there is to see.
func (p *Process) Info() (Info, error) {
	i := Info{HostPID: p.PID}
	status, err := p.read("status")
	if err == nil {
		err = i.status(status)
	}
	if err != nil {
		return i, err
	}
	stat, err := p.read("stat")
	if err == nil {
		err = i.stat(stat)
	}
	if err != nil {
		return i, err
	}
	line, err := p.read("cmdline")
	if err != nil {
		return i, err
	}
	if line = bytes.TrimRight(line, "\x00"); len(line) > 0 {
		i.Args = strings.Split(string(line), "\x00")
	}
	return i, nil
}

// status reads proc_pid_status(5).
func (i *Info) status(b []byte) error {
	for line := range bytes.Lines(b) {
		key, value, _ := bytes.Cut(line, []byte(":"))
		fields := strings.Fields(string(value))
		if len(fields) == 0 {
			continue
		}
		switch string(key) {
		case "Name":
			i.Name = strings.TrimSpace(string(value))
		case "State":
			i.State = fields[0]
		case "Threads":
			i.Threads, _ = strconv.Atoi(fields[0])
		case "Uid": // real, effective, saved, of the file system
			if len(fields) > 1 {
				uid, _ := strconv.ParseUint(fields[1], 10, 32)
				i.UID = uint32(uid)
			}
		case "NSpid": // outermost first
			i.PID, _ = strconv.Atoi(fields[len(fields)-1])
		case "VmRSS":
			kib, _ := strconv.ParseUint(fields[0], 10, 54)
			i.RSS = kib << 10
		}
	}
	if i.PID == 0 {
		return fmt.Errorf("the status of process %d lacks its pid", i.HostPID)
	}
	return nil
}

// userHz is how many clock ticks /proc has in a second, on every architecture
// that Go knows.
const userHz = 100

// stat reads the numbers of proc_pid_stat(5), which begin after the name.
func (i *Info) stat(b []byte) error {
	const parent, user, system, start = 1, 11, 12, 19 // counted from the state
	fields := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:]))
	if len(fields) <= start {
		return fmt.Errorf("the stat file of process %d has %d fields", i.HostPID, len(fields))
	}
	ticks := func(at int) time.Duration {
		n, _ := strconv.ParseInt(fields[at], 10, 64)
		return time.Duration(n) * (time.Second / userHz)
	}
	i.CPU, i.Started = ticks(user)+ticks(system), ticks(start)
	i.ParentPID, _ = strconv.Atoi(fields[parent]) // in the host's numbers still
	return nil
}

// List gives what there is to see of the processes that pids lists, which is
// asked twice: a pid that was given to another meanwhile is not in both.
func List(pids func() ([]int, error)) ([]Info, error) {
	before, err := pids()
	if err != nil {
		return nil, err
	}
	var open []*Process
	defer func() {
		for _, p := range open {
			p.Close()
		}
	}()
	for _, pid := range before {
		p, err := Open(pid)
		if errors.Is(err, ErrGone) {
			continue
		}
		if err != nil {
			return nil, err
		}
		open = append(open, p)
	}
	after, err := pids()
	if err != nil {
		return nil, err
	}
	var list []Info
	for _, p := range open {
		if !slices.Contains(after, p.PID) {
			continue
		}
		i, err := p.Info()
		if errors.Is(err, ErrGone) {
			continue
		}
		if err != nil {
			return nil, err
		}
		list = append(list, i)
	}
	inside := map[int]int{}
	for _, i := range list {
		inside[i.HostPID] = i.PID
	}
	for n := range list {
		list[n].ParentPID = inside[list[n].ParentPID] // 0 outside
	}
	slices.SortFunc(list, func(a, b Info) int { return a.PID - b.PID })
	return list, nil
}

// Traffic are bytes and packets of network interfaces, as their owner sees them.
type Traffic struct {
	Received, Sent               uint64
	ReceivedPackets, SentPackets uint64
}

// Traffic adds up the interfaces in the process's network namespace, but lo.
func (p *Process) Traffic() (Traffic, error) {
	b, err := p.read("net/dev")
	if err != nil {
		return Traffic{}, err
	}
	return parseTraffic(b), nil
}

// parseTraffic reads proc_pid_net(5), dev: name, 8 numbers received, 8 sent.
func parseTraffic(b []byte) Traffic {
	var t Traffic
	for line := range bytes.Lines(b) {
		name, numbers, ok := bytes.Cut(line, []byte(":"))
		fields := strings.Fields(string(numbers))
		if !ok || len(fields) < 10 || string(bytes.TrimSpace(name)) == "lo" {
			continue
		}
		add := func(to *uint64, at int) {
			n, _ := strconv.ParseUint(fields[at], 10, 64)
			*to += n
		}
		add(&t.Received, 0)
		add(&t.ReceivedPackets, 1)
		add(&t.Sent, 8)
		add(&t.SentPackets, 9)
	}
	return t
}
