package node

import (
	"fmt"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"tero.internal/cmd/tero/internal/render"
	"tero.internal/cmd/tero/internal/session"
	"tero.internal/common/fault"
)

// setting is one setting of the CLI and where it came from.
type setting struct {
	Flag     string `json:"flag"`
	Variable string `json:"variable"`
	Value    string `json:"value"`
	From     string `json:"from"`
}

func configCommand(s *session.Session) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "config",
		Short: "Tell which settings the CLI uses, and where each came from",
		Long: `Tell which settings the CLI uses, and where each came from: a flag, the
environment, or the default. The node has settings of its own: "tero config node".`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			v := render.View{Columns: []string{"FLAG", "VARIABLE", "VALUE", "FROM"}}
			for _, d := range [][2]string{
				{"socket", "TERO_SOCKET"},
				{"address", "TERO_NODE"},
				{"tls-ca", "TERO_TLS_CA"},
				{"tls-cert", "TERO_TLS_CERT"},
				{"tls-key", "TERO_TLS_KEY"},
				{"output", "TERO_OUTPUT"},
			} {
				f := cmd.Flag(d[0])
				if f == nil {
					return fmt.Errorf("flag --%s is not declared", d[0])
				}
				from := "default"
				switch {
				case f.Changed:
					from = "flag"
				case s.Getenv(d[1]) != "":
					from = "environment"
				}
				e := setting{Flag: "--" + d[0], Variable: d[1], Value: f.Value.String(), From: from}
				v.Add(e, render.Row{Name: d[0], Cells: []string{e.Flag, e.Variable, render.Or(e.Value), e.From}})
			}
			return s.Show(v)
		},
	}
	cmd.AddCommand(&cobra.Command{
		Use:   "node",
		Short: "Print every setting of the node, documented, as a configuration file",
		Args:  cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			bin, err := findTerod()
			if err != nil {
				return err
			}
			err = unix.Exec(bin, []string{"terod", "--describe-config"}, nodeEnvironment())
			return fault.New(fault.Internal, "cannot execute %s: %w", bin, err)
		},
	})
	return cmd
}
