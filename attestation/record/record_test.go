package record_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/gowebpki/jcs"
	"github.com/opencontainers/go-digest"

	"tero.internal/attestation/record"
	"tero.internal/common/workload"
)

func dig(s string) digest.Digest { return digest.FromString(s) }

// samples are one record of each kind; the golden digests below are theirs.
func samples() []record.Record {
	at := time.Date(2026, 11, 23, 21, 12, 0, 5e6, time.UTC)
	return []record.Record{
		{
			Kind: record.Boot, Sequence: 0, Boot: "tpm-3.0", Time: at, Node: "node1", Register: "tero-tpm",
			Chain: record.Digest256{}, Keys: sha256.Sum256([]byte("keys")),
		},
		{Kind: record.Launch, Sequence: 17, Boot: "tpm-3.0", Time: at, Launch: workload.Measurement{
			Container: "0123456789abcdef0123456789abcdef", Name: "web", ImageRef: "localhost/web:v1",
			Image: dig("image"), Config: dig("config"), Mounts: dig("mounts"), Policy: dig("policy"),
			SPIFFEID: "spiffe://node1.tero/workload/web",
		}},
		{Kind: record.Abort, Sequence: 18, Boot: "tpm-3.0", Time: at, From: 17, To: 17, Reason: "crash between record and register"},
		{Kind: record.Policy, Sequence: 19, Boot: "tpm-3.0", Time: at, Policy: dig("policy 2")},
		{Kind: record.Resume, Sequence: 20, Boot: "tpm-3.1", Time: at, Node: "node1", Register: "tero-tpm"},
	}
}

// TestGolden holds the format still: these bytes must never change.
func TestGolden(t *testing.T) {
	const event = `tero/v1 launch {"boot":"tpm-3.0","config":"sha256:b79606fb3afea5bd1609ed40b622142f1c98125abcfe89a76a661b0e8e343910","container":"0123456789abcdef0123456789abcdef","image":"sha256:6105d6cc76af400325e94d588ce511be5bfdbb73b437dc51eca43917d7a43e3d","imageRef":"localhost/web:v1","mounts":"sha256:fc076b9fe90fc87992ea7bf47f1862bd631ec8dea122bdf5f01bef15a49afe57","name":"web","policy":"sha256:823412d1eacb67956220e532959f0104603057c88704863ca38e7cd188fda812","seq":17,"spiffeId":"spiffe://node1.tero/workload/web","time":"2026-11-23T21:12:00.005Z"}`
	e, err := record.Seal(samples()[1])
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(event, string(e.Event)); diff != "" {
		t.Errorf("event (-want +got):\n%s", diff)
	}
	var whole []byte
	whole = append(whole, record.Header()...)
	for _, r := range samples() {
		e, err := record.Seal(r)
		if err != nil {
			t.Fatal(err)
		}
		whole = e.Append(whole)
	}
	sum := sha256.Sum256(whole)
	if got, want := hex.EncodeToString(sum[:]), "0b83390c3978ee205b9e945d652e53af05c8177bb9cdca430ab120dbaef31732"; got != want {
		t.Errorf("SHA-256 of the whole log = %s, want %s", got, want)
	}
}

func TestEventIsWhatRFC8785Says(t *testing.T) {
	for _, r := range samples() {
		e, err := record.Seal(r)
		if err != nil {
			t.Fatal(err)
		}
		_, object, _ := strings.Cut(string(e.Event), " {")
		canonical, err := jcs.Transform([]byte("{" + object))
		if err != nil || string(canonical) != "{"+object {
			t.Errorf("%s: %v\n got %s\nwant %s", r.Kind, err, "{"+object, canonical)
		}
	}
}

func TestDecodeIsTheInverseOfSeal(t *testing.T) {
	var whole []byte
	var want []record.Entry
	for _, r := range samples() {
		e, err := record.Seal(r)
		if err != nil {
			t.Fatal(err)
		}
		whole, want = e.Append(whole), append(want, e)
	}
	for i := range want {
		e, rest, err := record.Decode(whole)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want[i], e); diff != "" {
			t.Errorf("record %d (-want +got):\n%s", i, diff)
		}
		whole = rest
	}
	if len(whole) != 0 {
		t.Errorf("%d bytes are left", len(whole))
	}
}

func TestEveryFlippedBitIsNoticed(t *testing.T) {
	for _, r := range samples() {
		e, err := record.Seal(r)
		if err != nil {
			t.Fatal(err)
		}
		good := e.Append(nil)
		for i := range good {
			for bit := range 8 {
				bad := bytes.Clone(good)
				bad[i] ^= 1 << bit
				if _, rest, err := record.Decode(bad); err == nil && len(rest) == 0 {
					t.Fatalf("%s: bit %d of byte %d flipped unnoticed", r.Kind, bit, i)
				}
			}
		}
	}
}

func TestParseRefuses(t *testing.T) {
	e, err := record.Seal(samples()[3])
	if err != nil {
		t.Fatal(err)
	}
	good := string(e.Event)
	tests := map[string]string{
		"empty":           "",
		"other version":   strings.Replace(good, "v1", "v2", 1),
		"unknown kind":    strings.Replace(good, "policy {", "exit {", 1),
		"space":           strings.Replace(good, `,"seq"`, `, "seq"`, 1),
		"leading zero":    strings.Replace(good, `:19,`, `:019,`, 1),
		"over 2^53":       strings.Replace(good, `:19,`, `:9007199254740992,`, 1),
		"negative":        strings.Replace(good, `:19,`, `:-19,`, 1),
		"no number":       strings.Replace(good, `:19,`, `:,`, 1),
		"twice":           strings.Replace(good, `"seq":19,`, `"seq":19,"seq":19,`, 1),
		"order":           strings.Replace(good, `"boot":"tpm-3.0",`, ``, 1),
		"bad digest":      strings.Replace(good, "sha256:", "sha256:g", 1),
		"escape":          strings.Replace(good, "tpm-3.0", `tpm\u002d3.0`, 1),
		"control":         strings.Replace(good, "tpm-3.0", "tpm\n3.0", 1),
		"not ASCII":       strings.Replace(good, "tpm-3.0", "tpm–3.0", 1),
		"empty string":    strings.Replace(good, "tpm-3.0", "", 1),
		"time zone":       strings.Replace(good, ".005Z", ".005+00:00", 1),
		"goes on":         good + " ",
		"cut":             good[:len(good)-1],
		"cut in a string": good[:len(good)-4],
		"too long":        good + strings.Repeat(" ", record.MaxEvent),
	}
	for name, event := range tests {
		if _, err := record.Parse([]byte(event)); err == nil {
			t.Errorf("%s: %q was accepted", name, event)
		}
	}
}

func TestSealRefuses(t *testing.T) {
	tests := map[string]func(*record.Record){
		"quote":       func(r *record.Record) { r.Launch.ImageRef = `a"b` },
		"newline":     func(r *record.Record) { r.Launch.ImageRef = "a\nb" },
		"unicode":     func(r *record.Record) { r.Launch.Name = "wéb" },
		"no digest":   func(r *record.Record) { r.Launch.Policy = "" },
		"half digest": func(r *record.Record) { r.Launch.Policy = "sha256:00" },
		"no name":     func(r *record.Record) { r.Launch.Name = "" },
		"kind":        func(r *record.Record) { r.Kind = "exit" },
		"too long":    func(r *record.Record) { r.Launch.ImageRef = strings.Repeat("a", record.MaxEvent) },
		"sequence":    func(r *record.Record) { r.Sequence = 1 << 53 },
	}
	for name, change := range tests {
		r := samples()[1]
		change(&r)
		if _, err := record.Seal(r); err == nil {
			t.Errorf("%s was accepted", name)
		}
	}
}

func TestRegisterExtends(t *testing.T) {
	// Computed with: (head -c32 /dev/zero; printf a | sha256sum | xxd -r -p) | sha256sum
	v := record.Register{}.Extend(record.Sum([]byte("a")))
	if got, want := v.SHA256.String(), "8c374a53782642f7514d087d26a3e733f1b806009a03e04a43b288ef2fa9f9c0"; got != want {
		t.Errorf("SHA-256 bank = %s, want %s", got, want)
	}
	if got, want := v.SHA384.String(), "9ded56f026a8f4c054cc49090fcb1f317b3af23891cdf9bf4bfe3117ca14b0d247815a01aaa6febde7129a4fbac5e01a"; got != want {
		t.Errorf("SHA-384 bank = %s, want %s", got, want)
	}
}

func FuzzDecode(f *testing.F) {
	for _, r := range samples() {
		e, err := record.Seal(r)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(e.Append(nil))
		f.Add(e.Event)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if r, err := record.Parse(b); err == nil {
			e, err := record.Seal(r)
			if err != nil || !bytes.Equal(e.Event, b) {
				t.Errorf("Parse accepts what Seal does not make (%v):\n got %q\nfrom %q", err, e.Event, b)
			}
		}
		if e, rest, err := record.Decode(b); err == nil && !bytes.Equal(append(e.Append(nil), rest...), b) {
			t.Errorf("Decode accepts what Append does not make: %q", b)
		}
	})
}

func BenchmarkDecode(b *testing.B) {
	e, err := record.Seal(samples()[1])
	if err != nil {
		b.Fatal(err)
	}
	bytes := e.Append(nil)
	b.SetBytes(int64(len(bytes)))
	b.ReportAllocs()
	for b.Loop() {
		if _, _, err := record.Decode(bytes); err != nil {
			b.Fatal(err)
		}
	}
}
