// Package trust holds the commands that prove what ran: evidence, its
// verification, launch records and identities.
package trust

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	attestationv1 "tero.internal/api/attestation/v1"
	"tero.internal/cmd/tero/internal/render"
	"tero.internal/cmd/tero/internal/session"
	"tero.internal/common/atomicfile"
	"tero.internal/common/fault"
)

// Commands gives the commands of this package.
func Commands(s *session.Session) []*cobra.Command {
	return []*cobra.Command{attestCommand(s), verifyCommand(s), identityCommand(s)}
}

func attestCommand(s *session.Session) *cobra.Command {
	var file, nonce string
	cmd := &cobra.Command{
		Use:   "attest [--nonce HEX] [--file FILE]",
		Short: "Get the node's evidence: every launch record, and a signature or quote over them",
		Long: `Get the node's evidence: every launch record, and a signature or quote over them.
It goes to standard output, or with -f into a file; "tero verify" judges it with
the enrolment record alone, without a node. A nonce of the verifier's proves
that the evidence is not an old one.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			n, err := parseNonce(nonce)
			if err != nil {
				return err
			}
			b, err := evidence(cmd.Context(), s, n)
			if err != nil {
				return err
			}
			return deliver(s, file, "evidence", b)
		},
	}
	cmd.Flags().StringVar(&nonce, "nonce", "", "the verifier's nonce, hexadecimal")
	cmd.PersistentFlags().StringVarP(&file, "file", "f", "", "file to write (standard output)")
	cmd.AddCommand(enrolmentCommand(s, &file), recordsCommand(s))
	return cmd
}

func parseNonce(s string) ([]byte, error) {
	n, err := hex.DecodeString(s)
	if err != nil || len(n) > 64 {
		return nil, fault.New(fault.Invalid, "--nonce %q is not up to 64 bytes in hexadecimal", s).WithHint("make one with: openssl rand -hex 32")
	}
	return n, nil
}

func evidence(ctx context.Context, s *session.Session, nonce []byte) ([]byte, error) {
	c, err := s.Node()
	if err != nil {
		return nil, err
	}
	stream, err := c.Attestation.Attest(ctx, &attestationv1.AttestRequest{Nonce: nonce})
	if err != nil {
		return nil, err
	}
	var b bytes.Buffer
	for {
		r, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return b.Bytes(), nil
		}
		if err != nil {
			return nil, err
		}
		b.Write(r.GetChunk())
	}
}

// deliver writes b to the file or to standard output.
func deliver(s *session.Session, file, what string, b []byte) error {
	if file == "" || file == "-" {
		_, err := s.Stdout.Write(b)
		return err
	}
	if err := atomicfile.Write(file, b, 0o644); err != nil {
		return fault.New(fault.Invalid, "cannot write %s: %w", what, err)
	}
	return s.Did(session.Named{Name: file}, file, "wrote %s to %s (%s)", what, file, render.Size(int64(len(b))))
}

func enrolmentCommand(s *session.Session, file *string) *cobra.Command {
	var witness string
	cmd := &cobra.Command{
		Use:   "enrolment",
		Short: "Get the public material that a verifier keeps from the node's enrolment on",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := s.Node()
			if err != nil {
				return err
			}
			var out *os.File
			if witness != "" { // opened first: the node gives the key once only
				out, err = os.OpenFile(witness, os.O_WRONLY|os.O_CREATE|os.O_EXCL|unix.O_NOFOLLOW, 0o600)
				if err != nil {
					return fault.New(fault.Invalid, "file for the witness key: %w", err)
				}
				defer out.Close()
			}
			r, err := c.Attestation.GetEnrolment(cmd.Context(), &attestationv1.GetEnrolmentRequest{TakeWitnessKey: witness != ""})
			if err != nil {
				return err
			}
			if out != nil {
				_, err := out.Write(r.GetWitnessKey())
				if err := errors.Join(err, out.Sync()); err != nil {
					return fault.New(fault.Exhausted, "cannot write the witness key: %w", err)
				}
			}
			return deliver(s, *file, "the enrolment record", r.GetEnrolment())
		},
	}
	cmd.Flags().StringVar(&witness, "witness-key", "", "file for the secret by which a verifier checks the log's ratchet; given once only")
	return cmd
}

func recordsCommand(s *session.Session) *cobra.Command {
	req := &attestationv1.ListRecordsRequest{}
	cmd := &cobra.Command{
		Use:   "records",
		Short: "List the launch log's records",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := s.Node()
			if err != nil {
				return err
			}
			r, err := c.Attestation.ListRecords(cmd.Context(), req)
			if err != nil {
				return err
			}
			v := render.View{
				Columns: []string{"RECORD", "KIND", "TIME", "NAME", "IMAGE", "SPIFFE ID", "DIGEST"},
				Wide:    []string{"CONTAINER", "CONFIG", "MOUNTS", "POLICY", "BOOT"},
			}
			for _, e := range r.GetRecords() {
				v.Add(e, render.Row{
					Name: fmt.Sprint(e.GetSequence()),
					Cells: []string{
						fmt.Sprint(e.GetSequence()), e.GetKind(), render.Time(e.GetTime()), render.Or(e.GetName()),
						render.Short(e.GetImage()), render.Or(e.GetSpiffeId()), render.Short(e.GetDigest()),
					},
					Wide: []string{render.Short(e.GetContainer()), render.Short(e.GetConfig()), render.Short(e.GetMounts()), render.Short(e.GetPolicy()), render.Short(e.GetBoot())},
				})
			}
			return s.Show(v)
		},
	}
	cmd.Flags().Uint64Var(&req.From, "from", 0, "number of the first record")
	cmd.Flags().Int32VarP(&req.Limit, "limit", "n", 0, "the most to list (the node's default)")
	return cmd
}
