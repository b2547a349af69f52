// Package volume holds the commands about named volumes.
package volume

import (
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	runtimev1 "tero.internal/api/runtime/v1"
	"tero.internal/client"
	"tero.internal/cmd/tero/internal/render"
	"tero.internal/cmd/tero/internal/session"
)

// Command gives the command of this package.
func Command(s *session.Session) *cobra.Command {
	cmd := &cobra.Command{Use: "volume", Short: "Manage volumes, which outlive containers"}
	cmd.AddCommand(createCommand(s), lsCommand(s), inspectCommand(s), rmCommand(s), pruneCommand(s))
	return cmd
}

func createCommand(s *session.Session) *cobra.Command {
	req := &runtimev1.CreateVolumeRequest{}
	var labels []string
	cmd := &cobra.Command{
		Use:   "create NAME",
		Short: "Make an empty volume; \"run -v NAME:/path\" makes those that are missing, too",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			req.Name = args[0]
			var err error
			if req.Labels, err = session.Pairs("--label", labels); err != nil {
				return err
			}
			c, err := s.Node()
			if err != nil {
				return err
			}
			r, err := c.Volumes.CreateVolume(cmd.Context(), req)
			if err != nil {
				return err
			}
			v := r.GetVolume()
			return s.Show(render.View{
				Single: true, Items: []any{v}, Rows: []render.Row{{Name: v.GetName()}},
				Text: render.Clean("made volume "+v.GetName()) + "\n",
			})
		},
	}
	cmd.Flags().StringVarP(&req.Driver, "driver", "d", "", "where it is kept (local)")
	cmd.Flags().StringArrayVarP(&labels, "label", "l", nil, "KEY=value")
	return cmd
}

func lsCommand(s *session.Session) *cobra.Command {
	return &cobra.Command{
		Use: "ls", Aliases: []string{"list"},
		Short: "List volumes",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := s.Node()
			if err != nil {
				return err
			}
			r, err := c.Volumes.ListVolumes(cmd.Context(), &runtimev1.ListVolumesRequest{})
			if err != nil {
				return err
			}
			return s.Show(table(r.GetVolumes(), s.Now()))
		},
	}
}

func table(volumes []*runtimev1.Volume, now time.Time) render.View {
	v := render.View{Columns: []string{"NAME", "DRIVER", "CONTAINERS", "CREATED"}, Wide: []string{"LABELS", "PATH"}}
	for _, o := range volumes {
		v.Add(o, render.Row{
			Name:  o.GetName(),
			Cells: []string{o.GetName(), o.GetDriver(), fmt.Sprint(len(o.GetContainers())), render.Ago(now, o.GetCreated())},
			Wide:  []string{render.Pairs(o.GetLabels()), o.GetPath()},
		})
	}
	return v
}

func inspectCommand(s *session.Session) *cobra.Command {
	return &cobra.Command{
		Use:   "inspect NAME",
		Short: "Tell all that is known about a volume",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := s.Node()
			if err != nil {
				return err
			}
			r, err := c.Volumes.InspectVolume(cmd.Context(), &runtimev1.InspectVolumeRequest{Name: args[0]})
			if err != nil {
				return err
			}
			v := r.GetVolume()
			return s.Show(render.View{
				Single: true, Items: []any{v}, Rows: []render.Row{{Name: v.GetName()}},
				Text: render.Fields(
					[2]string{"Name", v.GetName()},
					[2]string{"Driver", v.GetDriver()},
					[2]string{"Labels", render.Pairs(v.GetLabels())},
					[2]string{"Path", v.GetPath()},
					[2]string{"Containers", short(v.GetContainers())},
					[2]string{"Created", render.Time(v.GetCreated())},
				),
			})
		},
	}
}

func short(ids []string) string {
	var l []string
	for _, id := range ids {
		l = append(l, render.Short(id))
	}
	return render.List(l)
}

func rmCommand(s *session.Session) *cobra.Command {
	return &cobra.Command{
		Use: "rm NAME...", Aliases: []string{"remove"},
		Short: "Remove volumes, with what is in them, that no container has",
		Args:  cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return s.Each(args, func(c *client.Client, name string) error {
				if _, err := c.Volumes.RemoveVolume(cmd.Context(), &runtimev1.RemoveVolumeRequest{Name: name}); err != nil {
					return err
				}
				return s.Did(session.Named{Name: name}, name, "removed volume %s", name)
			})
		},
	}
}

func pruneCommand(s *session.Session) *cobra.Command {
	var labels []string
	cmd := &cobra.Command{
		Use:   "prune",
		Short: "Remove every volume, with what is in it, that no container has",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			want, err := session.Pairs("--label", labels)
			if err != nil {
				return err
			}
			c, err := s.Node()
			if err != nil {
				return err
			}
			r, err := c.Volumes.PruneVolumes(cmd.Context(), &runtimev1.PruneVolumesRequest{Labels: want})
			if err != nil {
				return err
			}
			v := render.View{Text: "no volume is without a container\n"}
			if names := r.GetNames(); len(names) > 0 {
				v.Text = render.Clean("removed volumes "+strings.Join(names, " ")) + "\n"
			}
			for _, name := range r.GetNames() {
				v.Add(session.Named{Name: name}, render.Row{Name: name})
			}
			return s.Show(v)
		},
	}
	cmd.Flags().StringArrayVarP(&labels, "label", "l", nil, "KEY=value that a volume must have to be removed")
	return cmd
}
