package container

import (
	"context"

	"github.com/spf13/cobra"

	runtimev1 "tero.internal/api/runtime/v1"
	"tero.internal/client"
	"tero.internal/cmd/tero/internal/session"
	"tero.internal/cmd/tero/internal/terminal"
)

// attachment is a conversation over an Attach stream.
type attachment struct {
	stream   runtimev1.RuntimeService_AttachClient
	launched *runtimev1.RunResponse
	dropped  func() // told that output is missing
}

func (a *attachment) send(r *runtimev1.AttachRequest) error { return a.stream.Send(r) }

func (a *attachment) input(b []byte) error {
	return a.send(&runtimev1.AttachRequest{Request: &runtimev1.AttachRequest_Stdin{Stdin: b}})
}

func (a *attachment) endInput() error {
	return a.send(&runtimev1.AttachRequest{Request: &runtimev1.AttachRequest_CloseStdin{CloseStdin: true}})
}

func (a *attachment) resize(z terminal.Size) error {
	return a.send(&runtimev1.AttachRequest{Request: &runtimev1.AttachRequest_Resize{Resize: size(z)}})
}

func (a *attachment) signal(name string) error {
	return a.send(&runtimev1.AttachRequest{Request: &runtimev1.AttachRequest_Signal{Signal: name}})
}

func (a *attachment) next() (*runtimev1.Output, *runtimev1.Exit, error) {
	r, err := a.stream.Recv()
	if err != nil {
		return nil, nil, err
	}
	if l := r.GetLaunched(); l != nil {
		a.launched = l
	}
	if r.GetDropped() {
		a.dropped()
	}
	return r.GetOutput(), r.GetExit(), nil
}

// attach opens the stream with its first message.
func attach(ctx context.Context, s *session.Session, c *client.Client, first *runtimev1.AttachRequest) (*attachment, error) {
	stream, err := c.Runtime.Attach(ctx)
	if err != nil {
		return nil, err
	}
	a := &attachment{stream: stream, dropped: func() { noteDropped(s) }}
	if err := a.send(first); err != nil {
		// The stream has ended already, and says why only to a receiver.
		if _, _, why := a.next(); why != nil {
			return nil, why
		}
		return nil, err
	}
	return a, nil
}

func size(z terminal.Size) *runtimev1.WindowSize {
	return &runtimev1.WindowSize{Rows: z.Rows, Columns: z.Columns}
}

func attachCommand(s *session.Session) *cobra.Command {
	var noStdin, all bool
	var o streams
	cmd := &cobra.Command{
		Use:   "attach CONTAINER",
		Short: "Connect to a running container's standard streams",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := s.Node()
			if err != nil {
				return err
			}
			found, err := c.Runtime.InspectContainer(cmd.Context(), &runtimev1.InspectContainerRequest{Container: args[0]})
			if err != nil {
				return err
			}
			spec := found.GetContainer().GetSpec()
			o.stdin, o.tty = spec.GetOpenStdin() && !noStdin, spec.GetTerminal()
			if err := o.check(s); err != nil {
				return err
			}
			a, err := attach(cmd.Context(), s, c, &runtimev1.AttachRequest{Request: &runtimev1.AttachRequest_Start{
				Start: &runtimev1.AttachStart{Container: found.GetContainer().GetId(), FromBeginning: all},
			}})
			if err != nil {
				return err
			}
			exit, err := converse(cmd.Context(), s, a, o)
			return finish(s, exit, err)
		},
	}
	cmd.Flags().BoolVar(&noStdin, "no-stdin", false, "leave standard input alone")
	o.addDetachKeys(cmd.Flags())
	cmd.Flags().BoolVar(&all, "all", false, "print what was written before, too")
	return cmd
}
