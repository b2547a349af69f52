// Package cli is the command tree of tero and how it ends: messages, hints and
// exit codes.
package cli

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"tero.internal/cmd/tero/internal/container"
	"tero.internal/cmd/tero/internal/image"
	"tero.internal/cmd/tero/internal/life"
	"tero.internal/cmd/tero/internal/network"
	"tero.internal/cmd/tero/internal/node"
	"tero.internal/cmd/tero/internal/plugin"
	"tero.internal/cmd/tero/internal/policy"
	"tero.internal/cmd/tero/internal/session"
	"tero.internal/cmd/tero/internal/trust"
	"tero.internal/cmd/tero/internal/volume"
	"tero.internal/common/fault"
)

// The groups of the help text.
const (
	groupContainers = "containers"
	groupNode       = "node"
	groupManage     = "manage"
	groupProof      = "proof"
)

// Main runs the command that args name and gives the exit code.
func Main(ctx context.Context, s *session.Session, args []string) int {
	defer s.Close()
	root := Root(s) //nolint:contextcheck // cobra gives each command the context of ExecuteContext
	root.SetArgs(args)
	err := root.ExecuteContext(ctx)
	s.ReportError(err)
	return session.Code(err)
}

// Root gives the command tree.
func Root(s *session.Session) *cobra.Command {
	root := &cobra.Command{
		Use:   "tero",
		Short: "Run containers, and prove what ran",
		Long: `Run containers, and prove what ran.

A node checks each image's signature, asks plugins and policy, records the
launch before anything runs, and gives the workload an identity and a network
that lets nothing through which no segment allows.`,
		SilenceErrors: true,
		SilenceUsage:  true,
		Args:          unknownCommand,
		RunE:          func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
		PersistentPreRunE: func(*cobra.Command, []string) error {
			return s.Style.Validate()
		},
	}
	root.SetIn(s.Stdin)
	root.SetOut(s.Stdout)
	root.SetErr(s.Stderr)
	root.SetFlagErrorFunc(flagError)
	root.CompletionOptions.HiddenDefaultCmd = false
	s.AddFlags(root.PersistentFlags())
	root.AddGroup(
		&cobra.Group{ID: groupContainers, Title: "Containers:"},
		&cobra.Group{ID: groupProof, Title: "Proof:"},
		&cobra.Group{ID: groupManage, Title: "Images, volumes, network, policy, plugins:"},
		&cobra.Group{ID: groupNode, Title: "The node:"},
	)
	add(root, groupContainers, container.Commands(s)...)
	add(root, groupContainers, life.Commands(s)...)
	add(root, groupProof, trust.Commands(s)...)
	add(root, groupManage, image.Command(s))
	add(root, groupManage, volume.Command(s))
	add(root, groupManage, network.Commands(s)...)
	add(root, groupManage, policy.Command(s), plugin.Command(s))
	add(root, groupNode, node.Commands(s)...)
	strict(root)
	return root
}

func add(root *cobra.Command, group string, commands ...*cobra.Command) {
	for _, c := range commands {
		c.GroupID = group
		root.AddCommand(c)
	}
}

// strict makes wrong arguments faults with a hint, and a group without a
// command an error instead of a help text with exit code 0.
func strict(cmd *cobra.Command) {
	for _, c := range cmd.Commands() {
		strict(c)
		c.DisableFlagsInUseLine = true
		if check := c.Args; check != nil {
			c.Args = func(cmd *cobra.Command, args []string) error {
				if err := check(cmd, args); err != nil {
					return usage(cmd, err)
				}
				return nil
			}
		}
		if c.HasSubCommands() && c.RunE == nil {
			c.Args = unknownCommand
			c.RunE = func(cmd *cobra.Command, _ []string) error { return cmd.Help() }
		}
	}
}

// unknownCommand refuses what is no command and offers what is close to it.
func unknownCommand(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	f := fault.New(fault.Invalid, "%q is not a command of %q", args[0], cmd.CommandPath())
	cmd.SuggestionsMinimumDistance = 2
	if near := cmd.SuggestionsFor(args[0]); len(near) > 0 {
		return f.WithHint("did you mean %q?", cmd.CommandPath()+" "+near[0])
	}
	return f.WithHint("see \"%s --help\"", cmd.CommandPath())
}

// flagError points to the flags, which a usage line does not show.
func flagError(cmd *cobra.Command, err error) error {
	return fault.New(fault.Invalid, "%s: %s", cmd.CommandPath(), err).WithHint("see \"%s --help\"", cmd.CommandPath())
}

// usage gives a fault for what the user typed wrongly.
func usage(cmd *cobra.Command, err error) error {
	if _, ok := errors.AsType[*fault.Error](err); ok {
		return err
	}
	return fault.New(fault.Invalid, "%s: %s", cmd.CommandPath(), strings.TrimSuffix(fmt.Sprint(err), ".")).
		WithHint("usage: %s", cmd.UseLine())
}
