package policy

import (
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	policyv1 "tero.internal/api/policy/v1"
	"tero.internal/cmd/tero/internal/render"
	"tero.internal/cmd/tero/internal/session"
	"tero.internal/common/config"
	"tero.internal/common/fault"
)

func testCommand(s *session.Session) *cobra.Command {
	l := &policyv1.HypotheticalLaunch{}
	var labels, paths []string
	var memory string
	var caller string
	cmd := &cobra.Command{
		Use:   "test IMAGE",
		Short: "Decide a launch that nobody asked for; records nothing",
		Long: `Decide a launch that nobody asked for, by the policies in force, or with --files
by others. The exit code is 0 when it would be permitted, 126 when refused.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			l.Image = args[0]
			var err error
			if l.Labels, err = session.Pairs("--label", labels); err != nil {
				return err
			}
			if memory != "" {
				size, err := config.ParseSize(memory)
				if err != nil {
					return fault.New(fault.Invalid, "--memory: %w", err)
				}
				l.MemoryBytes = int64(size)
			}
			if caller != "" {
				l.Caller = &policyv1.Caller{SpiffeId: caller}
			}
			files, err := gather(paths)
			if err != nil {
				return err
			}
			c, err := s.Node()
			if err != nil {
				return err
			}
			r, err := c.Policy.TestPolicy(cmd.Context(), &policyv1.TestPolicyRequest{Launch: l, Files: files})
			if err != nil {
				return err
			}
			d := r.GetDecision()
			if err := s.Show(render.View{Single: true, Items: []any{d}, Rows: []render.Row{{Name: outcome(d)}}, Text: explain(d)}); err != nil {
				return err
			}
			if !d.GetAllowed() {
				return session.Exit{Code: fault.ExitDenied}
			}
			return nil
		},
	}
	f := cmd.Flags()
	f.StringVar(&l.Name, "name", "", "name of the workload")
	f.StringVar(&l.ImageDigest, "digest", "", "digest of the image")
	f.StringArrayVar(&l.Signers, "signer", nil, "trusted key that signed the image")
	f.StringArrayVarP(&labels, "label", "l", nil, "KEY=value")
	f.StringArrayVar(&l.CapAdd, "cap-add", nil, "capability to keep, such as CAP_NET_RAW")
	f.BoolVar(&l.WritableRootfs, "writable", false, "let it write to its file system")
	f.StringVar(&l.Network, "network", "", "network to join")
	f.StringVarP(&l.User, "user", "u", "", "user inside")
	f.Int64Var(&l.Pids, "pids-limit", 0, "most processes and threads")
	f.Int64Var(&l.MilliCpu, "milli-cpu", 0, "most CPU, in thousandths of a core")
	f.StringVarP(&memory, "memory", "m", "", "most memory, such as 64MiB")
	f.StringVar(&l.NodeLevel, "node-level", "", "assurance level of the node")
	f.StringArrayVar(&l.Plugins, "plugin", nil, "admission plugin that accepted")
	f.StringVar(&caller, "caller", "", "SPIFFE ID of who asks (default: root on the socket)")
	f.StringArrayVar(&paths, "files", nil, "decide by these files or folders instead of the set in force")
	return cmd
}

func whyCommand(s *session.Session) *cobra.Command {
	return &cobra.Command{
		Use:   "why [DECISION]",
		Short: "Explain a decision; the newest refusal when none is named",
		Args:  cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := s.Node()
			if err != nil {
				return err
			}
			req := &policyv1.ExplainDecisionRequest{}
			if len(args) > 0 {
				req.Id = args[0]
			}
			r, err := c.Policy.ExplainDecision(cmd.Context(), req)
			if err != nil {
				return err
			}
			var text strings.Builder
			text.WriteString(explain(r.GetDecision()))
			if !r.GetCurrent() {
				line(&text, "The policies have changed since; this tells what held then.")
			}
			for _, p := range r.GetPolicies() {
				line(&text, "")
				line(&text, "%s", place(p.GetFile(), p.GetLine()))
				text.WriteString(indent(p.GetText()))
			}
			return s.Show(render.View{Single: true, Items: []any{r}, Rows: []render.Row{{Name: r.GetDecision().GetId()}}, Text: text.String()})
		},
	}
}

func decisionsCommand(s *session.Session) *cobra.Command {
	req := &policyv1.ListDecisionsRequest{}
	cmd := &cobra.Command{
		Use:   "decisions",
		Short: "List recent decisions, newest first",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := s.Node()
			if err != nil {
				return err
			}
			r, err := c.Policy.ListDecisions(cmd.Context(), req)
			if err != nil {
				return err
			}
			v := render.View{Columns: []string{"DECISION", "TIME", "OUTCOME", "ACTION", "RESOURCE", "WHY"}, Wide: []string{"PRINCIPAL", "TOOK"}}
			for _, d := range r.GetDecisions() {
				v.Add(d, render.Row{
					Name:  d.GetId(),
					Cells: []string{render.Short(d.GetId()), render.Time(d.GetTime()), outcome(d), d.GetAction(), d.GetResource(), render.Or(d.GetMessage())},
					Wide:  []string{d.GetPrincipal(), time.Duration(d.GetDurationNs()).String()},
				})
			}
			return s.Show(v)
		},
	}
	cmd.Flags().Int32VarP(&req.Limit, "limit", "n", 0, "the most to list (100)")
	cmd.Flags().BoolVar(&req.RefusedOnly, "refused", false, "leave out what was permitted")
	return cmd
}

func outcome(d *policyv1.Decision) string {
	if d.GetAllowed() {
		return "permitted"
	}
	return "refused"
}

// explain tells a decision to people.
func explain(d *policyv1.Decision) string {
	var b strings.Builder
	b.WriteString(render.Fields(
		[2]string{"Decision", d.GetId()},
		[2]string{"Outcome", outcome(d)},
		[2]string{"Why", d.GetMessage()},
		[2]string{"Who", d.GetPrincipal()},
		[2]string{"What", d.GetAction() + " " + d.GetResource()},
		[2]string{"When", render.Time(d.GetTime())},
		[2]string{"Policy set", d.GetPolicyDigest()},
	))
	for _, m := range d.GetMatched() {
		line(&b, "%s %s (%s)  %s", m.GetEffect(), m.GetPolicy(), place(m.GetFile(), m.GetLine()), m.GetReason())
	}
	for _, n := range d.GetNearMisses() {
		line(&b, "nearest permit: %s (%s): %d of %d conditions failed", n.GetPolicy(), place(n.GetFile(), n.GetLine()), len(n.GetFailed()), n.GetConditions())
		for _, f := range n.GetFailed() {
			line(&b, "    %s", f)
		}
	}
	for _, e := range d.GetErrors() {
		line(&b, "policy %s could not be evaluated: %s", e.GetPolicy(), e.GetMessage())
	}
	for _, m := range d.GetAudited() {
		line(&b, "audit only: %s %s (%s) would have matched", m.GetEffect(), m.GetPolicy(), place(m.GetFile(), m.GetLine()))
	}
	return b.String()
}

func line(b *strings.Builder, format string, args ...any) {
	b.WriteString(render.Clean(fmt.Sprintf(format, args...)) + "\n")
}

// indent sets foreign text of several lines apart.
func indent(text string) string {
	var b strings.Builder
	for l := range strings.Lines(text) {
		line(&b, "    %s", strings.TrimRight(strings.ReplaceAll(l, "\t", "    "), "\r\n"))
	}
	return b.String()
}
