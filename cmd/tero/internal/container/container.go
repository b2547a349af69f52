// Package container holds the commands that launch containers and work with them.
package container

import (
	"github.com/spf13/cobra"

	"tero.internal/cmd/tero/internal/session"
)

// Commands gives the commands of this package.
func Commands(s *session.Session) []*cobra.Command {
	return []*cobra.Command{
		runCommand(s), psCommand(s), logsCommand(s), execCommand(s), attachCommand(s),
		stopCommand(s), killCommand(s), rmCommand(s), waitCommand(s), inspectCommand(s), statsCommand(s), topCommand(s), cpCommand(s),
	}
}
