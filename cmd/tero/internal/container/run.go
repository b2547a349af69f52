package container

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	runtimev1 "tero.internal/api/runtime/v1"
	"tero.internal/cmd/tero/internal/render"
	"tero.internal/cmd/tero/internal/session"
	"tero.internal/cmd/tero/internal/terminal"
	"tero.internal/common/fault"
)

func runCommand(s *session.Session) *cobra.Command {
	var o specFlags
	var detach bool
	var keys streams
	cmd := &cobra.Command{
		Use:   "run [flags] IMAGE [ARG...]",
		Short: "Launch a container: checked, admitted, measured, named, connected, run",
		Long: `Launch a container. Its image's signature is checked, plugins and policy admit
it, the launch is recorded before anything runs, it gets an identity and a
network that lets nothing through which no segment allows.

In the foreground, the exit code is the workload's own.`,
		Example: `  tero run --rm localhost/hello
  tero run -d --name web -l app=web localhost/web:v1
  tero run -it --rm --network none localhost/shell sh`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			spec, err := o.build(args, s.Getenv)
			if err != nil {
				return err
			}
			if detach {
				return runDetached(cmd.Context(), s, spec)
			}
			return runAttached(cmd.Context(), s, spec, keys.detach)
		},
	}
	cmd.Flags().SetInterspersed(false)
	cmd.Flags().BoolVarP(&detach, "detach", "d", false, "run in the background and print the ID")
	keys.addDetachKeys(cmd.Flags())
	o.add(cmd.Flags())
	return cmd
}

func runDetached(ctx context.Context, s *session.Session, spec *runtimev1.ContainerSpec) error {
	c, err := s.Node()
	if err != nil {
		return err
	}
	r, err := c.Runtime.Run(ctx, &runtimev1.RunRequest{Spec: spec})
	if err != nil {
		return err
	}
	if !s.Plain() || s.Style.Quiet {
		return s.Show(render.View{Single: true, Items: []any{r}, Rows: []render.Row{{Name: r.GetContainer().GetId()}}})
	}
	if terminal.Is(s.Stderr) {
		s.Note("%s", summary(r))
	}
	_, err = fmt.Fprintln(s.Stdout, r.GetContainer().GetId())
	return err
}

func runAttached(ctx context.Context, s *session.Session, spec *runtimev1.ContainerSpec, detachKeys string) error {
	o := streams{stdin: spec.GetOpenStdin(), tty: spec.GetTerminal(), detach: detachKeys}
	if err := o.check(s); err != nil {
		return err
	}
	if !s.Plain() {
		return fault.New(fault.Invalid, "-o and --format go with a container in the background").WithHint("add -d, or leave them away")
	}
	c, err := s.Node()
	if err != nil {
		return err
	}
	run := &runtimev1.RunRequest{Spec: spec}
	if z, ok := terminal.SizeOf(s.Stdin); ok && o.tty {
		run.TerminalSize = size(z)
	}
	a, err := attach(ctx, s, c, &runtimev1.AttachRequest{Request: &runtimev1.AttachRequest_Run{Run: run}})
	if err != nil {
		return err
	}
	exit, err := converse(ctx, s, a, o)
	return finish(s, exit, err)
}

// summary tells a launch in one line.
func summary(r *runtimev1.RunResponse) string {
	c := r.GetContainer()
	line := fmt.Sprintf("%s runs after %s: %s, level %s, record %d, admitted by %s",
		c.GetName(), time.Duration(r.GetDurationUs())*time.Microsecond, c.GetSpiffeId(), c.GetLevel(), c.GetRecordSequence(), render.List(c.GetPolicies()))
	if a := c.GetEndpoint().GetAddress(); a != "" {
		line += ", at " + a
	}
	return line
}
