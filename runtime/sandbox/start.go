package sandbox

import (
	"bytes"
	"context"
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"tero.internal/common/fault"
	"tero.internal/common/workload"
	"tero.internal/runtime/internal/protocol"
)

// Start writes the container's network files and executes its process. It
// returns when the process executes, or with what kept it from that.
func (n *Native) Start(ctx context.Context, id workload.ID, endpoint *workload.Endpoint) error {
	d, err := n.describe(id)
	if err != nil {
		return err
	}
	if err := n.writeEtc(id, d.Config.Hostname, endpoint); err != nil {
		return explainDisk(err)
	}
	n.mu.Lock()
	m := n.made[id]
	delete(n.made, id)
	n.mu.Unlock()
	var steps []string
	var root *os.File
	if m != nil {
		steps, root = m.steps, m.root
		defer func() { _ = root.Close() }()
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), createTimeout)
	defer cancel()
	_, _, err = n.call(ctx, &protocol.Request{Op: protocol.OpStart, ID: string(id)})
	switch code(err) {
	case protocol.OK:
	case protocol.Unknown:
		return fault.New(fault.NotFound, "there is no container %s", id.Short())
	case protocol.WrongPhase:
		return fault.New(fault.Conflict, "container %s was started before", id.Short())
	}
	return n.explain(err, steps, root, d.Config)
}

func (n *Native) describe(id workload.ID) (*description, error) {
	var d description
	if err := readJSON(filepath.Join(n.folder(id), configFile), &d); err != nil {
		if errors.Is(err, os.ErrNotExist) {
			return nil, fault.New(fault.NotFound, "there is no container %s", id.Short())
		}
		return nil, err
	}
	return &d, nil
}

// writeEtc writes the container's files. They keep their inodes, which are
// mounted already.
func (n *Native) writeEtc(id workload.ID, hostname string, e *workload.Endpoint) error {
	var hosts, resolv strings.Builder
	hosts.WriteString("127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n")
	if e != nil {
		if e.Address.IsValid() && hostname != "" {
			fmt.Fprintf(&hosts, "%s\t%s\n", e.Address.Addr(), hostname)
		}
		if len(e.Search) > 0 {
			fmt.Fprintf(&resolv, "search %s\n", strings.Join(e.Search, " "))
		}
		for _, a := range e.DNS {
			fmt.Fprintf(&resolv, "nameserver %s\n", a)
		}
	}
	for name, content := range map[string]string{"hosts": hosts.String(), "resolv.conf": resolv.String(), "hostname": hostname + "\n"} {
		f, err := os.OpenFile(filepath.Join(n.folder(id), etcFolder, name), os.O_WRONLY|os.O_TRUNC, 0) //nolint:gosec // a folder of ours
		if err != nil {
			return err
		}
		_, err = f.WriteString(content)
		if err = errors.Join(err, f.Close()); err != nil {
			return err
		}
	}
	return nil
}

// explain makes a fault of what the keeper said about a process. root may be nil.
func (n *Native) explain(err error, steps []string, root *os.File, config *specs.Spec) error {
	var r *refusal
	if !errors.As(err, &r) {
		return err
	}
	reply := r.reply
	switch reply.Code {
	case protocol.Clone:
		if reply.Errno == unix.ENOSPC || reply.Errno == unix.EAGAIN || reply.Errno == unix.ENOMEM {
			return fault.New(fault.Exhausted, "the kernel makes no more processes or namespaces: %w", reply.Errno).
				WithHint("remove containers, or raise the limits in /proc/sys/user and /proc/sys/kernel/pid_max")
		}
		return fault.New(fault.Unsupported, "the kernel refuses to make namespaces: %w", reply.Errno).
			WithHint("\"tero doctor\" says what this machine lacks")
	case protocol.Died:
		return fault.New(fault.Exhausted, "the container was killed while it was set up").
			WithHint("its memory limit may be too low")
	case protocol.Step:
		step := stepExec
		if int(reply.At) < len(steps) {
			step = steps[reply.At]
		}
		if step == stepExec {
			return explainExec(reply.Errno, config.Process, root)
		}
		if name, ok := strings.CutPrefix(step, "change to the working directory "); ok && reply.Errno == unix.ENOENT {
			return fault.New(fault.NotFound, "working directory %q does not exist in the image", name).
				WithHint("choose another with --workdir")
		}
		return fault.New(kindOf(reply.Errno), "the container could not be set up: %s: %w", step, reply.Errno).
			WithHint("\"tero doctor\" says what this machine lacks")
	}
	return err
}

func kindOf(errno unix.Errno) fault.Kind {
	switch errno {
	case unix.ENOSPC, unix.ENOMEM, unix.EDQUOT, unix.EAGAIN, unix.EMFILE, unix.ENFILE:
		return fault.Exhausted
	case unix.ENOENT, unix.ENOTDIR, unix.ELOOP, unix.EACCES, unix.EINVAL:
		return fault.Invalid
	case unix.ENOSYS, unix.EPERM, unix.ENODEV, unix.EOPNOTSUPP:
		return fault.Unsupported
	}
	return fault.Internal
}

// explainExec says why a command was not executed, by looking at it in the
// container's root file system.
func explainExec(errno unix.Errno, p *specs.Process, root *os.File) error {
	command := p.Args[0]
	switch errno {
	case unix.EACCES, unix.EPERM, unix.EISDIR:
		return fault.New(fault.Invalid, "command %q is not executable by user %d: %w", command, p.User.UID, errno).
			WithHint("is it a regular file with the x bit (chmod +x), on a mount without noexec?")
	case unix.ENOEXEC:
		return fault.New(fault.Invalid, "command %q is not in a format that this machine executes: %w", command, errno).
			WithHint("is the image for another architecture, or a script without its \"#!\" line?")
	case unix.E2BIG:
		return fault.New(fault.Invalid, "the arguments and the environment of %q are too long: %w", command, errno)
	case unix.ENOENT, unix.ENOTDIR:
	default:
		return fault.New(kindOf(errno), "command %q could not be executed: %w", command, errno)
	}
	if root != nil {
		for _, path := range candidates(command, p.Env) {
			if !filepath.IsAbs(path) {
				path = filepath.Join(p.Cwd, path)
			}
			if need := interpreter(root, path); need != "" {
				return fault.New(fault.NotFound, "command %q needs %q, which the image does not have: %w", command, need, errno).
					WithHint("the image lacks an interpreter or the C library; link the program statically, or use an image that has it")
			}
		}
	}
	return fault.New(fault.NotFound, "command %q was not found in the image: %w", command, errno).
		WithHint("check its spelling, and PATH in the image's environment")
}

// interpreter gives the loader or script interpreter that the file at path asks
// for; "" when there is no such file or it asks for none.
func interpreter(root *os.File, path string) string {
	fd := -1
	err := control(root, func(dir int) (err error) {
		fd, err = unix.Openat2(dir, inside(path), &unix.OpenHow{
			Flags: unix.O_RDONLY | unix.O_CLOEXEC | unix.O_NONBLOCK, Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS,
		})
		return err
	})
	if err != nil {
		return ""
	}
	f := os.NewFile(uintptr(fd), path)
	defer func() { _ = f.Close() }()
	head := make([]byte, 256)
	k, _ := io.ReadFull(f, head)
	if line, ok := bytes.CutPrefix(head[:k], []byte("#!")); ok {
		line, _, _ = bytes.Cut(line, []byte("\n"))
		if fields := strings.Fields(string(line)); len(fields) > 0 {
			return fields[0]
		}
		return ""
	}
	e, err := elf.NewFile(f)
	if err != nil {
		return ""
	}
	for _, p := range e.Progs {
		if p.Type == elf.PT_INTERP && p.Filesz < 4096 {
			b, err := io.ReadAll(p.Open())
			if err != nil {
				return ""
			}
			return strings.TrimRight(string(b), "\x00")
		}
	}
	return ""
}
