package sandbox

import (
	"context"
	"errors"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"tero.internal/common/fault"
	"tero.internal/common/workload"
	"tero.internal/runtime/internal/keeperclient"
	"tero.internal/runtime/internal/protocol"
)

// Signal sends a signal to the container's first process.
func (n *Native) Signal(ctx context.Context, id workload.ID, sig unix.Signal) error {
	_, _, err := n.call(ctx, &protocol.Request{Op: protocol.OpSignal, ID: string(id), Number: int32(sig)}) //nolint:gosec // a signal
	if keeperclient.Code(err) == protocol.Unknown {
		return fault.New(fault.NotFound, "container %s has no process", id.Short())
	}
	return err
}

// Wait waits for the end of the container's first process, and gives how it
// ended; also when that was long ago. Everything it wrote is in the log then.
// Connections to the keeper may come and go meanwhile: only the keeper's own
// word, or its end, is an end of the container.
func (n *Native) Wait(ctx context.Context, id workload.ID) (Exit, error) {
	const pause = 10 * time.Millisecond
	for {
		reply, _, err := n.call(ctx, &protocol.Request{Op: protocol.OpWait, ID: string(id)})
		if err == nil {
			return exitOf(reply.Exit), nil
		}
		// Not the keeper's: it has ended, or the keeper has.
		unknown := keeperclient.Code(err) == protocol.Unknown
		if !unknown && !passing(err) {
			return Exit{}, err
		}
		exit, diskErr := n.loadExit(id)
		if diskErr != nil && !passing(diskErr) {
			return Exit{}, diskErr
		}
		if exit != nil {
			return *exit, nil
		}
		if unknown && diskErr == nil {
			return Exit{}, fault.New(fault.NotFound, "there is no container %s", id.Short())
		}
		select {
		case <-ctx.Done():
			return Exit{}, ctx.Err()
		case <-time.After(pause): // the call after this connects again
		}
	}
}

// passing tells whether err says nothing about the containers: a connection to
// the keeper that was lost or cannot be made just now.
func passing(err error) bool {
	for _, e := range []error{keeperclient.ErrLost, keeperclient.ErrSilent, unix.EMFILE, unix.ENFILE} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// Input gives the write end of the container's standard input, or the master of
// its terminal. The caller closes it, which ends the input only after CloseInput.
func (n *Native) Input(ctx context.Context, id workload.ID) (*os.File, error) {
	_, f, err := n.call(ctx, &protocol.Request{Op: protocol.OpInput, ID: string(id)})
	switch keeperclient.Code(err) {
	case protocol.Unknown:
		return nil, fault.New(fault.NotFound, "there is no container %s", id.Short())
	case protocol.WrongPhase:
		return nil, fault.New(fault.Conflict, "the standard input of container %s is closed", id.Short()).
			WithHint("run it with an open input (tero run -i)")
	}
	if err == nil && f == nil {
		err = errors.New("keeper: no file in the reply")
	}
	return f, err
}

// CloseInput makes the files of Input the only ones that hold the container's
// standard input open.
func (n *Native) CloseInput(ctx context.Context, id workload.ID) error {
	_, _, err := n.call(ctx, &protocol.Request{Op: protocol.OpCloseInput, ID: string(id)})
	if keeperclient.Code(err) == protocol.Unknown {
		return fault.New(fault.NotFound, "there is no container %s", id.Short())
	}
	return err
}

// Resize sets the size of the container's terminal.
func (n *Native) Resize(ctx context.Context, id workload.ID, rows, cols uint16) error {
	f, err := n.Input(ctx, id)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	return resize(f, rows, cols)
}

func resize(terminal *os.File, rows, cols uint16) error {
	err := keeperclient.Control(terminal, func(fd int) error {
		return unix.IoctlSetWinsize(fd, unix.TIOCSWINSZ, &unix.Winsize{Row: rows, Col: cols})
	})
	if errors.Is(err, unix.ENOTTY) {
		return fault.New(fault.Conflict, "the container has no terminal").WithHint("run it with one (tero run -t)")
	}
	return err
}

// PID gives the container's first process in the host's numbers.
func (n *Native) PID(ctx context.Context, id workload.ID) (int, error) {
	known, err := n.listKept(ctx, id)
	if err != nil {
		return 0, err
	}
	if s, ok := known[id]; ok && s.PID != 0 {
		return s.PID, nil
	}
	return 0, fault.New(fault.NotFound, "container %s has no process", id.Short())
}
