// Package life holds the commands and flags about the life of containers beyond
// one run: starting again, pausing, changing limits, restart policies and health.
package life

import (
	"math"
	"strconv"

	"github.com/spf13/cobra"

	runtimev1 "tero.internal/api/runtime/v1"
	"tero.internal/client"
	"tero.internal/cmd/tero/internal/session"
	"tero.internal/common/config"
	"tero.internal/common/fault"
)

// Commands gives the commands of this package.
func Commands(s *session.Session) []*cobra.Command {
	return []*cobra.Command{startCommand(s), restartCommand(s), pauseCommand(s), unpauseCommand(s), updateCommand(s)}
}

func startCommand(s *session.Session) *cobra.Command {
	return &cobra.Command{
		Use:   "start CONTAINER...",
		Short: "Launch exited containers again",
		Long: `Launch exited containers again. It is a launch like any other: checked, admitted
and measured, under the same ID and name, with the image that they ran, and with
their log and what they wrote to a writable file system.`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return s.Each(args, func(c *client.Client, name string) error {
				r, err := c.Runtime.StartContainer(cmd.Context(), &runtimev1.StartContainerRequest{Container: name})
				if err != nil {
					return err
				}
				return s.Did(r, name, "started %s (record %d)", name, r.GetContainer().GetRecordSequence())
			})
		},
	}
}

func restartCommand(s *session.Session) *cobra.Command {
	var seconds int32
	cmd := &cobra.Command{
		Use:   "restart CONTAINER...",
		Short: "Stop containers and start them",
		Args:  cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return s.Each(args, func(c *client.Client, name string) error {
				r, err := c.Runtime.RestartContainer(cmd.Context(), &runtimev1.RestartContainerRequest{
					Container: name, TimeoutSeconds: Given(cmd, "time", &seconds),
				})
				if err != nil {
					return err
				}
				return s.Did(r, name, "restarted %s (record %d)", name, r.GetContainer().GetRecordSequence())
			})
		},
	}
	StopTime(cmd, &seconds)
	return cmd
}

// StopTime adds the flag for how long a container may take to stop.
func StopTime(cmd *cobra.Command, seconds *int32) {
	cmd.Flags().Int32VarP(seconds, "time", "t", 0, "seconds until SIGKILL; 0 is at once, negative never (the container's --stop-timeout, else 10)")
}

// Given gives a flag's value, or nil when the flag was not.
func Given(cmd *cobra.Command, flag string, value *int32) *int32 {
	if !cmd.Flags().Changed(flag) {
		return nil
	}
	return value
}

func pauseCommand(s *session.Session) *cobra.Command {
	return &cobra.Command{
		Use:   "pause CONTAINER...",
		Short: "Stop every process of containers where it is",
		Args:  cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return s.Each(args, func(c *client.Client, name string) error {
				if _, err := c.Runtime.PauseContainer(cmd.Context(), &runtimev1.PauseContainerRequest{Container: name}); err != nil {
					return err
				}
				return s.Did(session.Named{Name: name}, name, "paused %s", name)
			})
		},
	}
}

func unpauseCommand(s *session.Session) *cobra.Command {
	return &cobra.Command{
		Use: "unpause CONTAINER...", Aliases: []string{"resume"},
		Short: "Let paused containers go on",
		Args:  cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return s.Each(args, func(c *client.Client, name string) error {
				if _, err := c.Runtime.UnpauseContainer(cmd.Context(), &runtimev1.UnpauseContainerRequest{Container: name}); err != nil {
					return err
				}
				return s.Did(session.Named{Name: name}, name, "%s goes on", name)
			})
		},
	}
}

func updateCommand(s *session.Session) *cobra.Command {
	var cpus, memory, restart string
	var pids int64
	cmd := &cobra.Command{
		Use:   "update [flags] CONTAINER...",
		Short: "Change limits and restart policy of containers, at once and for later launches",
		Long: `Change limits and restart policy of containers, at once and for later launches.
Plugins and policy decide on it as on a launch with the new values. What was
measured stays as it was: "tero inspect" tells the limits at the launch, and the
present ones.`,
		Example: `  tero update --memory 256MiB --cpus 2 web
  tero update --restart unless-stopped web`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if cmd.Flags().NFlag() == 0 {
				return fault.New(fault.Invalid, "nothing to change was given").WithHint("\"tero update --help\" lists the flags")
			}
			limits := &runtimev1.Limits{Pids: pids}
			var err error
			if cpus != "" {
				if limits.MilliCpu, err = MilliCPU(cpus); err != nil {
					return err
				}
			}
			if memory != "" {
				size, err := config.ParseSize(memory)
				if err != nil {
					return fault.New(fault.Invalid, "--memory %q: %w", memory, err)
				}
				limits.MemoryBytes = int64(size)
			}
			return s.Each(args, func(c *client.Client, name string) error {
				r, err := c.Runtime.UpdateContainer(cmd.Context(), &runtimev1.UpdateContainerRequest{Container: name, Limits: limits, Restart: restart})
				if err != nil {
					return err
				}
				return s.Did(r, name, "updated %s", name)
			})
		},
	}
	f := cmd.Flags()
	f.StringVar(&cpus, "cpus", "", "most cores, such as 0.5")
	f.StringVarP(&memory, "memory", "m", "", "most memory, such as 64MiB")
	f.Int64Var(&pids, "pids-limit", 0, "most processes and threads")
	f.StringVar(&restart, "restart", "", "restart policy: no, on-failure[:N], always, unless-stopped")
	return cmd
}

// MilliCPU reads a number of cores.
func MilliCPU(s string) (int64, error) {
	v, err := strconv.ParseFloat(s, 64)
	if err != nil || !(v > 0) || v > 1e6 {
		return 0, fault.New(fault.Invalid, "--cpus %q is not a number of cores above 0", s).WithHint("write 0.5 for half a core")
	}
	return max(1, int64(math.Round(v*1000))), nil
}
