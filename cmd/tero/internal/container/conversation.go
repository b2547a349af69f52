package container

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/spf13/pflag"

	runtimev1 "tero.internal/api/runtime/v1"
	"tero.internal/cmd/tero/internal/message"
	"tero.internal/cmd/tero/internal/session"
	"tero.internal/cmd/tero/internal/terminal"
	"tero.internal/common/fault"
)

// conversation is an attach or an exec stream, in the words that both share.
type conversation interface {
	input(data []byte) error
	endInput() error
	resize(terminal.Size) error
	signal(name string) error
	// next waits for a piece of output or the end; both are nil for news that
	// the conversation has dealt with itself.
	next() (*runtimev1.Output, *runtimev1.Exit, error)
}

// streams says which of the user's streams a conversation uses.
type streams struct {
	stdin, tty bool
	// detach are the keys that leave the process to itself; none when empty.
	detach string
}

// addDetachKeys declares the flag.
func (o *streams) addDetachKeys(f *pflag.FlagSet) {
	f.StringVar(&o.detach, "detach-keys", terminal.DefaultDetachKeys, "keys that leave the process to itself, on a terminal with -it")
}

// detacher is a conversation that must be told before it is left.
type detacher interface {
	// detach returns when the conversation can be left.
	detach() error
}

func (o streams) check(s *session.Session) error {
	if o.tty && o.stdin && !terminal.Is(s.Stdin) {
		return fault.New(fault.Invalid, "standard input is no terminal, and -t with -i needs one").
			WithHint("leave -t away")
	}
	return nil
}

// converse carries input, output, sizes and signals until the process has
// exited. What reads standard input cannot be interrupted and ends with the
// program; everything else has ended when converse returns.
func converse(ctx context.Context, s *session.Session, c conversation, o streams) (*runtimev1.Exit, error) {
	in, err := o.input(s)
	if err != nil {
		return nil, err
	}
	one := &serial{conversation: c}
	c = one
	ctx, cancel := context.WithCancel(ctx)
	var helpers sync.WaitGroup
	defer helpers.Wait()
	defer cancel()
	if o.tty {
		if o.stdin {
			restore, err := terminal.Raw(s.Stdin)
			if err != nil {
				return nil, fmt.Errorf("terminal: %w", err)
			}
			defer restore()
		}
		// A send that fails says nothing that next does not say better.
		helpers.Go(func() { terminal.Resizes(ctx, s.Stdin, func(z terminal.Size) { _ = c.resize(z) }) })
	}
	gaveUp := make(chan struct{})
	helpers.Go(func() {
		terminal.Signals(ctx, func(name string) { _ = c.signal(name) }, func() { close(gaveUp) })
	})
	detached := make(chan struct{})
	if o.stdin {
		go func() {
			if errors.Is(feed(in, c), terminal.ErrDetached) {
				close(detached)
			}
		}()
	}
	ended := make(chan outcome, 1)
	go func() { ended <- deliver(s, c) }()
	select {
	case end := <-ended:
		return end.exit, end.err
	case <-detached:
		return nil, one.leave()
	case <-gaveUp:
		return nil, fault.New(fault.Conflict, message.GaveUp).WithHint(message.GaveUpHint)
	}
}

// errDetached says that the user left the process to itself.
var errDetached = errors.New("detached")

// input gives what is typed, until the keys to detach are.
func (o streams) input(s *session.Session) (io.Reader, error) {
	if !o.tty || !o.stdin || o.detach == "" {
		return s.Stdin, nil
	}
	keys, err := terminal.ParseKeys(o.detach)
	if err != nil {
		return nil, fault.New(fault.Invalid, "--detach-keys: %w", err).WithHint("write keys as in ctrl-p,ctrl-q")
	}
	return terminal.Detachable(s.Stdin, keys), nil
}

type outcome struct {
	exit *runtimev1.Exit
	err  error
}

// deliver prints output until the exit.
func deliver(s *session.Session, c conversation) outcome {
	for {
		output, exit, err := c.next()
		switch {
		case errors.Is(err, io.EOF):
			return outcome{err: fault.New(fault.Internal, message.NoExit).WithHint(message.NoExitHint)}
		case err != nil:
			return outcome{err: err}
		case exit != nil:
			return outcome{exit: exit}
		case output != nil:
			w := s.Stdout
			if output.GetStream() == runtimev1.Output_STREAM_STDERR {
				w = s.Stderr
			}
			if _, err := w.Write(output.GetData()); err != nil {
				return outcome{err: fmt.Errorf("write output: %w", err)}
			}
		}
	}
}

// feed carries standard input until its end, and gives what ended it.
func feed(in io.Reader, c conversation) error {
	buf := make([]byte, 32<<10)
	for {
		n, err := in.Read(buf)
		if n > 0 {
			if err := c.input(buf[:n]); err != nil {
				return err
			}
		}
		if errors.Is(err, terminal.ErrDetached) {
			return err
		}
		if err != nil {
			_ = c.endInput() // the end of the stream says why, if it matters
			return err
		}
	}
}

// serial makes sends of several goroutines follow one another, as gRPC demands.
type serial struct {
	conversation
	mu sync.Mutex // guards sending
}

// leave tells a conversation that wants to know it that the user leaves.
func (c *serial) leave() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if d, ok := c.conversation.(detacher); ok {
		if err := d.detach(); err != nil {
			return err
		}
	}
	return errDetached
}

func (c *serial) input(b []byte) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.conversation.input(b)
}

func (c *serial) endInput() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.conversation.endInput()
}

func (c *serial) resize(z terminal.Size) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.conversation.resize(z)
}

func (c *serial) signal(name string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.conversation.signal(name)
}

// finish turns how a conversation ended into the command's own end.
func finish(s *session.Session, e *runtimev1.Exit, err error) error {
	if errors.Is(err, errDetached) {
		s.Note("detached; the process runs on")
		return nil
	}
	if err != nil {
		return err
	}
	if m := e.GetMessage(); m != "" {
		s.Note("%s", m)
	}
	if e.GetCode() != 0 {
		return session.Exit{Code: int(e.GetCode())}
	}
	return nil
}
