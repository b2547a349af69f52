package sandbox

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"tero.internal/common/fault"
	"tero.internal/common/workload"
	"tero.internal/runtime/internal/keeperclient"
	"tero.internal/runtime/internal/protocol"
	"tero.internal/runtime/internal/setup"
)

// Start writes the container's network files and executes its process. It
// returns when the process executes, or with what kept it from that.
func (n *Native) Start(ctx context.Context, id workload.ID, endpoint *workload.Endpoint) error {
	n.mu.Lock()
	m := n.made[id]
	n.mu.Unlock()
	if m == nil { // made by a process before this one
		d, err := n.describe(id)
		if err != nil {
			return err
		}
		m = &made{config: d.Config}
	}
	if err := n.writeEtc(id, m.config.Hostname, endpoint); err != nil {
		return explainDisk(err)
	}
	if err := n.holds.Begin(n.LogPath(id)); err != nil {
		return explainDisk(err)
	}
	n.mu.Lock()
	delete(n.made, id)
	n.mu.Unlock()
	defer func() { _ = m.root.Close() }()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), createTimeout)
	defer cancel()
	_, _, err := n.call(ctx, &protocol.Request{Op: protocol.OpStart, ID: string(id)})
	switch keeperclient.Code(err) {
	case protocol.OK:
	case protocol.Unknown:
		return fault.New(fault.NotFound, "there is no container %s", id.Short())
	case protocol.WrongPhase:
		return fault.New(fault.Conflict, "container %s was started before", id.Short())
	}
	return n.explain(err, m.steps, m.root, m.config)
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
		f, err := os.OpenFile(filepath.Join(n.running(id), name), os.O_WRONLY|os.O_TRUNC, 0) //nolint:gosec // a folder of ours
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
	var r *keeperclient.Refusal
	if !errors.As(err, &r) {
		return err
	}
	reply := r.Reply
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
		step := ""
		if int(reply.At) < len(steps) {
			step = steps[reply.At]
		}
		return setup.Explain(step, reply.Errno, config.Process, root)
	}
	return err
}
