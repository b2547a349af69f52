package trust

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"tero.internal/attestation/verify"
	"tero.internal/cmd/tero/internal/render"
	"tero.internal/cmd/tero/internal/session"
	"tero.internal/common/atomicfile"
	"tero.internal/common/fault"
)

// maxEvidence bounds what is read: about a million records.
const maxEvidence = 1 << 30

func verifyCommand(s *session.Session) *cobra.Command {
	var enrolment, nonce, seen, witness string
	cmd := &cobra.Command{
		Use:   "verify FILE --enrolment FILE",
		Short: "Judge a node's evidence with public material alone; needs no node",
		Long: `Judge a node's evidence (- is standard input) with the enrolment record that was
kept since the node's enrolment. Every launch is replayed and named. The exit
code is 0 only for evidence that proves itself; otherwise the error names the
record that is wrong. The level comes from the enrolment, never from the node.

With --seen the verifier remembers what it saw of this node, and finds a log
that has been cut or put back to an older state since.`,
		Example: `  tero attest enrolment -f node.enrolment      # once, by a way that you trust
  tero attest --nonce 5f3c... -f evidence.json
  tero verify evidence.json --enrolment node.enrolment --nonce 5f3c...`,
		Args: cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			n, err := parseNonce(nonce)
			if err != nil {
				return err
			}
			trust, err := readTrust(enrolment, witness, seen)
			if err != nil {
				return err
			}
			data, err := readEvidence(s.Stdin, args[0])
			if err != nil {
				return err
			}
			r, err := verify.Verify(data, trust, n)
			if err != nil {
				return err
			}
			if seen != "" {
				if err := remember(seen, r.Seen); err != nil {
					return err
				}
			}
			return s.Show(verdict(r))
		},
	}
	f := cmd.Flags()
	f.StringVar(&enrolment, "enrolment", "", "the node's enrolment record")
	f.StringVar(&nonce, "nonce", "", "the nonce that the evidence must answer, hexadecimal")
	f.StringVar(&seen, "seen", "", "file that remembers what was seen of this node; made when missing")
	f.StringVar(&witness, "witness-key", "", "the secret of \"tero attest enrolment --witness-key\"")
	_ = cmd.MarkFlagRequired("enrolment") // fails for an unknown flag only
	return cmd
}

func readEvidence(stdin io.Reader, file string) ([]byte, error) {
	in := stdin
	if file != "-" {
		f, err := os.Open(file)
		if err != nil {
			return nil, fault.New(fault.NotFound, "evidence: %w", err).WithHint("get it with \"tero attest -f FILE\"")
		}
		defer f.Close()
		in = f
	}
	data, err := io.ReadAll(io.LimitReader(in, maxEvidence+1))
	if err != nil {
		return nil, fault.New(fault.Invalid, "evidence %s: %w", file, err)
	}
	if len(data) > maxEvidence {
		return nil, fault.New(fault.Invalid, "evidence %s is larger than 1 GiB", file)
	}
	return data, nil
}

// readTrust gathers what the verifier trusts.
func readTrust(enrolment, witness, seen string) (verify.Trust, error) {
	var t verify.Trust
	b, err := os.ReadFile(enrolment)
	if err != nil {
		return t, fault.New(fault.NotFound, "enrolment record: %w", err).WithHint("get it once from the node, by a way that you trust: tero attest enrolment -f FILE")
	}
	if t.Enrolment, err = verify.ParseEnrolment(b); err != nil {
		return t, err
	}
	if witness != "" {
		if t.WitnessKey, err = os.ReadFile(witness); err != nil {
			return t, fault.New(fault.NotFound, "witness key: %w", err)
		}
	}
	if seen == "" {
		return t, nil
	}
	b, err = os.ReadFile(seen)
	if errors.Is(err, fs.ErrNotExist) {
		return t, nil
	}
	if err != nil {
		return t, fault.New(fault.Invalid, "file of what was seen: %w", err)
	}
	t.Seen = &verify.Seen{}
	if err := json.Unmarshal(b, t.Seen); err != nil {
		return t, fault.New(fault.Corrupt, "file %s of what was seen is damaged", seen).WithHint("restore it; without it, a log that was put back cannot be told")
	}
	return t, nil
}

func remember(file string, seen verify.Seen) error {
	b, err := json.Marshal(seen)
	if err != nil {
		return fmt.Errorf("encode what was seen: %w", err)
	}
	if err := atomicfile.Write(file, append(b, '\n'), 0o644); err != nil {
		return fault.New(fault.Exhausted, "cannot remember what was seen: %w", err)
	}
	return nil
}

// verdict tells what the evidence proves.
func verdict(r *verify.Result) render.View {
	var b strings.Builder
	fresh := "not proven (no nonce was given)"
	if r.Fresh {
		fresh = "proven: answers the nonce"
	}
	b.WriteString(render.Fields(
		[2]string{"Verified", r.Node + " (" + r.SPIFFEID + ")"},
		[2]string{"Level", r.Level.Describe()},
		[2]string{"Evidence", r.Type},
		[2]string{"Signed at", r.Time.Local().Format("2006-01-02 15:04:05")},
		[2]string{"Freshness", fresh},
		[2]string{"Launches", fmt.Sprint(len(r.Launches))},
	))
	for _, l := range r.Launches {
		state := "ran"
		if l.Aborted {
			state = "aborted before it ran"
		}
		fmt.Fprintf(&b, "  record %-4d %s  %-20s %s  image %s  %s\n", l.Sequence, l.Time.Local().Format("2006-01-02 15:04:05"),
			render.Clean(l.Name), render.Clean(l.SPIFFEID), render.Short(l.Image.String()), state)
	}
	for _, n := range r.Notes {
		b.WriteString("note: " + render.Clean(n) + "\n")
	}
	return render.View{Single: true, Items: []any{r}, Rows: []render.Row{{Name: r.Node}}, Text: b.String()}
}
