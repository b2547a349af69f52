package container

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	runtimev1 "tero.internal/api/runtime/v1"
	"tero.internal/cmd/tero/internal/render"
	"tero.internal/cmd/tero/internal/session"
	"tero.internal/common/fault"
	"tero.internal/common/filetree"
)

func cpCommand(s *session.Session) *cobra.Command {
	var owners, follow bool
	cmd := &cobra.Command{
		Use:   "cp [flags] CONTAINER:SRC DST|-  or  SRC|- CONTAINER:DST",
		Short: "Copy files to and from a running container",
		Long: `Copy files and folders to and from a running container. A folder that does not
exist is made, its parents are not. Into a folder that exists goes the source
itself, of SRC/. what is in it. With - a tar is read from standard input, or
written to standard output.

Links are copied as links. Inside the container paths are resolved as the
container sees them, and never beyond its root. Devices, sockets, pipes, what
is in /proc and /sys, and set-user-ID bits are not copied. What is copied into
a container belongs to its root, what is copied out to you, unless -a keeps
owners. A root that is read-only takes files only where a tmpfs or a volume is
mounted.`,
		Example: `  tero cp web:/var/log/app.log .
  tero cp ./site/. web:/tmp/site
  tero cp web:/data - | tar tv`,
		Args: cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			from, to := parsePlace(args[0]), parsePlace(args[1])
			var summary *runtimev1.CopySummary
			var err error
			switch {
			case (from.container == "") == (to.container == ""):
				return fault.New(fault.Invalid, "one of %q and %q must be in a container", args[0], args[1]).
					WithHint("write CONTAINER:PATH for what is in a container, ./NAME for a file here with a colon in its name")
			case from.container != "":
				summary, err = copyOut(cmd.Context(), s, from, to.path, &outOptions{follow: follow, owners: owners})
			default:
				summary, err = copyIn(cmd.Context(), s, from.path, to, follow, owners)
			}
			if err != nil {
				return err
			}
			if n := summary.GetSkipped(); n > 0 {
				s.Note("%d devices, sockets, pipes or files of the kernel were left out", n)
			}
			if to.path == "-" && to.container == "" {
				return nil
			}
			if s.Plain() && !s.Style.Quiet {
				return nil // as cp(1)
			}
			return s.Show(render.View{Single: true, Stream: true, Items: []any{summary}, Rows: []render.Row{{Name: args[1]}}})
		},
	}
	cmd.Flags().BoolVarP(&owners, "archive", "a", false, "keep owners, by number")
	cmd.Flags().BoolVarP(&follow, "follow-link", "L", false, "copy what SRC leads to when it is a link")
	return cmd
}

// place is a path, in a container or here.
type place struct{ container, path string }

// parsePlace reads CONTAINER:PATH; what begins with / or . is a path here.
func parsePlace(text string) place {
	name, path, ok := strings.Cut(text, ":")
	if !ok || strings.HasPrefix(text, "/") || strings.HasPrefix(text, ".") || name == "" {
		return place{path: text}
	}
	if path == "" {
		path = "/"
	}
	return place{container: name, path: path}
}

type outOptions struct{ follow, owners bool }

// copyOut copies from a container to a path here, or to standard output.
func copyOut(ctx context.Context, s *session.Session, from place, to string, o *outOptions) (*runtimev1.CopySummary, error) {
	c, err := s.Node()
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := c.Runtime.CopyFrom(ctx, &runtimev1.CopyFromRequest{Container: from.container, Path: from.path, FollowLink: o.follow})
	if err != nil {
		return nil, err
	}
	first, err := stream.Recv()
	if err != nil {
		return nil, err
	}
	d := &download{stream: stream}
	if to == "-" {
		if _, err := io.Copy(s.Stdout, d); err != nil {
			return nil, err
		}
		return d.done, nil
	}
	// The node's word about the source decides nothing but its name here.
	source := filetree.Source{
		Name: first.GetSource().GetName(), Directory: first.GetSource().GetDirectory(), Contents: first.GetSource().GetContents(),
	}
	if !source.Valid() {
		return nil, fault.New(fault.Corrupt, "the node calls what it sends %q, which is no name of a file", source.Name)
	}
	target, err := filetree.Host().Target(to, source, false)
	if err != nil {
		return nil, err
	}
	defer target.Close()
	if _, err := filetree.Unpack(d, target, o.owners); err != nil {
		return nil, d.why(err)
	}
	if _, err := io.Copy(io.Discard, d); err != nil { // what follows the archive: the node's word on how it ended
		return nil, err
	}
	return d.done, nil
}

// download is the archive that the node sends.
type download struct {
	stream runtimev1.RuntimeService_CopyFromClient
	rest   []byte
	done   *runtimev1.CopySummary
	err    error // of the stream
}

// Read gives what came. The archive ends well only with the node's summary.
func (d *download) Read(b []byte) (int, error) {
	for len(d.rest) == 0 {
		if d.done != nil {
			return 0, io.EOF
		}
		r, err := d.stream.Recv()
		if errors.Is(err, io.EOF) {
			err = fault.New(fault.Internal, "the node ended the copy before it was whole").WithHint("see the node's log")
		}
		if err != nil {
			d.err = err
			return 0, err
		}
		d.rest, d.done = r.GetData(), r.GetDone()
	}
	n := copy(b, d.rest)
	d.rest = d.rest[n:]
	return n, nil
}

// why prefers the node's word to what it made of the archive.
func (d *download) why(err error) error {
	if d.err != nil {
		return d.err
	}
	return err
}

// copyIn copies from a path here, or from standard input, to a container.
func copyIn(ctx context.Context, s *session.Session, from string, to place, follow, owners bool) (*runtimev1.CopySummary, error) {
	c, err := s.Node()
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := c.Runtime.CopyTo(ctx)
	if err != nil {
		return nil, err
	}
	start := &runtimev1.CopyToStart{Container: to.container, Path: to.path, Owners: owners}
	begin := func() error {
		return stream.Send(&runtimev1.CopyToRequest{Request: &runtimev1.CopyToRequest_Start{Start: start}})
	}
	send := func(b []byte) error {
		return stream.Send(&runtimev1.CopyToRequest{Request: &runtimev1.CopyToRequest_Data{Data: b}})
	}
	var summary filetree.Summary
	err = session.Upload(func(w io.Writer) error {
		if from == "-" {
			if err := begin(); err != nil {
				return err
			}
			if _, err := io.Copy(w, s.Stdin); err != nil {
				return fmt.Errorf("read standard input: %w", err)
			}
			return nil
		}
		var err error
		summary, err = filetree.Pack(w, filetree.Host(), from, follow, func(f filetree.Source) error {
			start.Source = &runtimev1.CopySource{Name: f.Name, Directory: f.Directory, Contents: f.Contents, SizeBytes: f.Size}
			return begin()
		})
		return err
	}, send)
	if err != nil {
		return nil, err
	}
	r, err := stream.CloseAndRecv()
	if err != nil {
		return nil, err
	}
	r.GetSummary().Skipped += summary.Skipped
	return r.GetSummary(), nil
}
