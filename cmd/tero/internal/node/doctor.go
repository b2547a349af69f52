package node

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"tero.internal/cmd/tero/internal/render"
	"tero.internal/cmd/tero/internal/session"
	"tero.internal/common/doctor"
)

func doctorCommand(s *session.Session) *cobra.Command {
	return &cobra.Command{
		Use:   "doctor",
		Short: "Tell what the kernel and the machine offer, and what they lack; needs no node",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return s.Show(doctorView(doctor.Run(cmd.Context()), s.Colour(s.Stdout)))
		},
	}
}

// colours of the outcomes on a terminal.
var colours = map[doctor.Status]string{doctor.OK: "\x1b[32m", doctor.Warn: "\x1b[33m", doctor.Missing: "\x1b[31m"}

func doctorView(checks []doctor.Check, colour bool) render.View {
	v := render.View{}
	width := 0
	for _, c := range checks {
		width = max(width, len(c.Name))
		v.Add(c, render.Row{Name: c.Name})
	}
	var b strings.Builder
	area := ""
	for _, c := range checks {
		if c.Area != area {
			area = c.Area
			fmt.Fprintf(&b, "%s\n", render.Clean(area))
		}
		status := fmt.Sprintf("%-7s", string(c.Status))
		if colour {
			status = colours[c.Status] + status + "\x1b[0m"
		}
		fmt.Fprintf(&b, "  %s  %-*s  %s\n", status, width, render.Clean(c.Name), render.Clean(c.Found))
		if c.Status == doctor.OK {
			continue
		}
		fmt.Fprintf(&b, "  %*s  for: %s\n", width+9, "", render.Clean(c.Needs))
		if c.Hint != "" {
			fmt.Fprintf(&b, "  %*s  hint: %s\n", width+9, "", render.Clean(c.Hint))
		}
	}
	v.Text = b.String()
	return v
}
