package verify_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"tero.internal/attestation/bundle"
	"tero.internal/attestation/evidence"
	"tero.internal/attestation/record"
	"tero.internal/attestation/verify"
	"tero.internal/common/fault"
	"tero.internal/common/workload"
)

var nonce = []byte("sixteen bytes and some")

// node is a log at L0 with three launches.
type node struct {
	log       *evidence.Log
	enrolment *verify.Enrolment
}

func newNode(t testing.TB) *node {
	t.Helper()
	l, err := evidence.Open(context.Background(), evidence.Config{
		StateDir: t.TempDir(), NodeName: "node1", SPIFFEID: "spiffe://node1.tero/node/node1", Log: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	for _, n := range []string{"web", "client", "db"} {
		_, err := l.Measure(context.Background(), workload.Measurement{
			Container: workload.ID(digest.FromString(n).Encoded()[:32]), Name: n, ImageRef: "localhost/" + n + ":v1",
			Image: digest.FromString(n), Config: digest.FromString(n), Mounts: digest.FromString(n), Policy: digest.FromString(n),
			SPIFFEID: "spiffe://node1.tero/workload/" + n,
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	e, err := l.Enrolment(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	return &node{l, e}
}

func (n *node) attest(t testing.TB) []byte {
	t.Helper()
	b, err := n.log.Attest(context.Background(), nonce)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestEveryFlippedByteFails flips a bit of every byte of a bundle (of the long
// ML-DSA signature, of every 16th); in the lines of the records the failure
// must name the record.
func TestEveryFlippedByteFails(t *testing.T) {
	n := newNode(t)
	good := n.attest(t)
	trust := verify.Trust{Enrolment: n.enrolment}
	if _, err := verify.Verify(good, trust, nonce); err != nil {
		t.Fatal(err)
	}
	begin := bytes.Index(good, []byte("\"records\": [\n")) + len("\"records\": [\n")
	end := bytes.LastIndex(good, []byte("]\n}\n"))
	names := []string{"boot", "web", "client", "db"}
	signature := bytes.Index(good, []byte(`"mldsa44": "`)) + len(`"mldsa44": "`)
	for i := range good {
		if i > signature && i < signature+3000 && i%16 != 0 {
			continue
		}
		bad := bytes.Clone(good)
		bad[i] ^= 1 << (i % 8)
		_, err := verify.Verify(bad, trust, nonce)
		if err == nil {
			t.Fatalf("byte %d flipped from %q to %q unnoticed", i, good[i], bad[i])
		}
		if i < begin || i >= end {
			continue
		}
		var f *verify.Failure
		rec := bytes.Count(good[begin:i], []byte("\n"))
		if !errors.As(err, &f) || f.Record != rec || !strings.Contains(err.Error(), fmt.Sprintf("record %d", rec)) {
			t.Fatalf("byte %d lies in record %d (%s), and the failure says: %v", i, rec, names[rec], err)
		}
	}
}

func TestFlippedByteInAnEventNamesTheWorkload(t *testing.T) {
	n := newNode(t)
	bad := bytes.Replace(n.attest(t), []byte("localhost/client:v1"), []byte("localhost/client:v2"), 1)
	_, err := verify.Verify(bad, verify.Trust{Enrolment: n.enrolment}, nonce)
	want := "verification failed: record 2 (client): its SHA-256 digest differs from its bytes"
	if err == nil || err.Error() != want || fault.KindOf(err) != fault.Corrupt || fault.HintOf(err) == "" {
		t.Errorf("got %v, want %q", err, want)
	}
}

// TestTampering changes bundles in ways that keep each record whole.
func TestTampering(t *testing.T) {
	n, other := newNode(t), newNode(t)
	tests := map[string]struct {
		change func(b *bundle.Bundle)
		want   string
	}{
		"record removed at the end":   {func(b *bundle.Bundle) { b.Records = b.Records[:3] }, "added or removed"},
		"record removed in the midst": {func(b *bundle.Bundle) { b.Records = append(b.Records[:1], b.Records[2:]...) }, "record 1 (client): records are missing"},
		"records exchanged": {func(b *bundle.Bundle) {
			b.Records[1], b.Records[2] = b.Records[2], b.Records[1]
		}, "record 1 (client): records are missing"},
		"record doubled": {func(b *bundle.Bundle) { b.Records = append(b.Records, b.Records[3]) }, "record 4 (db)"},
		"boot removed":   {func(b *bundle.Bundle) { b.Records = b.Records[1:] }, "record 0 (web)"},
		"no records":     {func(b *bundle.Bundle) { b.Records = nil }, "no record"},
		"record rewritten with its digests": {func(b *bundle.Bundle) {
			r := b.Records[1].Record
			r.Launch.Image = digest.FromString("another")
			b.Records[1] = seal(t, r)
		}, "rewritten together with its digests"},
		"other boot": {func(b *bundle.Bundle) {
			r := b.Records[1].Record
			r.Boot = "another"
			b.Records[1] = seal(t, r)
		}, "record 1 (web): it belongs to another boot"},
		"chain of the boot": {func(b *bundle.Bundle) {
			r := b.Records[0].Record
			r.Chain[0] ^= 1
			b.Records[0] = seal(t, r)
		}, "record 0 (boot): the records before it"},
		"resume at L0": {func(b *bundle.Bundle) {
			r := b.Records[0].Record
			r.Kind = record.Resume
			b.Records[0] = seal(t, r)
		}, "record 0 (resume)"},
		"abort of what comes": {func(b *bundle.Bundle) {
			b.Records = append(b.Records, seal(t, record.Record{Kind: record.Abort, Sequence: 4, Boot: b.Records[0].Boot, From: 4, To: 5, Reason: "x"}))
		}, "record 4 (abort)"},
		"head of another node": {func(b *bundle.Bundle) {
			o := decode(t, other.attest(t))
			b.Head, b.Ed25519, b.MLDSA44 = o.Head, o.Ed25519, o.MLDSA44
		}, "Ed25519 signature"},
		"classical signature alone": {func(b *bundle.Bundle) { b.MLDSA44 = decode(t, other.attest(t)).MLDSA44 }, "ML-DSA-44 signature"},
		"quote at L0":               {func(b *bundle.Bundle) { b.Quote = &bundle.Quote{} }, "carries a quote"},
		"type":                      {func(b *bundle.Bundle) { b.Type = bundle.TPM }, "type differs"},
		"head is not canonical":     {func(b *bundle.Bundle) { b.Head = strings.Replace(b.Head, ",", ", ", 1) }, "not canonical"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			b := decode(t, n.attest(t))
			tt.change(b)
			data, err := b.Encode()
			if err != nil {
				t.Fatal(err)
			}
			_, err = verify.Verify(data, verify.Trust{Enrolment: n.enrolment}, nonce)
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want %q", err, tt.want)
			}
		})
	}
}

func seal(t *testing.T, r record.Record) record.Entry {
	t.Helper()
	e, err := record.Seal(r)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func decode(t *testing.T, data []byte) *bundle.Bundle {
	t.Helper()
	b, err := bundle.Decode(data)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestTrust(t *testing.T) {
	n, other := newNode(t), newNode(t)
	good := n.attest(t)
	with := func(change func(e *verify.Enrolment)) *verify.Enrolment {
		e := *n.enrolment
		change(&e)
		return &e
	}
	tests := map[string]struct {
		trust verify.Trust
		nonce []byte
		want  string
	}{
		"no enrolment":      {verify.Trust{}, nonce, "no enrolment"},
		"another node":      {verify.Trust{Enrolment: other.enrolment}, nonce, "signature"},
		"another name":      {verify.Trust{Enrolment: with(func(e *verify.Enrolment) { e.Node = "node2" })}, nonce, "node differs"},
		"another SPIFFE ID": {verify.Trust{Enrolment: with(func(e *verify.Enrolment) { e.SPIFFEID = "spiffe://x/node/node1" })}, nonce, "spiffeId differs"},
		"another type":      {verify.Trust{Enrolment: with(func(e *verify.Enrolment) { e.Type = bundle.TPM; e.TPM = &bundle.TPMKeys{} })}, nonce, "type differs"},
		"unknown type":      {verify.Trust{Enrolment: with(func(e *verify.Enrolment) { e.Type = "sev" })}, nonce, "cannot be judged"},
		"another nonce":     {verify.Trust{Enrolment: n.enrolment}, []byte("another nonce, also long"), "another challenge"},
		"wrong witness key": {verify.Trust{Enrolment: n.enrolment, WitnessKey: make([]byte, 32)}, nonce, "ratchet differs"},
		"short witness key": {verify.Trust{Enrolment: n.enrolment, WitnessKey: make([]byte, 31)}, nonce, "31 bytes"},
		"seen more":         {verify.Trust{Enrolment: n.enrolment, Seen: &verify.Seen{Size: 5}}, nonce, "rolled back"},
		"seen otherwise":    {verify.Trust{Enrolment: n.enrolment, Seen: &verify.Seen{Size: 2}}, nonce, "rewritten"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			if _, err := verify.Verify(good, tt.trust, tt.nonce); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want %q", err, tt.want)
			}
		})
	}
	r, err := verify.Verify(good, verify.Trust{Enrolment: n.enrolment}, nil)
	if err != nil || r.Fresh || len(r.Notes) == 0 || r.Level != workload.L0 {
		t.Errorf("without a nonce: %+v, %v", r, err)
	}
	if _, err := verify.Verify(n.attest(t), verify.Trust{Enrolment: n.enrolment, Seen: &r.Seen}, nonce); err != nil {
		t.Errorf("seen before: %v", err)
	}
}

func TestParseEnrolmentRefuses(t *testing.T) {
	n := newNode(t)
	good, err := n.enrolment.Encode()
	if err != nil {
		t.Fatal(err)
	}
	for name, bad := range map[string]string{
		"empty":         "",
		"unknown field": strings.Replace(string(good), `"node"`, `"level": "L2", "node"`, 1),
		"version":       strings.Replace(string(good), `"version": 1`, `"version": 2`, 1),
		"type":          strings.Replace(string(good), `tero-sw`, `tero-xx`, 1),
		"no TPM":        strings.Replace(string(good), `tero-sw`, `tero-tpm`, 1),
		"key":           strings.Replace(string(good), `"ed25519": "MC`, `"ed25519": "AA`, 1),
		"two":           string(good) + "{}",
	} {
		if _, err := verify.ParseEnrolment([]byte(bad)); fault.KindOf(err) != fault.Invalid {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// hugeBundle is a bundle of n records; it is not signed.
func hugeBundle(t testing.TB, n int) []byte {
	t.Helper()
	base := newNode(t)
	b, err := bundle.Decode(base.attest(t))
	if err != nil {
		t.Fatal(err)
	}
	for len(b.Records) < n {
		r := b.Records[1].Record
		r.Sequence = uint64(len(b.Records))
		e, err := record.Seal(r)
		if err != nil {
			t.Fatal(err)
		}
		b.Records = append(b.Records, e)
	}
	data, err := b.Encode()
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// BenchmarkReplay judges a log of 100,000 records up to its head.
func BenchmarkReplay(b *testing.B) {
	const n = 100_000
	data := hugeBundle(b, n)
	node := newNode(b)
	b.SetBytes(int64(len(data)))
	begin, rounds := time.Now(), 0
	for b.Loop() {
		if _, err := verify.Verify(data, verify.Trust{Enrolment: node.enrolment}, nonce); err == nil {
			b.Fatal("an unsigned log was accepted")
		}
		rounds++
	}
	b.ReportMetric(float64(n*rounds)/time.Since(begin).Seconds(), "records/s")
}

func BenchmarkVerifySmall(b *testing.B) {
	n := newNode(b)
	data := n.attest(b)
	for b.Loop() {
		if _, err := verify.Verify(data, verify.Trust{Enrolment: n.enrolment}, nonce); err != nil {
			b.Fatal(err)
		}
	}
}

func FuzzVerify(f *testing.F) {
	n := newNode(f)
	good := n.attest(f)
	f.Add(good)
	f.Add([]byte("{\n\"records\": [\n]\n}\n"))
	trust := verify.Trust{Enrolment: n.enrolment}
	f.Fuzz(func(t *testing.T, data []byte) {
		if _, err := verify.Verify(data, trust, nonce); err == nil && !bytes.Equal(data, good) {
			t.Error("changed evidence was accepted")
		}
	})
}

// TestBundleIsReadable: other programs read it with any JSON parser.
func TestBundleIsReadable(t *testing.T) {
	b := newNode(t).attest(t)
	if !regexp.MustCompile(`(?m)^\{"event":"tero/v1 launch \{\\"boot\\":`).Match(b) {
		t.Errorf("records do not stand on lines of their own:\n%s", b)
	}
}
