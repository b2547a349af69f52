package image

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"strings"

	"github.com/opencontainers/go-digest"
	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"
	"golang.org/x/term"

	runtimev1 "tero.internal/api/runtime/v1"
	"tero.internal/cmd/tero/internal/render"
	"tero.internal/cmd/tero/internal/session"
	"tero.internal/cmd/tero/internal/terminal"
	"tero.internal/common/fault"
	"tero.internal/common/ocilayout"
)

// passwordVariable is where cosign looks for a key's password.
const passwordVariable = "COSIGN_PASSWORD"

// keyPair is what keygen tells programs.
type keyPair struct {
	Private string `json:"private"`
	Public  string `json:"public"`
	KeyID   string `json:"keyId"`
}

// verified is what verify tells programs.
type verified struct {
	Image  string `json:"image"`
	Digest string `json:"digest"`
	Key    string `json:"key"`
	KeyID  string `json:"keyId"`
}

func keygenCommand(s *session.Session) *cobra.Command {
	var prefix string
	var plain bool
	cmd := &cobra.Command{
		Use:   "keygen",
		Short: "Make a key pair that signs images",
		Long: `Make a key pair that signs images, in cosign's form. The password comes from
COSIGN_PASSWORD or is asked for. A node trusts the keys in its trust folder:
copy the .pub file to images/ there.`,
		Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			var password []byte
			if !plain {
				var err error
				if password, err = newPassword(s); err != nil {
					return err
				}
			}
			k, err := ocilayout.GenerateKey()
			if err != nil {
				return err
			}
			pub, err := k.Public()
			if err != nil {
				return err
			}
			private, err := k.MarshalPEM(password)
			if err != nil {
				return err
			}
			public, err := pub.MarshalPEM()
			if err != nil {
				return err
			}
			if err := writeNew(prefix+".key", private, 0o600); err != nil {
				return err
			}
			if err := writeNew(prefix+".pub", public, 0o644); err != nil {
				return err
			}
			return s.Did(keyPair{Private: prefix + ".key", Public: prefix + ".pub", KeyID: pub.ID()}, prefix+".pub", "wrote %s.key (keep it secret) and %s.pub (%s)", prefix, prefix, pub.ID())
		},
	}
	cmd.Flags().StringVar(&prefix, "prefix", "cosign", "path of the files without .key and .pub")
	cmd.Flags().BoolVar(&plain, "plain", false, "do not encrypt the private key")
	return cmd
}

// writeNew writes a file that must not exist: a lost key cannot be made again.
func writeNew(path string, b []byte, mode fs.FileMode) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL|unix.O_NOFOLLOW, mode)
	if errors.Is(err, fs.ErrExist) {
		return fault.New(fault.Exists, "%s exists already", path).WithHint("choose another --prefix, or move it away")
	}
	if err != nil {
		return fault.New(fault.Invalid, "cannot write the key: %w", err)
	}
	_, err = f.Write(b)
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return fault.New(fault.Exhausted, "cannot write %s: %w", path, err)
	}
	return nil
}

func newPassword(s *session.Session) ([]byte, error) {
	if p, ok := os.LookupEnv(passwordVariable); ok && p != "" {
		return []byte(p), nil
	}
	if !terminal.Is(s.Stdin) {
		return nil, fault.New(fault.Invalid, "no password for the new key, and no terminal to ask on").
			WithHint("set COSIGN_PASSWORD, or say --plain for a key without one")
	}
	first, err := ask(s, "Password of the new key: ")
	if err != nil {
		return nil, err
	}
	second, err := ask(s, "Again: ")
	if err != nil {
		return nil, err
	}
	if len(first) == 0 || string(first) != string(second) {
		return nil, fault.New(fault.Invalid, "the passwords are empty or differ")
	}
	return first, nil
}

func ask(s *session.Session, prompt string) ([]byte, error) {
	in, ok := s.Stdin.(*os.File)
	if !ok {
		return nil, fault.New(fault.Invalid, "no terminal to ask for a password on").WithHint("set COSIGN_PASSWORD")
	}
	if _, err := s.Stderr.Write([]byte(prompt)); err != nil {
		return nil, err
	}
	p, err := term.ReadPassword(int(in.Fd()))
	_, _ = s.Stderr.Write([]byte("\n"))
	if err != nil {
		return nil, fault.New(fault.Invalid, "cannot read a password: %w", err)
	}
	return p, nil
}

// readKey reads a private key and, when it is encrypted, its password.
func readKey(s *session.Session, path string) (*ocilayout.PrivateKey, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, fault.New(fault.NotFound, "signing key: %w", err).WithHint("make one with \"tero image keygen\"")
	}
	password := []byte(s.Getenv(passwordVariable))
	if len(password) == 0 && strings.Contains(string(b), "-----BEGIN ENCRYPTED") && terminal.Is(s.Stdin) {
		if password, err = ask(s, "Password of "+path+": "); err != nil {
			return nil, err
		}
	}
	return ocilayout.ParsePrivateKey(path, b, password)
}

func signCommand(s *session.Session) *cobra.Command {
	var key, layout string
	cmd := &cobra.Command{
		Use:   "sign --key FILE [--layout FOLDER] IMAGE",
		Short: "Sign an image, in the node or in an OCI layout",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			k, err := readKey(s, key)
			if err != nil {
				return err
			}
			if layout == "" {
				return signInNode(cmd.Context(), s, args[0], k)
			}
			l, err := ocilayout.Open(layout)
			if err != nil {
				return err
			}
			d, _, err := l.Sign(args[0], k)
			if err != nil {
				return err
			}
			return s.Did(d, args[0], "signed %s (%s) in %s", args[0], d.Digest, layout)
		},
	}
	cmd.Flags().StringVar(&key, "key", "cosign.key", "private key, PEM")
	cmd.Flags().StringVar(&layout, "layout", "", "folder of an OCI layout (default: the node's image)")
	return cmd
}

func signInNode(ctx context.Context, s *session.Session, name string, k *ocilayout.PrivateKey) error {
	c, err := s.Node()
	if err != nil {
		return err
	}
	found, err := c.Images.InspectImage(ctx, &runtimev1.InspectImageRequest{Reference: name})
	if err != nil {
		return err
	}
	i := found.GetImage()
	ref, err := ocilayout.ParseReference(i.GetReference())
	if err != nil {
		return err
	}
	d, err := digest.Parse(i.GetDigest())
	if err != nil {
		return fault.New(fault.Corrupt, "the node gave a malformed digest %q", i.GetDigest())
	}
	sig, err := ocilayout.SignDigest(k, ref, d)
	if err != nil {
		return err
	}
	r, err := c.Images.AttachSignature(ctx, &runtimev1.AttachSignatureRequest{Reference: i.GetReference(), Payload: sig.Payload, Signature: sig.Signature})
	if err != nil {
		return err
	}
	if r.GetSigner() == nil {
		return s.Did(r, i.GetReference(), "signed %s (%s); the node does not trust this key", i.GetReference(), d)
	}
	return s.Did(r, i.GetReference(), "signed %s (%s) as %s", i.GetReference(), d, r.GetSigner().GetName())
}

func verifyCommand(s *session.Session) *cobra.Command {
	var keys []string
	var layout string
	cmd := &cobra.Command{
		Use:   "verify [--layout FOLDER --key FILE...] IMAGE",
		Short: "Check who signed an image: by the node's trusted keys, or in an OCI layout by yours",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if layout != "" {
				return verifyInLayout(s, layout, args[0], keys)
			}
			if len(keys) > 0 {
				return fault.New(fault.Invalid, "--key goes with --layout: a node verifies by its own trusted keys")
			}
			c, err := s.Node()
			if err != nil {
				return err
			}
			r, err := c.Images.InspectImage(cmd.Context(), &runtimev1.InspectImageRequest{Reference: args[0]})
			if err != nil {
				return err
			}
			i := r.GetImage()
			if len(i.GetSigners()) == 0 {
				return fault.New(fault.Denied, "image %s (%s) is not signed by a key that the node trusts; it has %d signatures", i.GetReference(), i.GetDigest(), i.GetSignatures()).
					WithHint("sign it with \"tero image sign\", and put the .pub file into the node's trust folder")
			}
			return s.Show(render.View{
				Single: true, Items: []any{i}, Rows: []render.Row{{Name: i.GetReference()}},
				Text: render.Clean(i.GetReference()+" ("+i.GetDigest()+") is signed by "+signers(i)) + "\n",
			})
		},
	}
	cmd.Flags().StringArrayVar(&keys, "key", nil, "public key, PEM")
	cmd.Flags().StringVar(&layout, "layout", "", "folder of an OCI layout")
	return cmd
}

func verifyInLayout(s *session.Session, layout, name string, keys []string) error {
	if len(keys) == 0 {
		return fault.New(fault.Invalid, "no public key to verify by").WithHint("give --key cosign.pub")
	}
	l, err := ocilayout.Open(layout)
	if err != nil {
		return err
	}
	d, err := l.Find(name)
	if err != nil {
		return err
	}
	sigs, err := l.Signatures(d.Digest)
	if err != nil {
		return err
	}
	for _, path := range keys {
		b, err := os.ReadFile(path)
		if err != nil {
			return fault.New(fault.NotFound, "public key: %w", err)
		}
		k, err := ocilayout.ParsePublicKey(path, b)
		if err != nil {
			return err
		}
		for _, sig := range sigs {
			if !k.Verify(sig) {
				continue
			}
			claim, err := ocilayout.ParseClaim(sig.Payload)
			if err != nil || claim.Digest != d.Digest {
				continue
			}
			return s.Did(verified{Image: name, Digest: d.Digest.String(), Key: path, KeyID: k.ID()}, name, "%s (%s) is signed by %s (%s)", name, d.Digest, path, k.ID())
		}
	}
	return fault.New(fault.Denied, "image %s (%s) in %s is not signed by the given keys; it has %d signatures", name, d.Digest, layout, len(sigs))
}
