package image

import (
	"context"
	"io"
	"os"

	"github.com/spf13/cobra"

	runtimev1 "tero.internal/api/runtime/v1"
	"tero.internal/cmd/tero/internal/render"
	"tero.internal/cmd/tero/internal/session"
	"tero.internal/common/fault"
	"tero.internal/common/ocilayout"
)

// built is what build tells programs.
type built struct {
	Reference string `json:"reference"`
	Digest    string `json:"digest"`
	Layout    string `json:"layout,omitempty"`
}

func buildCommand(s *session.Session) *cobra.Command {
	var o ocilayout.BuildOptions
	var entrypoint string
	var labels []string
	cmd := &cobra.Command{
		Use:   "build --tag NAME [flags] SOURCE [ARG...]",
		Short: "Make an image of a folder or of one static program",
		Long: `Make a single-layer image of a folder, or of one static program, which becomes
the entrypoint. ARGs become the default command. Equal sources give equal
digests (SOURCE_DATE_EPOCH is honoured). The image goes to the node, or with
--layout into an OCI image layout, which needs no node.`,
		Example: `  tero image build -t web:v1 ./web
  tero image build -t web:v1 --layout ./images --entrypoint /bin/web ./rootfs -- -listen :8080`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			o.Source, o.Cmd = args[0], args[1:]
			if entrypoint != "" {
				o.Entrypoint = []string{entrypoint}
			}
			var err error
			if o.Labels, err = session.Pairs("--label", labels); err != nil {
				return err
			}
			if o.Time, err = ocilayout.SourceDateEpoch(); err != nil {
				return err
			}
			if o.Layout != "" {
				b, err := ocilayout.Build(cmd.Context(), o)
				if err != nil {
					return err
				}
				return showBuilt(s, built{Reference: b.Reference.String(), Digest: b.Manifest.Digest.String(), Layout: o.Layout})
			}
			return buildIntoNode(cmd.Context(), s, o)
		},
	}
	f := cmd.Flags()
	f.StringVarP(&o.Reference, "tag", "t", "", "name of the image, such as web:v1")
	f.StringVar(&o.Layout, "layout", "", "folder of the OCI layout to add the image to")
	f.StringVar(&entrypoint, "entrypoint", "", "program to run")
	f.StringArrayVarP(&o.Env, "env", "e", nil, "KEY=value")
	f.StringArrayVarP(&labels, "label", "l", nil, "KEY=value")
	f.StringVarP(&o.User, "user", "u", "", "uid[:gid] or name[:group]")
	f.StringVarP(&o.WorkingDir, "workdir", "w", "", "working directory")
	f.StringVar(&o.StopSignal, "stop-signal", "", "signal that asks it to end")
	f.StringArrayVar(&o.ExposedPorts, "expose", nil, "port that it listens on, such as 8080/tcp")
	_ = cmd.MarkFlagRequired("tag") // fails for an unknown flag only
	return cmd
}

// buildIntoNode builds into a temporary layout and sends it.
func buildIntoNode(ctx context.Context, s *session.Session, o ocilayout.BuildOptions) error {
	if _, err := s.Node(); err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "tero-build-")
	if err != nil {
		return fault.New(fault.Exhausted, "temporary folder: %w", err).WithHint("set TMPDIR to a folder with room")
	}
	defer os.RemoveAll(dir)
	o.Layout = dir
	if _, err := ocilayout.Build(ctx, o); err != nil {
		return err
	}
	l, err := ocilayout.Open(dir)
	if err != nil {
		return err
	}
	images, err := send(ctx, s, "", func(w io.Writer) error { return l.WriteTar(ctx, w) })
	if err != nil {
		return err
	}
	for _, i := range images {
		if err := showBuilt(s, built{Reference: i.GetReference(), Digest: i.GetDigest()}); err != nil {
			return err
		}
	}
	return nil
}

func showBuilt(s *session.Session, b built) error {
	text := "built " + b.Reference + " (" + b.Digest + ")"
	if b.Layout != "" {
		text += " in " + b.Layout
	}
	return s.Show(render.View{Single: true, Items: []any{b}, Rows: []render.Row{{Name: b.Reference}}, Text: render.Clean(text) + "\n"})
}

func importCommand(s *session.Session) *cobra.Command {
	var name string
	cmd := &cobra.Command{
		Use:   "import PATH",
		Short: "Bring images into the node: an OCI layout (folder or tar) or a docker-archive; - is standard input",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			produce, end, err := open(cmd.Context(), s, args[0])
			if err != nil {
				return err
			}
			defer end()
			images, err := send(cmd.Context(), s, name, produce)
			if err != nil {
				return err
			}
			v := render.View{}
			for _, i := range images {
				v.Add(i, render.Row{Name: i.GetReference()})
				v.Text += render.Clean("imported "+i.GetReference()+" ("+i.GetDigest()+"), "+signedWords(i)) + "\n"
			}
			return s.Show(v)
		},
	}
	cmd.Flags().StringVar(&name, "name", "", "name of the archive's only image (default: the names in it)")
	return cmd
}

func signedWords(i *runtimev1.Image) string {
	if len(i.GetSigners()) > 0 {
		return "signed by " + signers(i)
	}
	if i.GetSignatures() > 0 {
		return "signed by no trusted key"
	}
	return "unsigned"
}

// open gives what writes the archive at path.
func open(ctx context.Context, s *session.Session, path string) (produce func(io.Writer) error, end func(), err error) {
	if path == "-" {
		return func(w io.Writer) error { _, err := io.Copy(w, s.Stdin); return err }, func() {}, nil
	}
	info, err := os.Stat(path)
	if err != nil {
		return nil, nil, fault.New(fault.NotFound, "cannot import: %w", err)
	}
	if info.IsDir() {
		l, err := ocilayout.Open(path)
		if err != nil {
			return nil, nil, err
		}
		return func(w io.Writer) error { return l.WriteTar(ctx, w) }, func() {}, nil
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, nil, fault.New(fault.Invalid, "cannot import: %w", err)
	}
	return func(w io.Writer) error { _, err := io.Copy(w, f); return err }, func() { _ = f.Close() }, nil
}

// send streams an archive to the node.
func send(ctx context.Context, s *session.Session, name string, produce func(io.Writer) error) ([]*runtimev1.Image, error) {
	c, err := s.Node()
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx) // ends the stream when producing fails
	defer cancel()
	stream, err := c.Images.ImportImage(ctx)
	if err != nil {
		return nil, err
	}
	start := &runtimev1.ImportImageRequest{Request: &runtimev1.ImportImageRequest_Start{Start: &runtimev1.ImportImageStart{Reference: name}}}
	err = session.Upload(func(w io.Writer) error {
		if err := stream.Send(start); err != nil {
			return err
		}
		return produce(w)
	}, func(b []byte) error {
		return stream.Send(&runtimev1.ImportImageRequest{Request: &runtimev1.ImportImageRequest_Data{Data: b}})
	})
	if err != nil {
		return nil, err
	}
	r, err := stream.CloseAndRecv()
	if err != nil {
		return nil, err
	}
	return r.GetImages(), nil
}
