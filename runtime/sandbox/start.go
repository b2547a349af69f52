package sandbox

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"tero.internal/common/fault"
	"tero.internal/common/workload"
	"tero.internal/runtime/internal/prepared"
	"tero.internal/runtime/internal/protocol"
)

// Start writes the container's network files and executes its process. It
// returns when the process executes, or with what kept it from that.
func (n *Native) Start(ctx context.Context, id workload.ID, endpoint *workload.Endpoint) error {
	n.mu.Lock()
	m := n.made[id]
	delete(n.made, id)
	n.mu.Unlock()
	if m == nil {
		return n.notMade(id)
	}
	defer m.close()
	if err := n.writeEtc(id, m.config.Hostname, endpoint); err != nil {
		return prepared.ExplainDisk(err)
	}
	if err := n.holds.Begin(n.LogPath(id)); err != nil {
		return prepared.ExplainDisk(err)
	}
	user, host := m.config.Process.User, m.prepared.Record.Slot.HostID()
	req := &protocol.Request{
		Op: protocol.OpStart, ID: string(id), From: m.prepared.Record.Name, Rlimits: m.limits,
		UID: host + user.UID, GID: host + user.GID, OOM: protocol.None, Cgroup: protocol.None,
	}
	switch {
	case m.config.Process.Terminal:
		req.Flags |= protocol.FlagTerminal
	case m.config.Annotations[annotationInput] == "true":
		req.Flags |= protocol.FlagInput
	}
	boundLog(req, m.config)
	folder, err := os.Open(n.folder(id))
	if err != nil {
		return err
	}
	defer func() { _ = folder.Close() }()
	req.Folder = int32(len(m.setup.Files()) + 1) //nolint:gosec // an index
	_, _, err = prepared.Run(ctx, (*keeperOf)(n), req, m.setup, folder)
	return prepared.Explain(err, m.setup.Steps(), m.root, m.config)
}

// notMade says why a container cannot be started.
func (n *Native) notMade(id workload.ID) error {
	if _, err := os.Stat(n.running(id)); err != nil {
		return fault.New(fault.NotFound, "there is no container %s", id.Short())
	}
	return fault.New(fault.Conflict, "container %s was started before, or made by a node process that has ended", id.Short()).
		WithHint("remove it and launch it again")
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
