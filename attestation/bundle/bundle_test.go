package bundle_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"

	"tero.internal/attestation/bundle"
	"tero.internal/attestation/record"
	"tero.internal/common/workload"
)

func sample(t testing.TB) *bundle.Bundle {
	t.Helper()
	head := bundle.Head{Node: "node1", Nonce: "00", Size: 2, Time: "2026-11-23T21:12:00.000Z", Type: bundle.TPM}
	text, err := head.Text()
	if err != nil {
		t.Fatal(err)
	}
	d := digest.FromString("x")
	b := &bundle.Bundle{Type: bundle.TPM, Head: text, Ed25519: []byte{1}, MLDSA44: []byte{2}, Quote: &bundle.Quote{Attest: []byte{3}, Signature: []byte{4}}}
	for _, r := range []record.Record{
		{Kind: record.Boot, Boot: "tpm-1.0", Node: "node1", Register: bundle.TPM},
		{Kind: record.Launch, Sequence: 1, Boot: "tpm-1.0", Time: time.Unix(1e9, 0), Launch: workload.Measurement{
			Container: "c", Name: "web", ImageRef: "localhost/<web>&", Image: d, Config: d, Mounts: d, Policy: d, SPIFFEID: "spiffe://x/y",
		}},
	} {
		e, err := record.Seal(r)
		if err != nil {
			t.Fatal(err)
		}
		b.Records = append(b.Records, e)
	}
	return b
}

func encode(t testing.TB, b *bundle.Bundle) []byte {
	t.Helper()
	data, err := b.Encode()
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func TestDecodeIsTheInverseOfEncode(t *testing.T) {
	for _, n := range []int{0, 1, 2} {
		b := sample(t)
		b.Records = b.Records[:n:n]
		if n == 0 {
			b.Records = nil
		}
		data := encode(t, b)
		got, err := bundle.Decode(data)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(b, got); diff != "" {
			t.Errorf("%d records (-want +got):\n%s", n, diff)
		}
		var doc struct {
			Records []struct{ Event, SHA256 string }
		}
		if err := json.Unmarshal(data, &doc); err != nil || len(doc.Records) != n {
			t.Fatalf("it is not plain JSON: %v", err)
		}
		for i, r := range doc.Records {
			if r.Event != string(b.Records[i].Event) || digest.FromString(r.Event).Encoded() != r.SHA256 {
				t.Errorf("a JSON parser reads record %d as %q", i, r.Event)
			}
		}
	}
}

func TestDecodeRefuses(t *testing.T) {
	good := string(encode(t, sample(t)))
	swap := func(from, to string) string {
		if !strings.Contains(good, from) {
			t.Fatalf("%q is not in the bundle", from)
		}
		return strings.Replace(good, from, to, 1)
	}
	tests := map[string]struct {
		data   string
		record int
		want   string
	}{
		"empty":             {"", -1, "not evidence"},
		"other JSON":        {"{}\n", -1, "not evidence"},
		"version":           {swap(`"version": 1`, `"version": 2`), -1, "version 2"},
		"space":             {swap(`"version": 1`, `"version":  1`), -1, "form that TERO writes"},
		"unknown key":       {swap("\"quote\"", "\"x\": 1,\n\"quote\""), -1, "form that TERO writes"},
		"base64":            {swap(`"ed25519": "AQ=="`, `"ed25519": "AR=="`), -1, "before its records"},
		"something follows": {good + "\n", -1, "does not end"},
		"end missing":       {good[:len(good)-2], -1, "does not end"},
		"cut in a record":   {good[:len(good)-20], 1, "ends inside"},
		"upper-case digest": {swap(`"sha256":"`+sample(t).Records[1].Digests.SHA256.String(), `"sha256":"`+strings.ToUpper(sample(t).Records[1].Digests.SHA256.String())), 1, "malformed"},
		"other escape":      {swap(`{\"boot\":\"tpm-1.0\",\"chain`, `{\u0022boot\":\"tpm-1.0\",\"chain`), 0, "malformed"},
		"no comma":          {swap("\"},\n{", "\"}\n{"), 0, "followed"},
		"comma at the end":  {swap("\"}\n]", "\"},\n]"), 1, "followed"},
		"digest":            {swap(`"sha384":"`, `"sha384":"x`), 0, "malformed"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			_, err := bundle.Decode([]byte(tt.data))
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Fatalf("got %v, want %q", err, tt.want)
			}
			at, ok := errors.AsType[*bundle.RecordError](err)
			if ok != (tt.record >= 0) || ok && at.Index != tt.record {
				t.Errorf("got %v, want record %d", err, tt.record)
			}
		})
	}
}

// TestBindingKeepsItsPartsApart moves bytes from one part to the next.
func TestBindingKeepsItsPartsApart(t *testing.T) {
	seen := map[[32]byte]string{}
	for name, b := range map[string][32]byte{
		"a": bundle.Binding([]byte("ab"), []byte("c"), 1, "h"),
		"b": bundle.Binding([]byte("a"), []byte("bc"), 1, "h"),
		"c": bundle.Binding([]byte("ab"), []byte("c"), 2, "h"),
		"d": bundle.Binding([]byte("ab"), []byte("c"), 1, "i"),
	} {
		if other, ok := seen[b]; ok {
			t.Errorf("%s and %s are bound alike", name, other)
		}
		seen[b] = name
	}
}

func FuzzDecode(f *testing.F) {
	f.Add(encode(f, sample(f)))
	f.Fuzz(func(t *testing.T, data []byte) {
		if b, err := bundle.Decode(data); err == nil && !bytes.Equal(encode(t, b), data) {
			t.Error("Decode accepts what Encode does not write")
		}
	})
}

func FuzzParseHead(f *testing.F) {
	f.Add(sample(f).Head)
	f.Fuzz(func(t *testing.T, s string) {
		if h, err := bundle.ParseHead(s); err == nil {
			if again, err := h.Text(); err != nil || again != s {
				t.Error("ParseHead accepts what Text does not give")
			}
		}
	})
}
