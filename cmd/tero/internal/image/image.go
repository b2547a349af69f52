// Package image holds the commands about images: build, sign and verify them
// without a node, and manage a node's store.
package image

import (
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	runtimev1 "tero.internal/api/runtime/v1"
	"tero.internal/client"
	"tero.internal/cmd/tero/internal/render"
	"tero.internal/cmd/tero/internal/session"
)

// Command gives the command of this package.
func Command(s *session.Session) *cobra.Command {
	cmd := &cobra.Command{Use: "image", Short: "Build, sign, import and manage images"}
	cmd.AddCommand(
		buildCommand(s), importCommand(s), lsCommand(s), inspectCommand(s), rmCommand(s),
		keygenCommand(s), signCommand(s), verifyCommand(s),
	)
	return cmd
}

func lsCommand(s *session.Session) *cobra.Command {
	return &cobra.Command{
		Use: "ls", Aliases: []string{"list"},
		Short: "List the node's images",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := s.Node()
			if err != nil {
				return err
			}
			r, err := c.Images.ListImages(cmd.Context(), &runtimev1.ListImagesRequest{})
			if err != nil {
				return err
			}
			return s.Show(table(r.GetImages(), s.Now()))
		},
	}
}

func table(images []*runtimev1.Image, now time.Time) render.View {
	v := render.View{
		Columns: []string{"REFERENCE", "DIGEST", "SIZE", "SIGNED BY", "IMPORTED"},
		Wide:    []string{"PLATFORM", "SIGNATURES", "LAYERS", "USED BY"},
	}
	for _, i := range images {
		v.Add(i, render.Row{
			Name: i.GetReference(),
			Cells: []string{
				i.GetReference(), render.Short(i.GetDigest()), render.Size(i.GetSizeBytes()), signers(i), render.Ago(now, i.GetImported()),
			},
			Wide: []string{render.Or(i.GetPlatform()), fmt.Sprint(i.GetSignatures()), fmt.Sprint(len(i.GetLayers())), render.List(i.GetUsedBy())},
		})
	}
	return v
}

// signers names the trusted keys, and says what an image without one is.
func signers(i *runtimev1.Image) string {
	var names []string
	for _, g := range i.GetSigners() {
		names = append(names, g.GetName())
	}
	switch {
	case len(names) > 0:
		return strings.Join(names, ", ")
	case i.GetSignatures() > 0:
		return "no trusted key"
	}
	return "unsigned"
}

func inspectCommand(s *session.Session) *cobra.Command {
	return &cobra.Command{
		Use:   "inspect IMAGE...",
		Short: "Tell all that is known about images",
		Args:  cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := s.Node()
			if err != nil {
				return err
			}
			v := render.View{Single: len(args) == 1}
			for _, name := range args {
				r, err := c.Images.InspectImage(cmd.Context(), &runtimev1.InspectImageRequest{Reference: name})
				if err != nil {
					return err
				}
				v.Add(r.GetImage(), render.Row{Name: r.GetImage().GetReference()})
				if v.Text != "" {
					v.Text += "\n"
				}
				v.Text += details(r.GetImage())
			}
			return s.Show(v)
		},
	}
}

func details(i *runtimev1.Image) string {
	c := i.GetConfig()
	var keys []string
	for _, g := range i.GetSigners() {
		keys = append(keys, fmt.Sprintf("%s (%s)", g.GetName(), g.GetKeyId()))
	}
	var text strings.Builder
	text.WriteString(render.Fields(
		[2]string{"Reference", i.GetReference()},
		[2]string{"Digest", i.GetDigest()},
		[2]string{"Index digest", i.GetIndexDigest()},
		[2]string{"Config digest", i.GetConfigDigest()},
		[2]string{"Platform", i.GetPlatform()},
		[2]string{"Size", render.Size(i.GetSizeBytes())},
		[2]string{"Signed by", render.List(keys)},
		[2]string{"Signatures", fmt.Sprint(i.GetSignatures())},
		[2]string{"Created", render.Time(i.GetCreated())},
		[2]string{"Imported", render.Time(i.GetImported())},
		[2]string{"Used by", render.List(i.GetUsedBy())},
		[2]string{"Entrypoint", strings.Join(c.GetEntrypoint(), " ")},
		[2]string{"Command", strings.Join(c.GetCmd(), " ")},
		[2]string{"User", c.GetUser()},
		[2]string{"Working folder", c.GetWorkingDir()},
		[2]string{"Environment", strings.Join(c.GetEnv(), " ")},
		[2]string{"Ports", render.List(c.GetExposedPorts())},
		[2]string{"Labels", render.Pairs(c.GetLabels())},
	))
	for n, l := range i.GetLayers() {
		fmt.Fprintf(&text, "Layer %d  %s  %s  %s\n", n, l.GetDigest(), render.Size(l.GetSizeBytes()), render.Clean(l.GetMediaType()))
	}
	return text.String()
}

func rmCommand(s *session.Session) *cobra.Command {
	return &cobra.Command{
		Use:   "rm IMAGE...",
		Short: "Remove images, and what only they needed",
		Args:  cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return s.Each(args, func(c *client.Client, name string) error {
				r, err := c.Images.RemoveImage(cmd.Context(), &runtimev1.RemoveImageRequest{Reference: name})
				if err != nil {
					return err
				}
				if !r.GetContentRemoved() {
					return s.Did(r, r.GetReference(), "removed the name %s; another name keeps %s", r.GetReference(), r.GetDigest())
				}
				return s.Did(r, r.GetReference(), "removed %s (%s), freed %s", r.GetReference(), r.GetDigest(), render.Size(r.GetFreedBytes()))
			})
		},
	}
}
