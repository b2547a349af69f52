package server

import (
	"context"
	"errors"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc"

	runtimev1 "tero.internal/api/runtime/v1"
	"tero.internal/common/fault"
	"tero.internal/common/workload"
	"tero.internal/runtime/insight"
	"tero.internal/runtime/internal/crilog"
	"tero.internal/runtime/sandbox"
	"tero.internal/runtime/state"
	"tero.internal/runtime/supervise"
)

// Sandboxes are the containers' processes (sandbox.Native).
type Sandboxes interface {
	Streams
	Outputs
	insight.Sandboxes
	// List gives all of them.
	List(ctx context.Context) ([]sandbox.Status, error)
}

// Streams connect to containers' processes.
type Streams interface {
	// Input gives the write end of standard input, or the terminal.
	Input(ctx context.Context, container workload.ID) (*os.File, error)
	// CloseInput tells the container that its standard input has ended.
	CloseInput(ctx context.Context, container workload.ID) error
	Resize(ctx context.Context, container workload.ID, rows, columns uint16) error
}

// Outputs are the logs of containers.
type Outputs interface {
	LogPath(container workload.ID) string
	// ReleaseLog ends the hold that a launch took of its log.
	ReleaseLog(container workload.ID)
}

// Attach connects the caller with a container's streams, launching it first
// when asked.
func (r *Runtime) Attach(stream grpc.BidiStreamingServer[runtimev1.AttachRequest, runtimev1.AttachResponse]) error {
	ctx := stream.Context()
	first, err := stream.Recv()
	if err != nil {
		return err
	}
	c, opts, release, err := r.attachTo(ctx, first, stream.Send)
	if err != nil {
		return err
	}
	defer release()
	f := &feeder{runtime: r, container: c.ID}
	defer f.close()
	go f.feed(stream)
	if err := r.sendOutput(ctx, c.ID, opts, stream.Send); err != nil {
		return err
	}
	exit, err := r.supervisor.Wait(ctx, c.ID)
	if err != nil {
		return err
	}
	return stream.Send(&runtimev1.AttachResponse{Response: &runtimev1.AttachResponse_Exit{Exit: exitToProto(exit)}})
}

// attachTo launches or finds the container that the first message names, and
// holds it.
func (r *Runtime) attachTo(
	ctx context.Context, first *runtimev1.AttachRequest, send func(*runtimev1.AttachResponse) error,
) (state.Container, crilog.Options, func(), error) {
	var opts crilog.Options
	switch req := first.GetRequest().(type) {
	case *runtimev1.AttachRequest_Run:
		c, resp, end, err := r.launch(ctx, req.Run, true)
		if err != nil {
			end()
			return c, opts, nil, err
		}
		release := func() {
			r.sandboxes.ReleaseLog(c.ID)
			end()
		}
		opts.Opened = func() { r.sandboxes.ReleaseLog(c.ID) } // the reader holds it by then
		if err := send(&runtimev1.AttachResponse{Response: &runtimev1.AttachResponse_Launched{Launched: resp}}); err != nil {
			release()
			return c, opts, nil, err
		}
		return c, opts, release, nil
	case *runtimev1.AttachRequest_Start:
		c, err := r.supervisor.Running(req.Start.GetContainer())
		if err != nil {
			return c, opts, nil, err
		}
		if !req.Start.GetFromBeginning() {
			opts.Tail = crilog.TailNone
		}
		return c, opts, r.supervisor.Hold(c.ID), nil
	}
	return state.Container{}, opts, nil, fault.New(fault.Invalid, "the first message of an attachment names no container and no launch")
}

// feeder passes the caller's input on to a container.
type feeder struct {
	runtime   *Runtime
	container workload.ID

	mu    sync.Mutex // guards what follows
	input *os.File   // nil while not open
	ended bool       // the handler returns
}

// feed passes input on until the stream ends, which it does when the handler
// has returned; nobody can wait for it before.
func (f *feeder) feed(stream grpc.BidiStreamingServer[runtimev1.AttachRequest, runtimev1.AttachResponse]) {
	ctx := stream.Context()
	for {
		m, err := stream.Recv()
		if err != nil {
			return
		}
		switch req := m.GetRequest().(type) {
		case *runtimev1.AttachRequest_Stdin:
			err = f.write(ctx, req.Stdin)
		case *runtimev1.AttachRequest_CloseStdin:
			f.release() // the container sees the end when the last writer has gone
			err = f.runtime.sandboxes.CloseInput(ctx, f.container)
		case *runtimev1.AttachRequest_Resize:
			err = f.runtime.sandboxes.Resize(ctx, f.container, side(req.Resize.GetRows()), side(req.Resize.GetColumns()))
		case *runtimev1.AttachRequest_Signal:
			err = f.runtime.supervisor.Kill(ctx, string(f.container), req.Signal)
		}
		if err != nil {
			return // the container has closed its input, or has ended: the exit is on its way
		}
	}
}

// write writes to the container's input; close ends it when the container does
// not read.
func (f *feeder) write(ctx context.Context, b []byte) error {
	f.mu.Lock()
	if f.input == nil && !f.ended {
		input, err := f.runtime.sandboxes.Input(ctx, f.container)
		if err != nil {
			f.mu.Unlock()
			return err
		}
		f.input = input
	}
	input := f.input
	f.mu.Unlock()
	if input == nil {
		return os.ErrClosed
	}
	_, err := input.Write(b)
	return err
}

func (f *feeder) release() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.input != nil {
		_ = f.input.Close()
		f.input = nil
	}
}

// close ends the feeding, also a write that the container does not read.
func (f *feeder) close() {
	f.mu.Lock()
	f.ended = true
	f.mu.Unlock()
	f.release()
}

// side is one side of a terminal, which the kernel keeps in 16 bits.
func side(n uint32) uint16 { return uint16(min(n, 1<<16-1)) }

// Exec runs a further process in a container.
func (r *Runtime) Exec(stream grpc.BidiStreamingServer[runtimev1.ExecRequest, runtimev1.ExecResponse]) error {
	ctx := stream.Context()
	first, err := stream.Recv()
	if err != nil {
		return err
	}
	start := first.GetStart()
	if start == nil || len(start.GetArgs()) == 0 {
		return fault.New(fault.Invalid, "the request names no command to execute")
	}
	e, err := r.startExec(ctx, start)
	if err != nil {
		return err
	}
	defer e.close()
	if err := stream.Send(&runtimev1.ExecResponse{Response: &runtimev1.ExecResponse_Started{Started: true}}); err != nil {
		return err
	}
	go e.feed(stream) // ends with the stream
	pumps := e.pump(stream)
	exit, err := e.process.Wait(ctx)
	if err != nil && e.detached.Load() { // it runs on, and what it writes is taken and dropped
		_, err = e.process.Wait(context.WithoutCancel(ctx))
		e.drain()
		return errors.Join(err, pumps())
	}
	if err != nil { // the caller has gone: so must what it started
		return errors.Join(err, e.process.Signal(context.WithoutCancel(ctx), unix.SIGKILL))
	}
	e.drain()
	if err := pumps(); err != nil {
		return err
	}
	return stream.Send(&runtimev1.ExecResponse{Response: &runtimev1.ExecResponse_Exit{Exit: exitToProto(state.Exit{
		Code: exit.Code, Signal: int(exit.Signal), OOMKilled: exit.OOMKilled, At: exit.At,
	})}})
}

// execution is a process in a container with this side's ends of its streams.
type execution struct {
	process *sandbox.Process
	input   *os.File // nil when not asked for
	outputs map[runtimev1.Output_Stream]*os.File

	sending  sync.Mutex // guards the stream's Send
	detached atomic.Bool
}

func (r *Runtime) startExec(ctx context.Context, start *runtimev1.ExecStart) (_ *execution, err error) {
	spec := sandbox.ExecSpec{
		Args: start.GetArgs(), Env: start.GetEnv(), Cwd: start.GetWorkingDir(), User: start.GetUser(), Terminal: start.GetTerminal(),
		Rows: side(start.GetSize().GetRows()), Columns: side(start.GetSize().GetColumns()),
	}
	e := &execution{outputs: map[runtimev1.Output_Stream]*os.File{}}
	defer func() {
		if err != nil {
			e.close()
		}
	}()
	if !spec.Terminal {
		var theirs []*os.File
		defer func() {
			for _, f := range theirs {
				_ = f.Close()
			}
		}()
		if start.GetOpenStdin() {
			if spec.Stdin, e.input, err = os.Pipe(); err != nil {
				return nil, err
			}
			theirs = append(theirs, spec.Stdin)
		}
		for stream, end := range map[runtimev1.Output_Stream]**os.File{
			runtimev1.Output_STREAM_STDOUT: &spec.Stdout, runtimev1.Output_STREAM_STDERR: &spec.Stderr,
		} {
			ours, their, err := os.Pipe()
			if err != nil {
				return nil, err
			}
			*end, e.outputs[stream] = their, ours
			theirs = append(theirs, their)
		}
	}
	if e.process, err = r.supervisor.Exec(ctx, start.GetContainer(), spec); err != nil {
		return nil, err
	}
	if spec.Terminal {
		e.input = e.process.Terminal()
		e.outputs[runtimev1.Output_STREAM_STDOUT] = e.input
	}
	return e, nil
}

// feed passes the caller's input on.
func (e *execution) feed(stream grpc.BidiStreamingServer[runtimev1.ExecRequest, runtimev1.ExecResponse]) {
	ctx := stream.Context()
	for {
		m, err := stream.Recv()
		if err != nil {
			return
		}
		switch req := m.GetRequest().(type) {
		case *runtimev1.ExecRequest_Stdin:
			if e.input != nil {
				_, err = e.input.Write(req.Stdin)
			}
		case *runtimev1.ExecRequest_CloseStdin:
			if e.input != nil && len(e.outputs) > 1 { // a terminal stays open
				err = e.input.Close()
			}
		case *runtimev1.ExecRequest_Resize:
			err = e.process.Resize(ctx, side(req.Resize.GetRows()), side(req.Resize.GetColumns()))
		case *runtimev1.ExecRequest_Detach:
			e.detached.Store(true)
			e.sending.Lock()
			err = stream.Send(&runtimev1.ExecResponse{Response: &runtimev1.ExecResponse_Detached{Detached: true}})
			e.sending.Unlock()
		case *runtimev1.ExecRequest_Signal:
			sig, serr := supervise.ParseSignal(req.Signal)
			if serr == nil {
				err = e.process.Signal(ctx, sig)
			}
		}
		if err != nil {
			return
		}
	}
}

// pump sends the output on; the function it gives waits for the end.
func (e *execution) pump(stream grpc.BidiStreamingServer[runtimev1.ExecRequest, runtimev1.ExecResponse]) (wait func() error) {
	var group sync.WaitGroup
	errs := make(chan error, len(e.outputs))
	for name, file := range e.outputs {
		group.Go(func() {
			buf := make([]byte, pipeSize)
			for {
				n, err := file.Read(buf)
				if errors.Is(err, os.ErrDeadlineExceeded) {
					n = readNow(file, buf) // what the process wrote before it ended
				}
				if n > 0 && !e.detached.Load() {
					e.sending.Lock()
					serr := stream.Send(&runtimev1.ExecResponse{Response: &runtimev1.ExecResponse_Output{
						Output: &runtimev1.Output{Stream: name, Data: buf[:n]},
					}})
					e.sending.Unlock()
					if serr != nil && !e.detached.Load() {
						errs <- serr
						return
					}
				}
				if err != nil { // the end: EOF, EIO of a terminal, or drain's patience
					return
				}
			}
		})
	}
	return func() error {
		group.Wait()
		close(errs)
		return <-errs
	}
}

// pipeSize is how much a pipe holds, and so the most that a process which has
// ended can have left in it.
const pipeSize = 64 << 10

// readNow reads what is there, whatever the deadline.
func readNow(file *os.File, buf []byte) int {
	raw, err := file.SyscallConn()
	if err != nil {
		return 0
	}
	n := 0
	_ = raw.Control(func(fd uintptr) { n, _ = unix.Read(int(fd), buf) })
	return max(n, 0)
}

// drainFor is how long output may still come after the process has exited,
// from others that hold its streams.
const drainFor = 100 * time.Millisecond

func (e *execution) drain() {
	for _, f := range e.outputs {
		_ = f.SetReadDeadline(time.Now().Add(drainFor))
	}
}

func (e *execution) close() {
	if e.input != nil {
		_ = e.input.Close()
	}
	for _, f := range e.outputs {
		_ = f.Close()
	}
}
