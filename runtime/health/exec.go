package health

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"tero.internal/common/workload"
	"tero.internal/runtime/sandbox"
)

// Executor runs further processes in containers (supervise.Supervisor).
type Executor interface {
	Exec(ctx context.Context, container string, spec sandbox.ExecSpec) (*sandbox.Process, error)
}

// drainFor is how long output may come after the command has exited, from others
// that hold its streams.
const drainFor = 100 * time.Millisecond

// reapFor bounds the wait for a command that was killed.
const reapFor = 5 * time.Second

// Execute runs a command in a container, as confined as the container, and gives
// its exit code and the first MaxOutput bytes that it wrote. When ctx ends first
// it is killed, and the error is ctx's.
func Execute(ctx context.Context, in Executor, container workload.ID, command []string) (code int, output []byte, err error) {
	ours, theirs, err := os.Pipe()
	if err != nil {
		return CodeFailed, nil, fmt.Errorf("make a pipe: %w", err)
	}
	defer func() { _ = ours.Close() }()
	p, err := in.Exec(ctx, string(container), sandbox.ExecSpec{Args: command, Stdout: theirs, Stderr: theirs})
	_ = theirs.Close()
	if err != nil {
		return CodeFailed, nil, err
	}
	read := make(chan []byte, 1)
	go func() { read <- first(ours) }()
	exit, err := p.Wait(ctx)
	if err != nil {
		after, cancel := context.WithTimeout(context.WithoutCancel(ctx), reapFor)
		defer cancel()
		err = errors.Join(err, p.Signal(after, unix.SIGKILL))
	}
	_ = ours.SetReadDeadline(time.Now().Add(drainFor))
	return exit.Code, <-read, err
}

// first reads to the end, and gives the first MaxOutput bytes.
func first(f *os.File) []byte {
	var kept []byte
	buf := make([]byte, MaxOutput)
	for {
		n, err := f.Read(buf)
		kept = append(kept, buf[:min(n, MaxOutput-len(kept))]...)
		if err != nil { // the end, or the deadline
			return kept
		}
	}
}
