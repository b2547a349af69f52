package front

import (
	"bufio"
	"context"
	"errors"
	"os"
	"sync"
	"syscall"

	"tero.internal/client/reach"
	"tero.internal/cmd/tero/internal/message"
	"tero.internal/cmd/tero/internal/terminal"
	"tero.internal/cmd/tero/internal/wire"
	"tero.internal/common/frame"
)

// Fields of runtime.v1 that are read here.
const (
	responseOutput  = 2
	responseExit    = 3
	responseDropped = 4

	outputStream = 1
	outputData   = 2
	streamStderr = 2

	exitStatus  = 1
	exitMessage = 5
)

// conversation carries a container's streams and the user's signals.
type conversation struct {
	conn conn
	node string     // its address
	mu   sync.Mutex // guards writing to conn
}

// converse goes on until the container has exited, and gives the exit code; false
// when the node does not know frames, and so has launched nothing. What listens
// for signals and standard input ends with the process.
func (c *conversation) converse(l launch) (code int, ok bool) {
	go c.forwardSignals()
	in := bufio.NewReaderSize(c.conn, 16<<10)
	if err := frame.ReadOpening(in); err != nil {
		if errors.Is(err, frame.ErrMalformed) {
			_ = syscall.Close(int(c.conn))
			return 0, false
		}
		return c.closed(), true
	}
	if l.stdin {
		go c.feed()
	}
	var buf []byte
	for {
		kind, payload, err := frame.Read(in, buf, frame.MaxResponse)
		if err != nil {
			return c.closed(), true
		}
		buf = payload
		switch kind {
		case frame.Fault:
			return c.failed(payload), true
		case frame.Message:
			if code, ended := deliver(payload); ended {
				return code, true
			}
		default:
			return fail(message.NoExit, message.NoExitHint, exitFailure), true
		}
	}
}

// closed tells that the node has gone.
func (c *conversation) closed() int {
	text, hint := reach.Closed(c.node)
	return fail(text, hint, exitFailure)
}

// failed tells what the node says.
func (c *conversation) failed(payload []byte) int {
	kind, text, hint, err := frame.ParseFault(payload)
	switch {
	case err != nil || kind == "unavailable" && hint == "":
		return c.closed()
	case kind == "denied" || kind == "unauthenticated":
		return fail(text, hint, exitDenied)
	case kind == "not_found":
		return fail(text, hint, exitNotFound)
	}
	return fail(text, hint, exitFailure)
}

// deliver passes on what an AttachResponse brings; ended with an exit, or when
// nobody takes the output.
func deliver(response []byte) (code int, ended bool) {
	for f, rest, ok := wire.Next(response); ok; f, rest, ok = wire.Next(rest) {
		switch f.Number {
		case responseOutput:
			if err := write(f.Bytes); err != nil {
				return fail("write output: "+err.Error(), "", exitFailure), true
			}
		case responseExit:
			return exit(f.Bytes), true
		case responseDropped:
			_, _ = os.Stderr.WriteString(message.Note(message.Dropped))
		}
	}
	return 0, false
}

// write writes an Output to its stream.
func write(output []byte) error {
	w, data := os.Stdout, []byte(nil)
	for f, rest, ok := wire.Next(output); ok; f, rest, ok = wire.Next(rest) {
		switch f.Number {
		case outputStream:
			if f.Value == streamStderr {
				w = os.Stderr
			}
		case outputData:
			data = f.Bytes
		}
	}
	_, err := w.Write(data)
	return err
}

// exit gives the code of an Exit, and tells what is to be told of it.
func exit(e []byte) int {
	code := 0
	for f, rest, ok := wire.Next(e); ok; f, rest, ok = wire.Next(rest) {
		switch f.Number {
		case exitStatus:
			code = int(int32(f.Value)) //nolint:gosec // as protobuf encodes int32
		case exitMessage:
			_, _ = os.Stderr.WriteString(message.Note(string(f.Bytes)))
		}
	}
	return code
}

// send sends an AttachRequest. A failure says nothing that reading does not say better.
func (c *conversation) send(request []byte) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	_, err := c.conn.Write(frame.Append(nil, frame.Message, string(request)))
	return err
}

// feed carries standard input until its end.
func (c *conversation) feed() {
	buf := make([]byte, 32<<10)
	for {
		n, err := os.Stdin.Read(buf)
		if n > 0 && c.send(wire.AppendBytes(nil, attachStdin, buf[:n])) != nil {
			return
		}
		if err != nil {
			_ = c.send(wire.AppendBool(nil, attachCloseStdin, true))
			return
		}
	}
}

// forwardSignals passes signals on, and ends the process when the user insists.
func (c *conversation) forwardSignals() {
	terminal.Signals(context.Background(), func(name string) {
		_ = c.send(wire.AppendBytes(nil, attachSignal, name))
	}, func() { os.Exit(fail(message.GaveUp, message.GaveUpHint, exitFailure)) })
}
