package prepared

import (
	"context"
	"errors"
	"os"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"tero.internal/runtime/internal/protocol"
	"tero.internal/runtime/internal/setup"
)

// requestTimeout bounds what the keeper does for one request.
const requestTimeout = 30 * time.Second

// Keeper is the process that clones.
type Keeper interface {
	// Call sends a request.
	Call(ctx context.Context, req *protocol.Request, files ...*os.File) (*protocol.Reply, *os.File, error)
	// PID gives the keeper that answers now.
	PID(ctx context.Context) (int, error)
}

// Run sends a request with a program, its files and extra ones behind it, and
// gives the file of the reply.
func Run(ctx context.Context, k Keeper, req *protocol.Request, c *setup.Setup, extra ...*os.File) (*protocol.Reply, *os.File, error) {
	code, err := memfile("program", c.Program().Encode())
	if err != nil {
		return nil, nil, err
	}
	defer func() { _ = code.Close() }()
	req.Program = int32(len(c.Files())) //nolint:gosec // an index
	files := slices.Concat(c.Files(), []*os.File{code}, extra)
	// Not to be left half-way: the keeper's answer decides what there is.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), requestTimeout)
	defer cancel()
	return k.Call(ctx, req, files...)
}

// memfile gives a memory file with data.
func memfile(name string, data []byte) (*os.File, error) {
	fd, err := unix.MemfdCreate(name, unix.MFD_CLOEXEC|unix.MFD_NOEXEC_SEAL)
	if errors.Is(err, unix.EINVAL) { // before 6.3
		fd, err = unix.MemfdCreate(name, unix.MFD_CLOEXEC)
	}
	if err != nil {
		return nil, os.NewSyscallError("memfd_create", err)
	}
	f := os.NewFile(uintptr(fd), name)
	if _, err := f.Write(data); err != nil {
		_ = f.Close()
		return nil, err
	}
	return f, nil
}
