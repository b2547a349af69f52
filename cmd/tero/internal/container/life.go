package container

import (
	"github.com/spf13/cobra"

	runtimev1 "tero.internal/api/runtime/v1"
	"tero.internal/client"
	"tero.internal/cmd/tero/internal/life"
	"tero.internal/cmd/tero/internal/session"
)

func stopCommand(s *session.Session) *cobra.Command {
	var seconds int32
	cmd := &cobra.Command{
		Use:   "stop CONTAINER...",
		Short: "Ask containers to end, and end them when the time is over; they are not restarted",
		Args:  cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return s.Each(args, func(c *client.Client, name string) error {
				r, err := c.Runtime.StopContainer(cmd.Context(), &runtimev1.StopContainerRequest{Container: name, TimeoutSeconds: life.Given(cmd, "time", &seconds)})
				if err != nil {
					return err
				}
				return s.Did(r, name, "stopped %s (exit code %d)", name, r.GetExit().GetCode())
			})
		},
	}
	life.StopTime(cmd, &seconds)
	return cmd
}

func killCommand(s *session.Session) *cobra.Command {
	var sig string
	cmd := &cobra.Command{
		Use:   "kill CONTAINER...",
		Short: "Send a signal to the first process of containers",
		Args:  cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			name := signalName(sig)
			return s.Each(args, func(c *client.Client, container string) error {
				_, err := c.Runtime.KillContainer(cmd.Context(), &runtimev1.KillContainerRequest{Container: container, Signal: name})
				if err != nil {
					return err
				}
				return s.Did(session.Named{Name: container}, container, "sent %s to %s", name, container)
			})
		},
	}
	cmd.Flags().StringVarP(&sig, "signal", "s", "SIGKILL", "signal to send")
	return cmd
}

func rmCommand(s *session.Session) *cobra.Command {
	var force bool
	cmd := &cobra.Command{
		Use:   "rm CONTAINER...",
		Short: "Remove exited containers",
		Args:  cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return s.Each(args, func(c *client.Client, name string) error {
				r, err := c.Runtime.RemoveContainer(cmd.Context(), &runtimev1.RemoveContainerRequest{Container: name, Force: force})
				if err != nil {
					return err
				}
				return s.Did(r, r.GetName(), "removed %s (%s)", r.GetName(), r.GetId())
			})
		},
	}
	cmd.Flags().BoolVarP(&force, "force", "f", false, "kill it first when it runs")
	return cmd
}

func waitCommand(s *session.Session) *cobra.Command {
	return &cobra.Command{
		Use:   "wait CONTAINER...",
		Short: "Wait until containers have exited and are not restarted, and print their exit codes",
		Args:  cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return s.Each(args, func(c *client.Client, name string) error {
				r, err := c.Runtime.WaitContainer(cmd.Context(), &runtimev1.WaitContainerRequest{Container: name})
				if err != nil {
					return err
				}
				return s.Did(r, name, "%d", r.GetExit().GetCode())
			})
		},
	}
}
