// Package front is the fast way through tero: "tero run" in the foreground, from
// its arguments to its exit code, without gRPC, protobuf's library and cobra,
// whose initialisation alone takes twice as long as a launch. It knows the common
// flags; every other command line is the CLI's, with the same arguments and
// environment, and so is every error from before the launch was asked for.
package front

import (
	"io"
	"os"
	"path/filepath"
	"syscall"

	"golang.org/x/term"

	"tero.internal/cmd/tero/internal/message"
	"tero.internal/common/frame"
)

// Program is the file name of the CLI, which lies beside the front.
const Program = "tero-cli"

// attach is the method that launches and attaches.
const attach = "/tero.runtime.v1.RuntimeService/Attach"

// The exit codes of TERO's commands (common/fault); any other is the workload's.
const (
	exitFailure  = 125
	exitDenied   = 126
	exitNotFound = 127
)

// Main runs the command that args name and gives the exit code.
func Main(args []string) int {
	if len(args) > 0 && args[0] == "run" {
		if l, ok := parse(args[1:], os.Getenv); ok {
			if c, ok := connect(l); ok {
				if code, ok := c.converse(l); ok {
					return code
				}
			}
		}
	}
	return handOver()
}

// handOver makes this process the CLI.
func handOver() int {
	exe, err := os.Readlink("/proc/self/exe")
	if err == nil {
		exe = filepath.Join(filepath.Dir(exe), Program)
		err = syscall.Exec(exe, os.Args, os.Environ()) //nolint:gosec // our own program
	}
	return fail("cannot execute "+exe+": "+err.Error(), `install it beside tero: "make install" does`, exitFailure)
}

// fail says what went wrong, and gives the exit code.
func fail(text, hint string, code int) int {
	colour := message.Colour(os.Getenv) && term.IsTerminal(int(os.Stderr.Fd()))
	_, _ = os.Stderr.WriteString(message.Failure(text, hint, colour))
	return code
}

// connect connects to the node and asks for the launch; false when nothing was asked.
func connect(l launch) (*conversation, bool) {
	fd, err := syscall.Socket(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, false
	}
	c := &conversation{conn: conn(fd), node: l.socket}
	if err := syscall.Connect(fd, &syscall.SockaddrUnix{Name: l.socket}); err != nil {
		_ = syscall.Close(fd)
		return nil, false
	}
	b := make([]byte, 0, len(l.request)+128)
	b = frame.Append(append(b, frame.Opening...), frame.Call, attach)
	// What a node that goes away has to say is there to read.
	_, _ = c.conn.Write(frame.Append(b, frame.Message, string(l.request)))
	return c, true
}

// conn is a connected socket, whose calls block: there is nothing else to do.
type conn int

// Read reads what is there.
func (c conn) Read(b []byte) (int, error) {
	for {
		n, err := syscall.Read(int(c), b)
		switch {
		case err == syscall.EINTR:
			continue
		case err != nil:
			return 0, os.NewSyscallError("read", err)
		case n == 0:
			return 0, io.EOF
		}
		return n, nil
	}
}

// Write writes all of b.
func (c conn) Write(b []byte) (int, error) {
	for done := 0; done < len(b); {
		n, err := syscall.Write(int(c), b[done:])
		if err != nil && err != syscall.EINTR {
			return done, os.NewSyscallError("write", err)
		}
		done += max(n, 0)
	}
	return len(b), nil
}
