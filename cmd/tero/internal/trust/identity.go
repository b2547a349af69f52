package trust

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/types/known/durationpb"

	attestationv1 "tero.internal/api/attestation/v1"
	"tero.internal/cmd/tero/internal/render"
	"tero.internal/cmd/tero/internal/session"
	"tero.internal/common/fault"
)

func identityCommand(s *session.Session) *cobra.Command {
	cmd := &cobra.Command{Use: "identity", Short: "List workloads' identities; make certificates for users"}
	cmd.AddCommand(&cobra.Command{
		Use: "ls", Aliases: []string{"list"},
		Short: "List the identities of running workloads",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := s.Node()
			if err != nil {
				return err
			}
			r, err := c.Attestation.ListIdentities(cmd.Context(), &attestationv1.ListIdentitiesRequest{})
			if err != nil {
				return err
			}
			v := render.View{Columns: []string{"SPIFFE ID", "CONTAINER", "RECORD", "LEVEL", "ENROLLED"}, Wide: []string{"RECORD DIGEST"}}
			for _, i := range r.GetIdentities() {
				v.Add(i, render.Row{
					Name:  i.GetSpiffeId(),
					Cells: []string{i.GetSpiffeId(), render.Short(i.GetContainer()), fmt.Sprint(i.GetSequence()), i.GetLevel(), render.Ago(s.Now(), i.GetEnrolled())},
					Wide:  []string{i.GetRecord()},
				})
			}
			return s.Show(v)
		},
	}, issueUserCommand(s))
	return cmd
}

// userFile is one file that issue-user writes.
type userFile struct {
	path    string
	content []byte
	mode    fs.FileMode
}

func issueUserCommand(s *session.Session) *cobra.Command {
	var dir string
	var ttl time.Duration
	cmd := &cobra.Command{
		Use:   "issue-user NAME",
		Short: "Make a certificate by which a user reaches the node over TCP",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := s.Node()
			if err != nil {
				return err
			}
			key, csr, err := newKey()
			if err != nil {
				return err
			}
			req := &attestationv1.IssueUserCertificateRequest{Name: args[0], Csr: csr}
			if ttl > 0 {
				req.Ttl = durationpb.New(ttl)
			}
			r, err := c.Attestation.IssueUserCertificate(cmd.Context(), req)
			if err != nil {
				return err
			}
			base := filepath.Join(dir, args[0])
			for _, f := range []userFile{
				{base + ".crt", r.GetCertificate(), 0o644}, {base + ".key", key, 0o600}, {filepath.Join(dir, "ca.crt"), r.GetCa(), 0o644},
			} {
				if err := f.write(); err != nil {
					return err
				}
			}
			return s.Did(issued{SPIFFEID: r.GetSpiffeId(), Certificate: base + ".crt", Key: base + ".key", CA: filepath.Join(dir, "ca.crt")}, r.GetSpiffeId(),
				"wrote %s.crt, %s.key and ca.crt to %s for %s, valid until %s", args[0], args[0], dir, r.GetSpiffeId(), render.Time(r.GetExpires()))
		},
	}
	cmd.Flags().StringVar(&dir, "dir", ".", "folder for the files")
	cmd.Flags().DurationVar(&ttl, "ttl", 0, "how long it is valid (the node's default)")
	return cmd
}

// issued is what issue-user tells programs: the files it wrote.
type issued struct {
	SPIFFEID    string `json:"spiffeId"`
	Certificate string `json:"certificate"`
	Key         string `json:"key"`
	CA          string `json:"ca"`
}

// newKey makes the user's key here, so that it never leaves this machine.
func newKey() (keyPEM, csr []byte, err error) {
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, fmt.Errorf("make a key: %w", err)
	}
	if csr, err = x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, k); err != nil {
		return nil, nil, fmt.Errorf("make a certificate request: %w", err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		return nil, nil, fmt.Errorf("encode the key: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), csr, nil
}

func (f userFile) write() error {
	w, err := os.OpenFile(f.path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC|unix.O_NOFOLLOW, f.mode)
	if err != nil {
		return fault.New(fault.Invalid, "cannot write %s: %w", f.path, err)
	}
	_, err = w.Write(f.content)
	if err := errors.Join(err, w.Chmod(f.mode), w.Close()); err != nil {
		return fault.New(fault.Exhausted, "cannot write %s: %w", f.path, err)
	}
	return nil
}
