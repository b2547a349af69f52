package sandbox

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"tero.internal/common/fault"
	"tero.internal/common/workload"
	"tero.internal/runtime/internal/keeperclient"
	"tero.internal/runtime/internal/prepared"
	"tero.internal/runtime/internal/protocol"
	"tero.internal/runtime/internal/setup"
	"tero.internal/runtime/ociconfig"
)

// Process is a further process in a sandbox. It runs on when nobody waits for it.
type Process struct {
	native   *Native
	id       workload.ID
	token    uint32
	pid      int
	terminal *os.File
}

// PID is the process in the host's numbers.
func (p *Process) PID() int { return p.pid }

// Terminal is the master of the process's terminal, or nil. The caller closes it.
func (p *Process) Terminal() *os.File { return p.terminal }

// Exec runs a further process in a running container, under the same
// confinement. It returns when the process executes.
func (n *Native) Exec(ctx context.Context, id workload.ID, spec ExecSpec) (*Process, error) {
	d, err := n.describe(id)
	if err != nil {
		return nil, err
	}
	r, err := n.loadRecord(id)
	if err != nil {
		return nil, err
	}
	if r == nil {
		return nil, fault.New(fault.NotFound, "there is no container %s", id.Short())
	}
	p, err := execProcess(d, spec)
	if err != nil {
		return nil, err
	}
	group, err := r.Cgroup.Open()
	if err != nil {
		return nil, fault.New(fault.Conflict, "container %s does not run: %w", id.Short(), err)
	}
	defer group.Close()
	limits := setup.Rlimits(ctx, n.Log, n.maxFiles, p)
	c, err := n.filters.Process(d.Config, p, group.Tasks, limits)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	req := &protocol.Request{
		Op: protocol.OpExec, ID: string(id), Rlimits: limits,
		Folder: protocol.None, OOM: protocol.None, Cgroup: protocol.None,
	}
	var extra []*os.File
	if group.V2 != nil {
		extra = append(extra, group.V2)
		req.Cgroup = int32(len(c.Files()) + 1) //nolint:gosec // an index
	}
	if p.Terminal {
		req.Flags |= protocol.FlagTerminal
	} else {
		req.Flags |= protocol.FlagStdio
		host := r.Slot.HostID()
		stdio, err := openStdio(spec, int(host+p.User.UID), int(host+p.User.GID))
		defer closeOwned(stdio, spec)
		if err != nil {
			return nil, err
		}
		extra = append(extra, stdio...)
	}
	reply, terminal, err := prepared.Run(ctx, (*keeperOf)(n), req, c, extra...)
	switch keeperclient.Code(err) {
	case protocol.OK:
		if err != nil {
			return nil, err
		}
	case protocol.Unknown, protocol.WrongPhase:
		return nil, fault.New(fault.Conflict, "container %s does not run", id.Short())
	default:
		config := *d.Config
		config.Process = p
		return nil, prepared.Explain(err, c.Steps(), nil, &config)
	}
	return &Process{native: n, id: id, token: reply.Token, pid: int(reply.PID), terminal: terminal}, nil
}

// execProcess gives the process of an ExecSpec: the container's own, changed.
func execProcess(d *description, spec ExecSpec) (*specs.Process, error) {
	if len(spec.Args) == 0 || spec.Args[0] == "" {
		return nil, fault.New(fault.Invalid, "there is no command to execute")
	}
	p := *d.Config.Process
	p.Args, p.Terminal, p.ConsoleSize = spec.Args, spec.Terminal, nil
	if spec.Rows != 0 || spec.Columns != 0 {
		p.ConsoleSize = &specs.Box{Height: uint(spec.Rows), Width: uint(spec.Columns)}
	}
	p.Env = slices.Concat(p.Env, spec.Env)
	if spec.Terminal && !slices.ContainsFunc(p.Env, func(e string) bool { return strings.HasPrefix(e, "TERM=") }) {
		p.Env = append(p.Env, "TERM=xterm")
	}
	p.Env = lastWins(p.Env)
	if spec.Cwd != "" {
		if !filepath.IsAbs(spec.Cwd) {
			return nil, fault.New(fault.Invalid, "working directory %q is not an absolute path", spec.Cwd)
		}
		p.Cwd = spec.Cwd
	}
	if spec.User != "" {
		// The same code that finds the container's user finds this one.
		image := d.Image
		image.Layers = d.Layers
		var caps []string
		if p.Capabilities != nil {
			caps = p.Capabilities.Bounding
		}
		config, err := ociconfig.Build(workload.Spec{
			Name: "exec", Image: image.Reference, Args: spec.Args, User: spec.User, WorkingDir: "/",
			Network: workload.NetworkNone, CapAdd: caps,
		}, image)
		if err != nil {
			return nil, err
		}
		p.User, p.Capabilities = config.Process.User, config.Process.Capabilities
	}
	return &p, nil
}

// lastWins drops entries of the environment that a later one replaces.
func lastWins(env []string) []string {
	var out []string
	seen := map[string]bool{}
	for _, e := range slices.Backward(env) {
		key, _, _ := strings.Cut(e, "=")
		if !seen[key] {
			seen[key] = true
			out = append(out, e)
		}
	}
	slices.Reverse(out)
	return out
}

// openStdio gives the standard streams. Pipes become the user's, so that it can
// open /dev/stdout: a pipe is open to its owner only.
func openStdio(spec ExecSpec, uid, gid int) (streams []*os.File, err error) {
	for i, f := range []*os.File{spec.Stdin, spec.Stdout, spec.Stderr} {
		if f == nil {
			flags := os.O_WRONLY
			if i == 0 {
				flags = os.O_RDONLY
			}
			if f, err = os.OpenFile(os.DevNull, flags, 0); err != nil {
				return streams, err
			}
			streams = append(streams, f)
			continue
		}
		st, err := f.Stat()
		if err == nil && st.Mode().Type() == os.ModeNamedPipe {
			err = f.Chown(uid, gid)
		}
		if err != nil {
			return streams, err
		}
		streams = append(streams, f)
	}
	return streams, nil
}

// closeOwned closes the streams that are not the caller's.
func closeOwned(streams []*os.File, spec ExecSpec) {
	for _, f := range streams {
		if f != spec.Stdin && f != spec.Stdout && f != spec.Stderr {
			_ = f.Close()
		}
	}
}

// Wait waits for the end of the process. It may be called once.
func (p *Process) Wait(ctx context.Context) (Exit, error) {
	reply, _, err := p.native.call(ctx, &protocol.Request{Op: protocol.OpWait, ID: string(p.id), Token: p.token})
	if keeperclient.Code(err) == protocol.Unknown {
		return Exit{}, fault.New(fault.NotFound, "the process is gone with container %s", p.id.Short())
	}
	if err != nil {
		return Exit{}, err
	}
	return exitOf(reply.Exit), nil
}

// Signal sends a signal to the process.
func (p *Process) Signal(ctx context.Context, sig unix.Signal) error {
	_, _, err := p.native.call(ctx, &protocol.Request{Op: protocol.OpSignal, ID: string(p.id), Token: p.token, Number: int32(sig)}) //nolint:gosec // a signal
	if keeperclient.Code(err) == protocol.Unknown {
		return fault.New(fault.NotFound, "the process has ended")
	}
	return err
}

// Resize sets the size of the process's terminal.
func (p *Process) Resize(_ context.Context, rows, cols uint16) error {
	if p.terminal == nil {
		return fault.New(fault.Conflict, "the process has no terminal")
	}
	return resize(p.terminal, rows, cols)
}
