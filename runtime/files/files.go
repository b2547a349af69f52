// Package files copies files to and from containers. What it may reach is decided
// by what it opens here, the container's own root, and by what runtime/copier is.
package files

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"strconv"

	"golang.org/x/sys/unix"

	"tero.internal/common/fault"
	"tero.internal/common/filetree"
	"tero.internal/common/workload"
	"tero.internal/runtime/copier"
	"tero.internal/runtime/internal/copierclient"
	"tero.internal/runtime/sandbox"
)

// Sandboxes are the containers (sandbox.Native).
type Sandboxes interface {
	// PID gives the first process of a running container in the host's numbers.
	PID(ctx context.Context, container workload.ID) (int, error)
	// Place tells where a container is in the kernel.
	Place(container workload.ID) (sandbox.Place, error)
}

// Copier copies.
type Copier struct {
	sandboxes Sandboxes
	initPath  string
}

// New gives a copier that runs the tero-init binary at initPath.
func New(s Sandboxes, initPath string) *Copier { return &Copier{sandboxes: s, initPath: initPath} }

// Out starts to copy from a running container: read Archive, then call Wait.
func (c *Copier) Out(ctx context.Context, id workload.ID, path string, follow bool) (*copierclient.Copy, error) {
	p, err := c.place(ctx, id)
	if err != nil {
		return nil, err
	}
	defer func() { _ = p.Root.Close() }()
	return copierclient.Out(ctx, *p, path, follow)
}

// In copies an archive into a running container. source is what the archive is
// of; nil for one whose names stay as they are.
func (c *Copier) In(ctx context.Context, id workload.ID, path string, source *filetree.Source, owners bool, archive io.Reader) (filetree.Summary, error) {
	p, err := c.place(ctx, id)
	if err != nil {
		return filetree.Summary{}, err
	}
	defer func() { _ = p.Root.Close() }()
	args := copier.Arguments{Path: path, Raw: source == nil, Owners: owners}
	if source != nil {
		args.Source = *source
	}
	return copierclient.In(ctx, *p, args, archive)
}

// place opens the root of a container that runs, as its first process sees it,
// with all that is mounted there.
func (c *Copier) place(ctx context.Context, id workload.ID) (*copierclient.Place, error) {
	place, err := c.sandboxes.Place(id)
	if err != nil {
		return nil, err
	}
	gone := fault.New(fault.Conflict, "container %s does not run", id.Short())
	pid, err := c.sandboxes.PID(ctx, id)
	if err != nil {
		return nil, err
	}
	fd, err := unix.Open("/proc/"+strconv.Itoa(pid)+"/root", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ESRCH) {
		return nil, gone
	}
	if err != nil {
		return nil, os.NewSyscallError("open the container's root", err)
	}
	root := os.NewFile(uintptr(fd), "root")
	// The keeper has not reaped it, so the pid was its own when the root was opened.
	if again, err := c.sandboxes.PID(ctx, id); err != nil || again != pid {
		return nil, errors.Join(gone, err, root.Close())
	}
	return &copierclient.Place{InitPath: c.initPath, Root: root, HostID: place.HostID}, nil
}
