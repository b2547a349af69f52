package network

import (
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/spf13/cobra"

	networkv1 "tero.internal/api/network/v1"
	"tero.internal/cmd/tero/internal/render"
	"tero.internal/cmd/tero/internal/session"
)

func flowsCommand(s *session.Session) *cobra.Command {
	var follow, denied bool
	var workload string
	var limit int32
	cmd := &cobra.Command{
		Use:   "flows",
		Short: "Tell who talked to whom, what was refused, by which rule and why",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := s.Node()
			if err != nil {
				return err
			}
			if !follow {
				r, err := c.Network.ListFlows(cmd.Context(), &networkv1.ListFlowsRequest{Limit: limit, DeniedOnly: denied, Workload: workload})
				if err != nil {
					return err
				}
				return s.Show(flowTable(r.GetFlows()))
			}
			stream, err := c.Network.WatchFlows(cmd.Context(), &networkv1.WatchFlowsRequest{DeniedOnly: denied, Workload: workload, Recent: limit})
			if err != nil {
				return err
			}
			for {
				r, err := stream.Recv()
				if errors.Is(err, io.EOF) {
					return nil
				}
				if err != nil {
					return err
				}
				if n := r.GetMissed(); n > 0 {
					s.Note("%d flows were lost here: this reader was too slow", n)
				}
				f := r.GetFlow()
				row := flowRow(f)
				err = s.Show(render.View{
					Single: true, Stream: true, Items: []any{f}, Rows: []render.Row{row},
					Text: fmt.Sprintf("%s  %-7s  %s -> %s  %s  %s: %s\n", row.Cells[0], row.Cells[1], render.Clean(row.Cells[2]),
						render.Clean(row.Cells[3]), render.Clean(row.Cells[4]), render.Clean(row.Cells[5]), render.Clean(f.GetReason())),
				})
				if err != nil {
					return err
				}
			}
		},
	}
	f := cmd.Flags()
	f.BoolVarP(&follow, "follow", "f", false, "go on with new flows")
	f.BoolVar(&denied, "denied", false, "refused flows only")
	f.StringVar(&workload, "workload", "", "to or from this workload only")
	f.Int32VarP(&limit, "limit", "n", 0, "how many of the newest (the node's default)")
	return cmd
}

func flowTable(flows []*networkv1.Flow) render.View {
	v := render.View{
		Columns: []string{"TIME", "VERDICT", "FROM", "TO", "PORT", "RULE", "REASON"},
		Wide:    []string{"NETWORK", "PACKETS", "FROM ADDRESS", "TO ADDRESS", "QUERY"},
	}
	flows = slices.Clone(flows)
	slices.SortStableFunc(flows, func(a, b *networkv1.Flow) int { return a.GetLast().AsTime().Compare(b.GetLast().AsTime()) })
	for _, f := range flows {
		v.Add(f, flowRow(f))
	}
	return v
}

func flowRow(f *networkv1.Flow) render.Row {
	verdict := "unknown"
	switch f.GetVerdict() {
	case networkv1.Verdict_VERDICT_ALLOWED:
		verdict = "allowed"
	case networkv1.Verdict_VERDICT_DENIED:
		verdict = "denied"
	case networkv1.Verdict_VERDICT_UNSPECIFIED:
	}
	return render.Row{
		Name: fmt.Sprint(f.GetSequence()),
		Cells: []string{
			render.Time(f.GetLast()), verdict, whom(f.GetFrom(), f.GetFromAddress()), whom(f.GetTo(), f.GetToAddress()),
			port(f.GetProtocol(), f.GetPort()), render.Or(f.GetRule()), render.Or(f.GetReason()),
		},
		Wide: []string{
			render.Or(f.GetNetwork()), fmt.Sprint(f.GetPackets()), render.Or(f.GetFromAddress()), render.Or(f.GetToAddress()), render.Or(f.GetQuery()),
		},
	}
}

func whom(name, address string) string {
	if name != "" {
		return name
	}
	return render.Or(address)
}
