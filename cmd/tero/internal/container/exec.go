package container

import (
	"github.com/spf13/cobra"

	runtimev1 "tero.internal/api/runtime/v1"
	"tero.internal/cmd/tero/internal/session"
	"tero.internal/cmd/tero/internal/terminal"
)

// execution is a conversation over an Exec stream.
type execution struct {
	stream   runtimev1.RuntimeService_ExecClient
	detached chan struct{} // closed when the node has heard of it
}

func (e *execution) input(b []byte) error {
	return e.stream.Send(&runtimev1.ExecRequest{Request: &runtimev1.ExecRequest_Stdin{Stdin: b}})
}

func (e *execution) endInput() error {
	return e.stream.Send(&runtimev1.ExecRequest{Request: &runtimev1.ExecRequest_CloseStdin{CloseStdin: true}})
}

func (e *execution) resize(z terminal.Size) error {
	return e.stream.Send(&runtimev1.ExecRequest{Request: &runtimev1.ExecRequest_Resize{Resize: size(z)}})
}

func (e *execution) signal(name string) error {
	return e.stream.Send(&runtimev1.ExecRequest{Request: &runtimev1.ExecRequest_Signal{Signal: name}})
}

func (e *execution) next() (*runtimev1.Output, *runtimev1.Exit, error) {
	r, err := e.stream.Recv()
	if err != nil {
		return nil, nil, err
	}
	if r.GetDetached() {
		close(e.detached)
	}
	return r.GetOutput(), r.GetExit(), nil
}

// detach lets the process run on: it would end with the stream.
func (e *execution) detach() error {
	if err := e.stream.Send(&runtimev1.ExecRequest{Request: &runtimev1.ExecRequest_Detach{Detach: true}}); err != nil {
		return err
	}
	select {
	case <-e.detached:
		return nil
	case <-e.stream.Context().Done():
		return e.stream.Context().Err()
	}
}

func execCommand(s *session.Session) *cobra.Command {
	start := &runtimev1.ExecStart{}
	var o streams
	cmd := &cobra.Command{
		Use:   "exec [flags] CONTAINER COMMAND [ARG...]",
		Short: "Run a further process in a container, as confined as the container",
		Args:  cobra.MinimumNArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			o.stdin, o.tty = start.GetOpenStdin(), start.GetTerminal()
			if err := o.check(s); err != nil {
				return err
			}
			env, err := environment(start.GetEnv(), s.Getenv)
			if err != nil {
				return err
			}
			start.Env, start.Container, start.Args = env, args[0], args[1:]
			if z, ok := terminal.SizeOf(s.Stdin); ok && o.tty {
				start.Size = size(z)
			}
			c, err := s.Node()
			if err != nil {
				return err
			}
			stream, err := c.Runtime.Exec(cmd.Context())
			if err != nil {
				return err
			}
			e := &execution{stream: stream, detached: make(chan struct{})}
			if err := stream.Send(&runtimev1.ExecRequest{Request: &runtimev1.ExecRequest_Start{Start: start}}); err != nil {
				if _, _, why := e.next(); why != nil {
					return why
				}
				return err
			}
			exit, err := converse(cmd.Context(), s, e, o)
			return finish(s, exit, err)
		},
	}
	f := cmd.Flags()
	f.SetInterspersed(false)
	o.addDetachKeys(f)
	f.BoolVarP(&start.OpenStdin, "interactive", "i", false, "pass standard input on")
	f.BoolVarP(&start.Terminal, "tty", "t", false, "give the process a terminal")
	f.StringArrayVarP(&start.Env, "env", "e", nil, "KEY=value, or KEY for this environment's value")
	f.StringVarP(&start.WorkingDir, "workdir", "w", "", "working directory (the container's)")
	f.StringVarP(&start.User, "user", "u", "", "uid[:gid] or name[:group] (the container's)")
	return cmd
}
