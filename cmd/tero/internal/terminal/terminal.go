// Package terminal lends the user's terminal to a process in a container: raw
// mode, the window's size, and the signals that the user sends.
package terminal

import (
	"context"
	"os"
	"os/signal"

	"golang.org/x/sys/unix"
	"golang.org/x/term"
)

// Size is a terminal's size in characters.
type Size struct{ Rows, Columns uint32 }

// Is tells whether stream is a terminal.
func Is(stream any) bool {
	f, ok := stream.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

// SizeOf gives the size of the terminal that stream is; false for no terminal.
func SizeOf(stream any) (Size, bool) {
	f, ok := stream.(*os.File)
	if !ok {
		return Size{}, false
	}
	w, h, err := term.GetSize(int(f.Fd()))
	if err != nil || w <= 0 || h <= 0 {
		return Size{}, false
	}
	return Size{Rows: uint32(h), Columns: uint32(w)}, true //nolint:gosec // the kernel gives 16 bits each
}

// Raw hands every key through, until restore is called. It does nothing to a
// stream that is no terminal.
func Raw(stream any) (restore func(), err error) {
	if !Is(stream) {
		return func() {}, nil
	}
	fd := int(stream.(*os.File).Fd())
	old, err := term.MakeRaw(fd)
	if err != nil {
		return nil, err
	}
	return func() { _ = term.Restore(fd, old) }, nil
}

// Resizes calls resized with the size at once and after each change, until ctx
// ends. It is for a goroutine of its own.
func Resizes(ctx context.Context, stream any, resized func(Size)) {
	c := make(chan os.Signal, 1)
	signal.Notify(c, unix.SIGWINCH)
	defer signal.Stop(c)
	for {
		if s, ok := SizeOf(stream); ok {
			resized(s)
		}
		select {
		case <-c:
		case <-ctx.Done():
			return
		}
	}
}

// impatient is how many interrupts mean that the user wants out.
const impatient = 3

// Signals calls forward with the name of each signal that the user sends to
// this process, until ctx ends. After the third interrupt it calls giveUp
// instead: a first process that handles no SIGINT ignores it (pid_namespaces(7)).
// It does so also while forward waits, because input that nobody takes is in the
// way, say; such a call ends with the connection.
func Signals(ctx context.Context, forward func(name string), giveUp func()) {
	c := make(chan os.Signal, 16)
	signal.Notify(c, unix.SIGINT, unix.SIGTERM, unix.SIGHUP, unix.SIGQUIT, unix.SIGUSR1, unix.SIGUSR2)
	defer signal.Stop(c)
	names := make(chan string, cap(c))
	defer close(names)
	go func() {
		for name := range names {
			forward(name)
		}
	}()
	interrupts := 0
	for {
		select {
		case got := <-c:
			s, ok := got.(unix.Signal)
			if !ok {
				continue
			}
			if s == unix.SIGINT {
				interrupts++
			}
			if interrupts >= impatient {
				giveUp()
				return
			}
			select {
			case names <- unix.SignalName(s):
			default: // as the kernel does with a signal that is pending already
			}
		case <-ctx.Done():
			return
		}
	}
}
