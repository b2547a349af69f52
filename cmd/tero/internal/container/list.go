package container

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	runtimev1 "tero.internal/api/runtime/v1"
	"tero.internal/cmd/tero/internal/grant"
	"tero.internal/cmd/tero/internal/render"
	"tero.internal/cmd/tero/internal/session"
)

func psCommand(s *session.Session) *cobra.Command {
	var all bool
	cmd := &cobra.Command{
		Use: "ps", Aliases: []string{"ls", "list"},
		Short: "List containers",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := s.Node()
			if err != nil {
				return err
			}
			r, err := c.Runtime.ListContainers(cmd.Context(), &runtimev1.ListContainersRequest{All: all})
			if err != nil {
				return err
			}
			return s.Show(table(r.GetContainers(), s.Now()))
		},
	}
	cmd.Flags().BoolVarP(&all, "all", "a", false, "exited ones too")
	return cmd
}

func table(containers []*runtimev1.Container, now time.Time) render.View {
	v := render.View{
		Columns: []string{"NAME", "ID", "IMAGE", "STATE", "ADDRESS", "LEVEL", "ADMITTED BY", "LOOSENED"},
		Wide:    []string{"SIGNED BY", "SPIFFE ID", "RECORD", "PID", "COMMAND", "DIGEST"},
	}
	for _, c := range containers {
		v.Add(c, render.Row{
			Name: c.GetName(),
			Cells: []string{
				c.GetName(), render.Short(c.GetId()), c.GetSpec().GetImage(), state(c, now), render.Or(c.GetEndpoint().GetAddress()),
				render.Or(c.GetLevel()), render.List(c.GetPolicies()), loosened(c.GetSpec()),
			},
			Wide: []string{
				render.List(c.GetSigners()), render.Or(c.GetSpiffeId()), fmt.Sprint(c.GetRecordSequence()), fmt.Sprint(c.GetPid()),
				render.Or(strings.Join(c.GetSpec().GetArgs(), " ")), render.Short(c.GetImageDigest()),
			},
		})
	}
	return v
}

// state tells state and since when.
func state(c *runtimev1.Container, now time.Time) string {
	switch c.GetState() {
	case runtimev1.State_STATE_CREATING:
		return "creating"
	case runtimev1.State_STATE_RUNNING:
		if c.GetStarted() == nil {
			return "running"
		}
		return "running " + render.Duration(now.Sub(c.GetStarted().AsTime()))
	case runtimev1.State_STATE_EXITED:
		how := fmt.Sprintf("exited (%d)", c.GetExit().GetCode())
		if c.GetExit().GetOomKilled() {
			how = "out of memory"
		}
		return how + " " + render.Ago(now, c.GetExit().GetAt())
	}
	return "unknown"
}

// loosened names what makes the sandbox weaker than the default.
func loosened(s *runtimev1.ContainerSpec) string {
	var l []string
	if s.GetWritableRootfs() {
		l = append(l, "writable")
	}
	if s.GetNoLandlock() {
		l = append(l, "no landlock")
	}
	if s.GetApparmor() == "unconfined" {
		l = append(l, "apparmor unconfined")
	}
	return render.List(slices.Concat(l, s.GetCapAdd(), grant.Loosened(s)))
}

func inspectCommand(s *session.Session) *cobra.Command {
	return &cobra.Command{
		Use:   "inspect CONTAINER...",
		Short: "Tell all that is known about containers",
		Args:  cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := s.Node()
			if err != nil {
				return err
			}
			v := render.View{Single: len(args) == 1}
			for _, name := range args {
				r, err := c.Runtime.InspectContainer(cmd.Context(), &runtimev1.InspectContainerRequest{Container: name})
				if err != nil {
					return err
				}
				v.Add(r.GetContainer(), render.Row{Name: r.GetContainer().GetName()})
				if v.Text != "" {
					v.Text += "\n"
				}
				v.Text += details(r.GetContainer(), s.Now())
			}
			return s.Show(v)
		},
	}
}

// details tells one container to people.
func details(c *runtimev1.Container, now time.Time) string {
	spec := c.GetSpec()
	var plugins []string
	for _, p := range c.GetPlugins() {
		word := "accepted"
		if len(p.GetChanged()) > 0 {
			word = "changed " + strings.Join(p.GetChanged(), " ")
		}
		plugins = append(plugins, fmt.Sprintf("%s %s (%d ticks)", p.GetPlugin(), word, p.GetTicks()))
	}
	return render.Fields(
		[2]string{"Name", c.GetName()},
		[2]string{"ID", c.GetId()},
		[2]string{"State", state(c, now)},
		[2]string{"Image", spec.GetImage()},
		[2]string{"Image digest", c.GetImageDigest()},
		[2]string{"Signed by", render.List(c.GetSigners())},
		[2]string{"Command", strings.Join(spec.GetArgs(), " ")},
		[2]string{"User", spec.GetUser()},
		[2]string{"Labels", render.Pairs(spec.GetLabels())},
		[2]string{"Limits", limits(spec)},
		[2]string{"Loosened", loosened(spec)},
		[2]string{"Network", spec.GetNetwork()},
		[2]string{"Address", c.GetEndpoint().GetAddress()},
		[2]string{"SPIFFE ID", c.GetSpiffeId()},
		[2]string{"Admitted by", render.List(c.GetPolicies())},
		[2]string{"Decision", c.GetDecisionId()},
		[2]string{"Policy digest", c.GetPolicyDigest()},
		[2]string{"Plugins", render.List(plugins)},
		[2]string{"Launch record", fmt.Sprintf("%d, %s", c.GetRecordSequence(), c.GetRecordDigest())},
		[2]string{"Level", c.GetLevel()},
		[2]string{"PID", fmt.Sprint(c.GetPid())},
		[2]string{"Created", render.Time(c.GetCreated())},
		[2]string{"Started", render.Time(c.GetStarted())},
	)
}

func limits(s *runtimev1.ContainerSpec) string {
	l := []string{fmt.Sprintf("%d tasks", s.GetPids())}
	if m := s.GetMilliCpu(); m > 0 {
		l = append(l, fmt.Sprintf("%g cores", float64(m)/1000))
	}
	if m := s.GetMemoryBytes(); m > 0 {
		l = append(l, render.Size(m)+" memory")
	}
	return render.List(append(l, grant.Limits(s)...))
}
