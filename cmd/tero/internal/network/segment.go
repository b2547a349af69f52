package network

import (
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	networkv1 "tero.internal/api/network/v1"
	"tero.internal/client"
	"tero.internal/cmd/tero/internal/render"
	"tero.internal/cmd/tero/internal/session"
	"tero.internal/common/fault"
)

func segmentCommand(s *session.Session) *cobra.Command {
	cmd := &cobra.Command{
		Use: "segment", Aliases: []string{"segments"},
		Short: "Manage segments: who may talk to whom",
	}
	cmd.AddCommand(applySegmentCommand(s), lsSegmentCommand(s), rmSegmentCommand(s))
	return cmd
}

func applySegmentCommand(s *session.Session) *cobra.Command {
	var files []string
	cmd := &cobra.Command{
		Use:   "apply FILE...",
		Short: "Put the segments of YAML files in force; - is standard input",
		Example: `  tero segment apply - <<'END'
  kind: Segment
  name: web-from-client
  to: {workload: web}
  from: [{workload: client}]
  ports: [{protocol: tcp, port: 8080}]
  END`,
		RunE: func(cmd *cobra.Command, args []string) error {
			args = append(args, files...)
			if len(args) == 0 {
				return fault.New(fault.Invalid, "no file given").WithHint("name a YAML file, or - for standard input")
			}
			v := render.View{}
			for _, file := range args {
				b, err := read(s, file)
				if err != nil {
					return err
				}
				c, err := s.Node()
				if err != nil {
					return err
				}
				r, err := c.Network.ApplySegment(cmd.Context(), &networkv1.ApplySegmentRequest{File: file, Content: b})
				if err != nil {
					return err
				}
				for _, g := range r.GetSegments() {
					v.Add(g, render.Row{Name: g.GetName()})
					v.Text += render.Clean(fmt.Sprintf("segment %s is in force: %s -> %s on %s", g.GetName(), peers(g.GetFrom()), peer(g.GetTo()), ports(g.GetPorts()))) + "\n"
				}
			}
			return s.Show(v)
		},
	}
	cmd.Flags().StringArrayVarP(&files, "file", "f", nil, "YAML file; - is standard input")
	return cmd
}

// maxFile bounds what is read as one declaration.
const maxFile = 1 << 20

func read(s *session.Session, file string) ([]byte, error) {
	in := s.Stdin
	if file != "-" {
		f, err := os.Open(file)
		if err != nil {
			return nil, fault.New(fault.NotFound, "segment file: %w", err)
		}
		defer f.Close()
		in = f
	}
	b, err := io.ReadAll(io.LimitReader(in, maxFile+1))
	if err != nil {
		return nil, fault.New(fault.Invalid, "segment file %s: %w", file, err)
	}
	if len(b) > maxFile {
		return nil, fault.New(fault.Invalid, "segment file %s is larger than 1 MiB", file)
	}
	return b, nil
}

func lsSegmentCommand(s *session.Session) *cobra.Command {
	req := &networkv1.ListSegmentsRequest{}
	cmd := &cobra.Command{
		Use: "ls", Aliases: []string{"list"},
		Short: "List segments",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := s.Node()
			if err != nil {
				return err
			}
			r, err := c.Network.ListSegments(cmd.Context(), req)
			if err != nil {
				return err
			}
			v := render.View{Columns: []string{"NAME", "NETWORK", "FROM", "TO", "PORTS", "ENTRIES"}, Wide: []string{"SOURCE"}}
			for _, g := range r.GetSegments() {
				v.Add(g, render.Row{
					Name:  g.GetName(),
					Cells: []string{g.GetName(), g.GetNetwork(), peers(g.GetFrom()), peer(g.GetTo()), ports(g.GetPorts()), fmt.Sprint(g.GetEntries())},
					Wide:  []string{render.Or(g.GetSource())},
				})
			}
			return s.Show(v)
		},
	}
	cmd.Flags().StringVar(&req.Network, "network", "", "of this network only")
	return cmd
}

func rmSegmentCommand(s *session.Session) *cobra.Command {
	return &cobra.Command{
		Use:   "rm NAME...",
		Short: "Remove segments; what they allowed ends at once",
		Args:  cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return s.Each(args, func(c *client.Client, name string) error {
				if _, err := c.Network.RemoveSegment(cmd.Context(), &networkv1.RemoveSegmentRequest{Name: name}); err != nil {
					return err
				}
				return s.Did(session.Named{Name: name}, name, "removed segment %s", name)
			})
		},
	}
}
