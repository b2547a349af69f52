// Package policy holds the commands about policies and decisions.
package policy

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	policyv1 "tero.internal/api/policy/v1"
	"tero.internal/cmd/tero/internal/render"
	"tero.internal/cmd/tero/internal/session"
	"tero.internal/common/fault"
)

// Command gives the command of this package.
func Command(s *session.Session) *cobra.Command {
	cmd := &cobra.Command{Use: "policy", Short: "Manage, test and explain policies"}
	cmd.AddCommand(lsCommand(s), applyCommand(s), checkCommand(s), testCommand(s), whyCommand(s), decisionsCommand(s))
	return cmd
}

func lsCommand(s *session.Session) *cobra.Command {
	return &cobra.Command{
		Use: "ls", Aliases: []string{"list"},
		Short: "List the policies in force",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := s.Node()
			if err != nil {
				return err
			}
			r, err := c.Policy.ListPolicies(cmd.Context(), &policyv1.ListPoliciesRequest{})
			if err != nil {
				return err
			}
			v := render.View{Columns: []string{"POLICY", "EFFECT", "MODE", "FILE"}, Wide: []string{"REASON"}}
			for _, p := range r.GetPolicies() {
				v.Add(p, render.Row{
					Name:  p.GetId(),
					Cells: []string{p.GetId(), p.GetEffect(), p.GetMode(), place(p.GetFile(), p.GetLine())},
					Wide:  []string{render.Or(p.GetReason())},
				})
			}
			if s.Plain() && !s.Style.Quiet {
				built := ""
				if r.GetSet().GetBuiltIn() {
					built = ", the built-in defaults"
				}
				s.Note("policy set %s%s, in force since %s", r.GetSet().GetDigest(), built, render.Time(r.GetSet().GetLoaded()))
			}
			return s.Show(v)
		},
	}
}

func place(file string, line int32) string {
	if line > 0 {
		return fmt.Sprintf("%s:%d", file, line)
	}
	return render.Or(file)
}

func applyCommand(s *session.Session) *cobra.Command {
	var expected string
	var defaults bool
	cmd := &cobra.Command{
		Use:   "apply FOLDER|FILE...",
		Short: "Make files the whole policy set, in one step; a faulty set changes nothing",
		RunE: func(cmd *cobra.Command, args []string) error {
			if defaults == (len(args) > 0) {
				return fault.New(fault.Invalid, "say either files or --defaults").WithHint("--defaults goes back to the built-in policies")
			}
			files, err := gather(args)
			if err != nil {
				return err
			}
			c, err := s.Node()
			if err != nil {
				return err
			}
			r, err := c.Policy.ApplyPolicy(cmd.Context(), &policyv1.ApplyPolicyRequest{Files: files, ExpectedDigest: expected})
			if err != nil {
				return err
			}
			return s.Show(render.View{
				Single: true, Items: []any{r}, Rows: []render.Row{{Name: r.GetSet().GetDigest()}},
				Text: fmt.Sprintf("%d policies are in force: %s (before: %s)\n", r.GetPolicies(), r.GetSet().GetDigest(), r.GetPreviousDigest()),
			})
		},
	}
	cmd.Flags().StringVar(&expected, "expected", "", "refuse unless this set (digest) is in force now")
	cmd.Flags().BoolVar(&defaults, "defaults", false, "go back to the built-in policies")
	return cmd
}

func checkCommand(s *session.Session) *cobra.Command {
	return &cobra.Command{
		Use:   "check FOLDER|FILE...",
		Short: "Say what is wrong with policy files; changes nothing",
		Args:  cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			files, err := gather(args)
			if err != nil {
				return err
			}
			c, err := s.Node()
			if err != nil {
				return err
			}
			r, err := c.Policy.CheckPolicy(cmd.Context(), &policyv1.CheckPolicyRequest{Files: files})
			if err != nil {
				return err
			}
			text := ""
			for _, p := range r.GetProblems() {
				where := p.GetFile()
				if p.GetLine() > 0 {
					where += fmt.Sprintf(":%d:%d", p.GetLine(), p.GetColumn())
				}
				text += render.Clean(where+": "+p.GetMessage()) + "\n"
			}
			n := len(r.GetProblems())
			if n == 0 {
				text = fmt.Sprintf("%d policies, no problems: %s\n", r.GetPolicies(), r.GetDigest())
			}
			if err := s.Show(render.View{Single: true, Items: []any{r}, Rows: []render.Row{{Name: r.GetDigest()}}, Text: text}); err != nil {
				return err
			}
			if n > 0 {
				return fault.New(fault.Invalid, "the policy files have %d problems", n)
			}
			return nil
		},
	}
}

// maxPolicyFile bounds one file.
const maxPolicyFile = 8 << 20

// gather reads the policy files that args name, folders one level deep.
func gather(args []string) ([]*policyv1.File, error) {
	var paths []string
	for _, a := range args {
		info, err := os.Stat(a)
		if err != nil {
			return nil, fault.New(fault.NotFound, "policy files: %w", err)
		}
		if !info.IsDir() {
			paths = append(paths, a)
			continue
		}
		entries, err := os.ReadDir(a)
		if err != nil {
			return nil, fault.New(fault.Invalid, "policy folder: %w", err)
		}
		for _, e := range entries {
			if isPolicy(e) {
				paths = append(paths, filepath.Join(a, e.Name()))
			}
		}
	}
	if len(args) > 0 && len(paths) == 0 {
		return nil, fault.New(fault.Invalid, "%s holds no .cedar file", strings.Join(args, ", "))
	}
	var files []*policyv1.File
	for _, p := range paths {
		if info, err := os.Stat(p); err == nil && info.Size() > maxPolicyFile {
			return nil, fault.New(fault.Invalid, "policy file %s is larger than 8 MiB", p)
		}
		b, err := os.ReadFile(p)
		if err != nil {
			return nil, fault.New(fault.Invalid, "policy file: %w", err)
		}
		files = append(files, &policyv1.File{Name: filepath.Base(p), Content: b})
	}
	return files, nil
}

func isPolicy(e fs.DirEntry) bool {
	ext := filepath.Ext(e.Name())
	return !e.IsDir() && !strings.HasPrefix(e.Name(), ".") && (ext == ".cedar" || ext == ".json")
}
