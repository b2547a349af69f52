// Package testnode runs a TERO node for demonstrations, end-to-end tests and
// benchmarks: real binaries on the real kernel, cleared up whatever happens.
package testnode

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/vishvananda/netns"
)

// Node is a terod with a state directory, a network namespace, a cgroup and an
// nftables table of its own, so that nothing else on the machine is touched.
type Node struct {
	bin  string // folder of the binaries
	name string
	args []string
	// terod is the running daemon, or the last one; nil before the first Start.
	terod *process
}

// process is a running or ended terod.
type process struct {
	cmd    *exec.Cmd
	log    *lockedBuffer
	exited chan struct{} // closed when it has ended
}

// lockedBuffer is read while it is written.
type lockedBuffer struct {
	mu sync.Mutex // guards b
	b  bytes.Buffer
}

// Write appends.
func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

// String gives what was written.
func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// New describes a node that is not there yet. Nodes of different names live
// side by side; args are further flags of terod.
func New(bin, name string, args ...string) *Node {
	return &Node{bin: bin, name: name, args: args}
}

// Base is the folder of everything that the node and its tests keep.
func (n *Node) Base() string { return "/run/tero-" + n.name }

// StateDir is the node's state directory. TESTNODE_STATE names another folder
// for those of all nodes than /run, a tmpfs, which has no id maps before Linux 6.3.
func (n *Node) StateDir() string {
	if dir := os.Getenv("TESTNODE_STATE"); dir != "" {
		return filepath.Join(dir, "tero-"+n.name)
	}
	return filepath.Join(n.Base(), "state")
}

// RunDir is the node's run directory.
func (n *Node) RunDir() string { return filepath.Join(n.Base(), "run") }

// WorkDir is the working directory of the commands that Tero runs.
func (n *Node) WorkDir() string { return filepath.Join(n.Base(), "work") }

// Socket is the path of the API's socket.
func (n *Node) Socket() string { return filepath.Join(n.RunDir(), "tero.sock") }

// NetNS is the name of the network namespace that the node lives in.
func (n *Node) NetNS() string { return "tero-" + n.name }

func (n *Node) cgroup() string { return "tero-" + n.name }

// Table is the name of the node's nftables table, of family inet.
func (n *Node) Table() string { return "quantum_" + n.name }

// Examples is the folder of the built example programs.
func (n *Node) Examples() string { return filepath.Join(n.bin, "examples") }

// Log is what the running terod, or the last one, has written so far.
func (n *Node) Log() string {
	if n.terod == nil {
		return ""
	}
	return n.terod.log.String()
}

// MakeNetNS makes the network namespace that the node and its containers are in.
func (n *Node) MakeNetNS(ctx context.Context) error {
	for _, args := range [][]string{{"netns", "add", n.NetNS()}, {"-n", n.NetNS(), "link", "set", "lo", "up"}} {
		if out, err := exec.CommandContext(ctx, "ip", args...).CombinedOutput(); err != nil {
			return fmt.Errorf("ip %s: %w: %s", strings.Join(args, " "), err, out)
		}
	}
	return nil
}

// Start starts terod and waits until it answers. An error holds what terod said.
func (n *Node) Start(ctx context.Context) error {
	if err := n.Spawn(); err != nil {
		return err
	}
	return n.waitReady(ctx)
}

// Spawn starts terod.
func (n *Node) Spawn() error {
	for _, d := range []string{n.StateDir(), n.RunDir(), n.WorkDir()} {
		if err := os.MkdirAll(d, 0o700); err != nil {
			return err
		}
	}
	if n.terod != nil { // it holds the state directory until it has ended
		select {
		case <-n.terod.exited:
		case <-time.After(patience):
			return fmt.Errorf("the terod before has not ended: %s", n.Log())
		}
	}
	p := &process{cmd: n.Command(n.args...), log: &lockedBuffer{}, exited: make(chan struct{})}
	p.cmd.Stdout, p.cmd.Stderr = p.log, p.log
	if err := n.start(p.cmd); err != nil {
		return err
	}
	n.terod = p
	go func() {
		_ = p.cmd.Wait()
		close(p.exited)
	}()
	return nil
}

// Command is terod with the flags that keep the node to itself, and args.
func (n *Node) Command(args ...string) *exec.Cmd {
	return exec.Command(filepath.Join(n.bin, "terod"), append([]string{ //nolint:noctx // the node outlives any context on purpose
		"--node-name=" + n.name, "--trust-domain=" + n.name + ".tero",
		"--state-dir=" + n.StateDir(), "--run-dir=" + n.RunDir(), "--cgroup-parent=" + n.cgroup(),
		"--network-table=" + n.Table(), "--log-level=warn",
	}, args...)...)
}

// start starts cmd in the node's network namespace.
func (n *Node) start(cmd *exec.Cmd) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	home, err := netns.Get()
	if err != nil {
		return err
	}
	defer home.Close()
	own, err := netns.GetFromName(n.NetNS())
	if err != nil {
		return err
	}
	defer own.Close()
	if err := netns.Set(own); err != nil {
		return err
	}
	startErr := cmd.Start()
	if err := netns.Set(home); err != nil {
		panic("cannot come back from the node's network namespace: " + err.Error())
	}
	return startErr
}

// waitReady asks for the node's status until it answers or ends.
func (n *Node) waitReady(ctx context.Context) error {
	err := WaitFor(ctx, func() (bool, string) {
		select {
		case <-n.terod.exited:
			return true, ""
		default:
		}
		r := n.Tero(ctx, "status")
		return r.Code == 0, r.Stderr
	})
	select {
	case <-n.terod.exited:
		return fmt.Errorf("terod ended with code %d: %s", n.terod.cmd.ProcessState.ExitCode(), n.Log())
	default:
		return err
	}
}

// Result is how a command ended.
type Result struct {
	Stdout, Stderr string
	Code           int
	Took           time.Duration
}

// Tero runs a command of the CLI against the node, in WorkDir.
func (n *Node) Tero(ctx context.Context, args ...string) Result {
	return n.TeroInput(ctx, nil, args...)
}

// TeroInput is Tero with a standard input.
func (n *Node) TeroInput(ctx context.Context, stdin io.Reader, args ...string) Result {
	var out, errs bytes.Buffer
	cmd := exec.CommandContext(ctx, filepath.Join(n.bin, "tero"), args...)
	cmd.Dir = n.WorkDir()
	cmd.Env = append(os.Environ(), "TERO_SOCKET="+n.Socket(), "NO_COLOR=1")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = stdin, &out, &errs
	began := time.Now()
	err := cmd.Run()
	if cmd.ProcessState == nil {
		return Result{Code: -1, Stderr: err.Error()}
	}
	return Result{Stdout: out.String(), Stderr: errs.String(), Took: time.Since(began), Code: cmd.ProcessState.ExitCode()}
}

// Clear removes the node and everything that it or an earlier one of its name
// made, also one that was killed: it takes the node up again on its state and
// asks it to remove everything.
func (n *Node) Clear(ctx context.Context) error {
	if _, err := os.Stat(filepath.Join("/run/netns", n.NetNS())); err != nil {
		return errors.Join(os.RemoveAll(n.StateDir()), os.RemoveAll(n.Base()))
	}
	if _, err := os.Stat(n.StateDir()); err == nil {
		if err := n.Down(ctx); err != nil {
			return err
		}
	}
	if out, err := exec.CommandContext(ctx, "ip", "netns", "del", n.NetNS()).CombinedOutput(); err != nil {
		return fmt.Errorf("ip netns del: %w: %s", err, out)
	}
	return errors.Join(os.RemoveAll(n.StateDir()), os.RemoveAll(n.Base()))
}

// Down ends the node and everything it made. A node that does not run is
// started first: it knows what there is to remove.
func (n *Node) Down(ctx context.Context) error {
	if r := n.Tero(ctx, "status"); r.Code != 0 {
		if err := n.Start(ctx); err != nil {
			return err
		}
	}
	if r := n.Tero(ctx, "down"); r.Code != 0 {
		return fmt.Errorf("tero down: %s", r.Stderr)
	}
	return WaitFor(ctx, func() (bool, string) {
		pids := n.processes()
		return len(pids) == 0, fmt.Sprintf("processes %v are left", pids)
	})
}

// Kill9 ends terod as a crash would; its containers run on.
func (n *Node) Kill9() error {
	if err := n.terod.cmd.Process.Kill(); err != nil {
		return err
	}
	<-n.terod.exited
	return nil
}

// Terod is the pid of the running daemon, or of the last one.
func (n *Node) Terod() int { return n.terod.cmd.Process.Pid }

// Keepers gives the node's keepers, of which there should be one. A keeper is
// known by the log that it holds open, as its children do until they execute
// something.
func (n *Node) Keepers() []int {
	keepers, _ := n.kept()
	return keepers
}

// Prepared gives the processes of prepared sandboxes.
func (n *Node) Prepared() []int {
	_, prepared := n.kept()
	return prepared
}

func (n *Node) kept() (keepers, prepared []int) {
	var holders []int
	for _, pid := range pids() {
		if n.keeps(pid) {
			holders = append(holders, pid)
		}
	}
	for _, pid := range holders {
		if slices.Contains(holders, parent(pid)) {
			prepared = append(prepared, pid)
		} else {
			keepers = append(keepers, pid)
		}
	}
	return keepers, prepared
}

// parent gives the parent of a process; 0 when it has ended.
func parent(pid int) int {
	// pid (name) state parent: proc_pid_stat(5).
	b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	fields := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:]))
	if len(fields) < 2 {
		return 0
	}
	parent, _ := strconv.Atoi(fields[1])
	return parent
}

func (n *Node) keeps(pid int) bool {
	log, _ := os.Readlink(fmt.Sprintf("/proc/%d/fd/2", pid))
	return strings.HasPrefix(log, n.RunDir()+"/")
}

// processes gives the processes of the node: terod, by its folder in the
// command line, the keeper, and containers, by their cgroup.
func (n *Node) processes() []int {
	var ours []int
	for _, pid := range pids() {
		dir := filepath.Join("/proc", strconv.Itoa(pid))
		args, _ := os.ReadFile(filepath.Join(dir, "cmdline"))
		groups, _ := os.ReadFile(filepath.Join(dir, "cgroup"))
		program, _, _ := bytes.Cut(args, []byte{0})
		terod := strings.HasPrefix(filepath.Base(string(program)), "tero") && bytes.Contains(args, []byte(n.Base()+"/"))
		if terod || n.keeps(pid) || bytes.Contains(groups, []byte("/"+n.cgroup()+"/")) {
			ours = append(ours, pid)
		}
	}
	return ours
}

// pids gives all processes of the machine.
func pids() []int {
	var all []int
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil
	}
	for _, e := range entries {
		if pid, err := strconv.Atoi(e.Name()); err == nil {
			all = append(all, pid)
		}
	}
	return all
}

// Cgroups gives the node's cgroup in each hierarchy that has it: the parent of
// those of its containers.
func (n *Node) Cgroups() ([]string, error) {
	var dirs []string
	err := filepath.WalkDir("/sys/fs/cgroup", func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() && d.Name() == n.cgroup() {
			dirs = append(dirs, path)
			return fs.SkipDir
		}
		return nil // a cgroup of somebody else may go while we walk
	})
	return dirs, err
}

// Left names everything that is left of the node in the kernel, of what a node
// makes there: processes, mounts, cgroups, links, nftables tables.
func (n *Node) Left(ctx context.Context) ([]string, error) {
	var left []string
	for _, pid := range n.processes() {
		left = append(left, fmt.Sprintf("process %d", pid))
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	for line := range strings.Lines(string(mounts)) {
		if strings.Contains(line, n.Base()+"/") {
			left = append(left, "mount "+strings.TrimSpace(line))
		}
	}
	groups, err := n.Cgroups()
	if err != nil {
		return nil, err
	}
	for _, dir := range groups {
		left = append(left, "cgroup "+dir)
	}
	for what, args := range map[string][]string{
		"link":           {"ip", "-o", "link", "show", "type", "veth"},
		"nftables table": {"nft", "list", "tables"},
	} {
		out, err := n.InNetNS(ctx, args...)
		if err != nil {
			return nil, err
		}
		for line := range strings.Lines(out) {
			left = append(left, what+" "+strings.TrimSpace(line))
		}
	}
	return left, nil
}

// InNetNS runs a command in the node's network namespace and gives its output.
func (n *Node) InNetNS(ctx context.Context, args ...string) (string, error) {
	var out, errs bytes.Buffer
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := n.start(cmd); err != nil {
		return "", err
	}
	if err := cmd.Wait(); err != nil {
		return "", fmt.Errorf("%s: %w: %s", strings.Join(args, " "), err, errs.String())
	}
	return out.String(), nil
}

// patience is how long WaitFor waits.
const patience = 30 * time.Second

// WaitFor waits until done says so; its word is the error when it never does.
func WaitFor(ctx context.Context, done func() (bool, string)) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		ok, why := done()
		if ok {
			return nil
		}
		select {
		case <-ctx.Done():
			return errors.New(why)
		case <-tick.C:
		}
	}
}
