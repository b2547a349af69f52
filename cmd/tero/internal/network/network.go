// Package network holds the commands about networks, segments and flows.
package network

import (
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	networkv1 "tero.internal/api/network/v1"
	"tero.internal/client"
	"tero.internal/cmd/tero/internal/render"
	"tero.internal/cmd/tero/internal/session"
)

// Commands gives the commands of this package.
func Commands(s *session.Session) []*cobra.Command {
	cmd := &cobra.Command{Use: "network", Short: "Manage networks"}
	cmd.AddCommand(lsCommand(s), createCommand(s), rmCommand(s), inspectCommand(s))
	return []*cobra.Command{cmd, segmentCommand(s), flowsCommand(s)}
}

func lsCommand(s *session.Session) *cobra.Command {
	return &cobra.Command{
		Use: "ls", Aliases: []string{"list"},
		Short: "List networks",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := s.Node()
			if err != nil {
				return err
			}
			r, err := c.Network.ListNetworks(cmd.Context(), &networkv1.ListNetworksRequest{})
			if err != nil {
				return err
			}
			return s.Show(table(r.GetNetworks(), s.Now()))
		},
	}
}

func table(networks []*networkv1.Network, now time.Time) render.View {
	v := render.View{
		Columns: []string{"NAME", "DRIVER", "ISOLATION", "POOL", "GATEWAY", "ENDPOINTS"},
		Wide:    []string{"LEASES", "MTU", "LABELS", "CREATED"},
	}
	for _, n := range networks {
		v.Add(n, render.Row{
			Name:  n.GetName(),
			Cells: []string{n.GetName(), n.GetDriver(), n.GetIsolation(), n.GetPool(), render.Or(n.GetGateway()), fmt.Sprint(n.GetEndpoints())},
			Wide:  []string{fmt.Sprint(n.GetLeases()), fmt.Sprint(n.GetMtu()), render.Pairs(n.GetLabels()), render.Ago(now, n.GetCreated())},
		})
	}
	return v
}

func createCommand(s *session.Session) *cobra.Command {
	req := &networkv1.CreateNetworkRequest{}
	var labels []string
	cmd := &cobra.Command{
		Use:   "create NAME",
		Short: "Make a network",
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
			r, err := c.Network.CreateNetwork(cmd.Context(), req)
			if err != nil {
				return err
			}
			n := r.GetNetwork()
			return s.Show(render.View{
				Single: true, Items: []any{n}, Rows: []render.Row{{Name: n.GetName()}},
				Text: render.Clean(fmt.Sprintf("made network %s (%s, %s, %s)", n.GetName(), n.GetDriver(), n.GetIsolation(), n.GetPool())) + "\n",
			})
		},
	}
	f := cmd.Flags()
	f.StringVar(&req.Driver, "driver", "", "how containers are connected (the node's default)")
	f.StringVar(&req.Isolation, "isolation", "", "what may pass without a segment (the node's default: nothing)")
	f.StringVar(&req.Pool, "pool", "", "addresses, such as 10.211.0.0/16 (chosen by the node)")
	f.Int32Var(&req.Mtu, "mtu", 0, "largest packet (chosen by the node)")
	f.StringArrayVarP(&labels, "label", "l", nil, "KEY=value")
	return cmd
}

func rmCommand(s *session.Session) *cobra.Command {
	return &cobra.Command{
		Use:   "rm NAME...",
		Short: "Remove networks that nothing is on",
		Args:  cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return s.Each(args, func(c *client.Client, name string) error {
				if _, err := c.Network.RemoveNetwork(cmd.Context(), &networkv1.RemoveNetworkRequest{Name: name}); err != nil {
					return err
				}
				return s.Did(session.Named{Name: name}, name, "removed network %s", name)
			})
		},
	}
}

func inspectCommand(s *session.Session) *cobra.Command {
	return &cobra.Command{
		Use:   "inspect NAME",
		Short: "Tell all that is known about a network: its endpoints and segments too",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := s.Node()
			if err != nil {
				return err
			}
			r, err := c.Network.InspectNetwork(cmd.Context(), &networkv1.InspectNetworkRequest{Name: args[0]})
			if err != nil {
				return err
			}
			return s.Show(render.View{Single: true, Items: []any{r}, Rows: []render.Row{{Name: r.GetNetwork().GetName()}}, Text: details(r)})
		},
	}
}

func details(r *networkv1.InspectNetworkResponse) string {
	n := r.GetNetwork()
	var text strings.Builder
	text.WriteString(render.Fields(
		[2]string{"Network", n.GetName()},
		[2]string{"Driver", n.GetDriver()},
		[2]string{"Isolation", n.GetIsolation()},
		[2]string{"Pool", n.GetPool()},
		[2]string{"Gateway", n.GetGateway()},
		[2]string{"MTU", fmt.Sprint(n.GetMtu())},
		[2]string{"Leases", fmt.Sprint(n.GetLeases())},
		[2]string{"Labels", render.Pairs(n.GetLabels())},
		[2]string{"Created", render.Time(n.GetCreated())},
	))
	for _, e := range r.GetEndpoints() {
		text.WriteString(render.Clean(fmt.Sprintf("Endpoint %s  %s  %s on %s  %s", e.GetName(), e.GetAddress(), e.GetInterface(), e.GetHostInterface(), e.GetSpiffeId())) + "\n")
	}
	for _, g := range r.GetSegments() {
		text.WriteString(render.Clean(fmt.Sprintf("Segment %s  %s -> %s  %s", g.GetName(), peers(g.GetFrom()), peer(g.GetTo()), ports(g.GetPorts()))) + "\n")
	}
	return text.String()
}

// peer tells whom a segment means.
func peer(p *networkv1.Peer) string {
	switch {
	case p.GetWorkload() != "":
		return p.GetWorkload()
	case len(p.GetLabels()) > 0:
		return "{" + render.Pairs(p.GetLabels()) + "}"
	}
	return "everybody"
}

func peers(list []*networkv1.Peer) string {
	var s []string
	for _, p := range list {
		s = append(s, peer(p))
	}
	return render.List(s)
}

func ports(list []*networkv1.Port) string {
	var s []string
	for _, p := range list {
		s = append(s, port(p.GetProtocol(), p.GetPort()))
	}
	if len(s) == 0 {
		return "all ports"
	}
	return strings.Join(s, ", ")
}

func port(protocol string, n uint32) string {
	if n == 0 {
		return render.Or(protocol)
	}
	return fmt.Sprintf("%s/%d", protocol, n)
}
