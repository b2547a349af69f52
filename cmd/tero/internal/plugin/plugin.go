// Package plugin holds the commands about plugins: pack and sign them without
// a node, and manage a node's.
package plugin

import (
	"context"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"

	pluginv1 "tero.internal/api/plugin/v1"
	"tero.internal/client"
	"tero.internal/cmd/tero/internal/render"
	"tero.internal/cmd/tero/internal/session"
	"tero.internal/common/fault"
	"tero.internal/common/pluginpkg"
)

// Command gives the command of this package.
func Command(s *session.Session) *cobra.Command {
	cmd := &cobra.Command{Use: "plugin", Short: "Pack, sign, install and manage plugins"}
	cmd.AddCommand(packCommand(s), signCommand(s), installCommand(s), lsCommand(s), grantCommand(s), rmCommand(s), inspectCommand(s))
	return cmd
}

// packed is what pack and sign tell programs.
type packed struct {
	Layout string `json:"layout"`
	Digest string `json:"digest"`
}

func showPacked(s *session.Session, did string, p packed) error {
	return s.Show(render.View{
		Single: true, Items: []any{p}, Rows: []render.Row{{Name: p.Digest}},
		Text: render.Clean(did+" "+p.Layout+" ("+p.Digest+")") + "\n",
	})
}

func packCommand(s *session.Session) *cobra.Command {
	var manifest, layout string
	cmd := &cobra.Command{
		Use:   "pack --manifest FILE --layout FOLDER PLUGIN.wasm",
		Short: "Make a package, an OCI layout, of a manifest and a WebAssembly module",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			m, err := os.ReadFile(manifest)
			if err != nil {
				return fault.New(fault.NotFound, "manifest: %w", err)
			}
			wasm, err := os.ReadFile(args[0])
			if err != nil {
				return fault.New(fault.NotFound, "module: %w", err)
			}
			d, err := pluginpkg.Pack(cmd.Context(), layout, m, wasm)
			if err != nil {
				return err
			}
			return showPacked(s, "packed", packed{Layout: layout, Digest: d.String()})
		},
	}
	cmd.Flags().StringVar(&manifest, "manifest", "plugin.json", "the plugin's manifest")
	cmd.Flags().StringVar(&layout, "layout", "", "folder to make the package in")
	_ = cmd.MarkFlagRequired("layout") // fails for an unknown flag only
	return cmd
}

func signCommand(s *session.Session) *cobra.Command {
	var key string
	cmd := &cobra.Command{
		Use:   "sign --key FILE FOLDER",
		Short: "Sign a package",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			b, err := os.ReadFile(key)
			if err != nil {
				return fault.New(fault.NotFound, "signing key: %w", err).WithHint("make one with \"tero image keygen --plain\"")
			}
			k, err := pluginpkg.ParsePrivateKey(b)
			if err != nil {
				return err
			}
			d, err := pluginpkg.Sign(cmd.Context(), args[0], k)
			if err != nil {
				return err
			}
			return showPacked(s, "signed", packed{Layout: args[0], Digest: d.String()})
		},
	}
	cmd.Flags().StringVar(&key, "key", "", "private key, PEM: Ed25519 or ECDSA P-256")
	_ = cmd.MarkFlagRequired("key") // fails for an unknown flag only
	return cmd
}

func installCommand(s *session.Session) *cobra.Command {
	h := &pluginv1.InstallHeader{}
	var settings string
	cmd := &cobra.Command{
		Use:   "install FOLDER",
		Short: "Bring a signed package into the node",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if settings != "" {
				b, err := os.ReadFile(settings)
				if err != nil {
					return fault.New(fault.NotFound, "settings: %w", err)
				}
				h.Settings = b
			}
			p, err := install(cmd.Context(), s, h, args[0])
			if err != nil {
				return err
			}
			return showPlugin(s, "installed", p)
		},
	}
	f := cmd.Flags()
	f.StringVar(&settings, "settings", "", "JSON file with the plugin's settings")
	f.StringArrayVar(&h.Grants, "grant", nil, "capability that the plugin gets")
	f.BoolVar(&h.GrantRequired, "grant-required", false, "grant every capability that it requires")
	return cmd
}

func install(ctx context.Context, s *session.Session, h *pluginv1.InstallHeader, dir string) (*pluginv1.Plugin, error) {
	if _, err := pluginpkg.Open(ctx, dir); err != nil { // says what is wrong before anything is sent
		return nil, err
	}
	c, err := s.Node()
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx) // ends the stream when reading fails
	defer cancel()
	stream, err := c.Plugins.InstallPlugin(ctx)
	if err != nil {
		return nil, err
	}
	err = session.Upload(func(w io.Writer) error {
		if err := stream.Send(&pluginv1.InstallPluginRequest{Request: &pluginv1.InstallPluginRequest_Header{Header: h}}); err != nil {
			return err
		}
		return pluginpkg.WriteTar(ctx, w, dir)
	}, func(b []byte) error {
		return stream.Send(&pluginv1.InstallPluginRequest{Request: &pluginv1.InstallPluginRequest_Tar{Tar: b}})
	})
	if err != nil {
		return nil, err
	}
	r, err := stream.CloseAndRecv()
	if err != nil {
		return nil, err
	}
	return r.GetPlugin(), nil
}

func showPlugin(s *session.Session, did string, p *pluginv1.Plugin) error {
	text := fmt.Sprintf("%s %s %s (%s): %s", did, p.GetName(), p.GetVersion(), p.GetDigest(), p.GetState())
	if p.GetReason() != "" {
		text += ", " + p.GetReason()
	}
	return s.Show(render.View{Single: true, Items: []any{p}, Rows: []render.Row{{Name: p.GetName()}}, Text: render.Clean(text) + "\n"})
}

func lsCommand(s *session.Session) *cobra.Command {
	return &cobra.Command{
		Use: "ls", Aliases: []string{"list"},
		Short: "List the node's plugins",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := s.Node()
			if err != nil {
				return err
			}
			r, err := c.Plugins.ListPlugins(cmd.Context(), &pluginv1.ListPluginsRequest{})
			if err != nil {
				return err
			}
			v := render.View{
				Columns: []string{"NAME", "VERSION", "STATE", "SIGNED BY", "CALLS", "DENIALS", "FAILURES"},
				Wide:    []string{"GRANTS", "TICKS", "DIGEST", "REASON"},
			}
			for _, p := range r.GetPlugins() {
				st := p.GetStats()
				v.Add(p, render.Row{
					Name: p.GetName(),
					Cells: []string{
						p.GetName(), p.GetVersion(), p.GetState(), render.Or(p.GetSigner()),
						fmt.Sprint(st.GetCalls()), fmt.Sprint(st.GetDenials()), fmt.Sprint(st.GetFailures()),
					},
					Wide: []string{render.List(p.GetGrants()), fmt.Sprint(st.GetTicks()), render.Short(p.GetDigest()), render.Or(p.GetReason())},
				})
			}
			return s.Show(v)
		},
	}
}

func grantCommand(s *session.Session) *cobra.Command {
	req := &pluginv1.GrantPluginRequest{}
	cmd := &cobra.Command{
		Use:   "grant NAME [CAPABILITY...]",
		Short: "Set which capabilities a plugin has",
		Args:  cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			req.Name, req.Grants = args[0], args[1:]
			c, err := s.Node()
			if err != nil {
				return err
			}
			r, err := c.Plugins.GrantPlugin(cmd.Context(), req)
			if err != nil {
				return err
			}
			return showPlugin(s, "granted", r.GetPlugin())
		},
	}
	cmd.Flags().BoolVar(&req.GrantRequired, "required", false, "grant every capability that it requires")
	return cmd
}

func rmCommand(s *session.Session) *cobra.Command {
	return &cobra.Command{
		Use:   "rm NAME...",
		Short: "Remove plugins; launches are admitted without them from then on",
		Args:  cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return s.Each(args, func(c *client.Client, name string) error {
				r, err := c.Plugins.RemovePlugin(cmd.Context(), &pluginv1.RemovePluginRequest{Name: name})
				if err != nil {
					return err
				}
				return s.Did(r.GetPlugin(), r.GetPlugin().GetName(), "removed plugin %s %s (%s)", r.GetPlugin().GetName(), r.GetPlugin().GetVersion(), r.GetPlugin().GetDigest())
			})
		},
	}
}

func inspectCommand(s *session.Session) *cobra.Command {
	return &cobra.Command{
		Use:   "inspect NAME",
		Short: "Tell all that is known about a plugin",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := s.Node()
			if err != nil {
				return err
			}
			r, err := c.Plugins.InspectPlugin(cmd.Context(), &pluginv1.InspectPluginRequest{Name: args[0]})
			if err != nil {
				return err
			}
			return s.Show(render.View{Single: true, Items: []any{r}, Rows: []render.Row{{Name: r.GetPlugin().GetName()}}, Text: details(r)})
		},
	}
}

func details(r *pluginv1.InspectPluginResponse) string {
	p, st := r.GetPlugin(), r.GetPlugin().GetStats()
	var hooks []string
	for _, h := range p.GetHooks() {
		hooks = append(hooks, strings.TrimSpace(h.GetPoint()+" "+strings.Join(h.GetWrites(), " ")))
	}
	return render.Fields(
		[2]string{"Plugin", p.GetName() + " " + p.GetVersion()},
		[2]string{"State", p.GetState()},
		[2]string{"Reason", p.GetReason()},
		[2]string{"Digest", p.GetDigest()},
		[2]string{"Signed by", render.Or(p.GetSigner()) + " " + p.GetKeyId()},
		[2]string{"Hooks", render.List(hooks)},
		[2]string{"Requires", render.List(p.GetRequired())},
		[2]string{"May use", render.List(p.GetOptional())},
		[2]string{"Granted", render.List(p.GetGrants())},
		[2]string{"Imports", render.List(r.GetImports())},
		[2]string{"Settings", string(r.GetSettings())},
		[2]string{"Calls", fmt.Sprintf("%d, %d refused, %d failed, %d ticks", st.GetCalls(), st.GetDenials(), st.GetFailures(), st.GetTicks())},
		[2]string{"Installed", render.Time(p.GetInstalled())},
	)
}
