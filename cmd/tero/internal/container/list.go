package container

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	runtimev1 "tero.internal/api/runtime/v1"
	"tero.internal/cmd/tero/internal/grant"
	"tero.internal/cmd/tero/internal/life"
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
	case runtimev1.State_STATE_RUNNING, runtimev1.State_STATE_PAUSED:
		word := "running"
		if c.GetState() == runtimev1.State_STATE_PAUSED {
			word = "paused"
		}
		if c.GetStarted() != nil {
			word += " " + render.Duration(now.Sub(c.GetStarted().AsTime()))
		}
		if h := c.GetHealth().GetStatus(); h != "" {
			word += " (" + h + ")"
		}
		return word
	case runtimev1.State_STATE_RESTARTING:
		return fmt.Sprintf("restarting (%d) in %s", c.GetExit().GetCode(), render.Duration(c.GetNextRestart().AsTime().Sub(now)))
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
	return render.Fields(slices.Concat([][2]string{
		{"Name", c.GetName()},
		{"ID", c.GetId()},
		{"State", state(c, now)},
		{"Image", spec.GetImage()},
		{"Image digest", c.GetImageDigest()},
		{"Signed by", render.List(c.GetSigners())},
		{"Command", strings.Join(spec.GetArgs(), " ")},
		{"User", spec.GetUser()},
		{"Labels", render.Pairs(spec.GetLabels())},
		{"Limits", limits(spec)},
		{"Loosened", loosened(spec)},
		{"Network", spec.GetNetwork()},
		{"Address", c.GetEndpoint().GetAddress()},
		{"SPIFFE ID", c.GetSpiffeId()},
		{"Admitted by", render.List(c.GetPolicies())},
		{"Decision", c.GetDecisionId()},
		{"Policy digest", c.GetPolicyDigest()},
		{"Plugins", render.List(plugins)},
		{"Launch record", fmt.Sprintf("%d, %s", c.GetRecordSequence(), c.GetRecordDigest())},
		{"Level", c.GetLevel()},
		{"PID", fmt.Sprint(c.GetPid())},
		{"Created", render.Time(c.GetCreated())},
		{"Started", render.Time(c.GetStarted())},
	}, life.Details(c))...)
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
