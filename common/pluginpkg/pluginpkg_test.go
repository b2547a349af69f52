package pluginpkg_test

import (
	"archive/tar"
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"tero.internal/common/fault"
	"tero.internal/common/pluginpkg"
)

const (
	manifest = `{"schema":"tero.plugin/v1","name":"p","version":"1.2.3","abi":"1.0",
		"hooks":[{"point":"admission.mutate","onError":"deny","order":{"after":["q"]},"writes":["/labels/*"]}],
		"capabilities":{"required":["log"],"optional":["kv:read:p/*"]},"limits":{},
		"settingsSchema":{"properties":{"n":{"type":"integer","minimum":1,"maximum":9}}},
		"vectors":[{"in":{"spec":{},"image":{}},"want":{"allow":true}}]}`
	module = "\x00asm\x01\x00\x00\x00"
)

func TestParseManifest(t *testing.T) {
	m, err := pluginpkg.ParseManifest([]byte(manifest))
	if err != nil {
		t.Fatal(err)
	}
	want := pluginpkg.Limits{MemoryPages: 256, TicksPerCall: 5_000_000, LogBytesPerCall: 4096}
	if diff := cmp.Diff(want, m.Limits); diff != "" {
		t.Errorf("defaults (-want +got):\n%s", diff)
	}
	for _, c := range []struct{ name, old, new, want string }{
		{"schema", "plugin/v1", "plugin/v2", "schema"},
		{"name", `"name":"p"`, `"name":"P!"`, "DNS label"},
		{"version", "1.2.3", "one", "semantic version"},
		{"abi", `"abi":"1.0"`, `"abi":"1"`, "MAJOR.MINOR"},
		{"unknown member", `"limits":{}`, `"limits":{},"x":1`, "x"},
		{"member twice", `"limits":{}`, `"limits":{},"limits":{}`, "duplicate"},
		{"member in capitals", `"limits":{}`, `"Limits":{}`, "Limits"},
		{"something after", `"vectors"`, `"vectors":[]} {"vectors"`, "manifest"},
		{"unknown point", "admission.mutate", "admission.guess", "not one of"},
		{"no hooks", `{"point":"admission.mutate","onError":"deny","order":{"after":["q"]},"writes":["/labels/*"]}`, "", "no hooks"},
		{"open on error", `"deny"`, `"allow"`, "can only deny"},
		{"after itself", `["q"]`, `["p"]`, "itself"},
		{"write of the image", "/labels/*", "/image", "no plugin may write"},
		{"write of everything", "/labels/*", "/*", "no plugin may write"},
		{"write below a label", "/labels/*", "/labels/a/b", "no plugin may write"},
		{"writes when validating", "admission.mutate", "admission.validate", "writes are for"},
		{"capability twice", `"kv:read:p/*"`, `"log"`, "twice"},
		{"malformed capability", `"log"`, `"l o g"`, "malformed"},
		{"too much memory", `"limits":{}`, `"limits":{"memoryPages":5000}`, "memoryPages"},
		{"too many ticks", `"limits":{}`, `"limits":{"ticksPerCall":5000000000}`, "ticksPerCall"},
		{"negative log", `"limits":{}`, `"limits":{"logBytesPerCall":-1}`, "logBytesPerCall"},
		{"unknown keyword", `"minimum"`, `"minimal"`, "minimal"},
		{"no vectors", `{"in":{"spec":{},"image":{}},"want":{"allow":true}}`, "", "no vectors"},
		{"vector of another point", `{"in":`, `{"point":"admission.validate","in":`, "not a hook"},
		{"settings of a vector", `{"in":`, `{"settings":{"n":10},"in":`, "more than 9"},
	} {
		t.Run(c.name, func(t *testing.T) {
			changed := strings.Replace(manifest, c.old, c.new, 1)
			if changed == manifest {
				t.Fatal("nothing was changed")
			}
			_, err := pluginpkg.ParseManifest([]byte(changed))
			if fault.KindOf(err) != fault.Invalid || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %v, want one of kind invalid with %q", err, c.want)
			}
		})
	}
}

func TestCheckSettings(t *testing.T) {
	schema := `{"type":"object","additionalProperties":false,"required":["s"],"properties":{"s":{"type":"string","pattern":"^a"},"b":{"type":"boolean"},
		"e":{"type":"string","enum":["x","y"]},"n":{"type":"number","minimum":0.5},"l":{"type":"array","items":{"type":"integer"},"minItems":1,"maxItems":2},"o":{"type":"object"}}}`
	_, err := pluginpkg.ParseManifest([]byte(strings.Replace(manifest, `{"properties":{"n":{"type":"integer","minimum":1,"maximum":9}}}`, schema, 1)))
	if err == nil || !strings.Contains(err.Error(), `lacks "s"`) {
		t.Fatalf("a vector without required settings: %v", err)
	}
	m, err := pluginpkg.ParseManifest([]byte(strings.NewReplacer(`{"properties":{"n":{"type":"integer","minimum":1,"maximum":9}}}`, schema,
		`{"in":`, `{"settings":{"s":"a"},"in":`).Replace(manifest)))
	if err != nil {
		t.Fatal(err)
	}
	for settings, want := range map[string]string{
		`{"s":"ab","b":true,"e":"x","n":0.5,"l":[1,2],"o":{"any":null}}`: "",
		``:                      `lacks "s"`,
		`{"s":"b"}`:             "settings.s is",
		`{"s":"a","z":1}`:       `unknown member "z"`,
		`{"s":"a","b":1}`:       "settings.b is not of type boolean",
		`{"s":"a","e":"z"}`:     "not one of",
		`{"s":"a","n":0.1}`:     "less than",
		`{"s":"a","l":[]}`:      "fewer than",
		`{"s":"a","l":[1.5]}`:   "settings.l[0] is 1.5, not an integer",
		`{"s":"a","l":[1,2,3]}`: "more than",
		`{"s":null}`:            "settings.s is null",
		`{"s":"a","s":"a"}`:     "duplicate",
		`[]`:                    "not of type object",
		`{`:                     "settings",
	} {
		err := m.CheckSettings([]byte(settings))
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", settings, err, want)
		}
	}
}

func TestPatterns(t *testing.T) {
	for _, c := range []struct {
		pattern, pointer string
		want             bool
	}{
		{"/labels/*", "/labels/a", true},
		{"/labels/*", "/labels/a~1b", true},
		{"/labels/*", "/labels/", false},
		{"/labels/*", "/labels/a/b", false},
		{"/labels/a", "/labels/b", false},
		{"/env/-", "/env/-", true},
		{"/labels/*", "/labels/*", true},
		{"/labels/*", "/labelsx", false},
	} {
		if got := pluginpkg.Matches(c.pattern, c.pointer); got != c.want {
			t.Errorf("Matches(%q, %q) = %t", c.pattern, c.pointer, got)
		}
	}
	if !pluginpkg.Overlap("/labels/x", "/labels/*") || pluginpkg.Overlap("/labels/x", "/labels/y") {
		t.Error("overlaps are wrong")
	}
}

// keys gives one key of each supported kind.
func keys(t *testing.T) map[string]crypto.Signer {
	t.Helper()
	_, ed, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	ec, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return map[string]crypto.Signer{"ed25519": ed, "ecdsa": ec}
}

func trust(t *testing.T, dir, name string, key crypto.PublicKey) {
	t.Helper()
	der, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		t.Fatal(err)
	}
	b := pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})
	if err := os.WriteFile(filepath.Join(dir, name+".pub"), b, 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestPackSignVerify(t *testing.T) {
	for name, key := range keys(t) {
		t.Run(name, func(t *testing.T) {
			dir, trusted := filepath.Join(t.TempDir(), "p"), t.TempDir()
			packed, err := pluginpkg.Pack(t.Context(), dir, []byte(manifest), []byte(module))
			if err != nil {
				t.Fatal(err)
			}
			again, err := pluginpkg.Pack(t.Context(), filepath.Join(t.TempDir(), "q"), []byte(manifest), []byte(module))
			if err != nil || again != packed {
				t.Errorf("packed twice: %s, then %s, error %v", packed, again, err)
			}
			if _, err := pluginpkg.Pack(t.Context(), dir, []byte(manifest), []byte(module)); fault.KindOf(err) != fault.Exists {
				t.Errorf("packing over a package: %v", err)
			}
			// Through PEM, as the CLI has it.
			der, err := x509.MarshalPKCS8PrivateKey(key)
			if err != nil {
				t.Fatal(err)
			}
			parsed, err := pluginpkg.ParsePrivateKey(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
			if err != nil {
				t.Fatal(err)
			}
			signed, err := pluginpkg.Sign(t.Context(), dir, parsed)
			if err != nil || signed != packed {
				t.Fatalf("signed %s, error %v", signed, err)
			}
			p := roundTrip(t, dir)
			if p.Digest != packed || string(p.Wasm) != module || string(p.ManifestJSON) != manifest {
				t.Errorf("read %s with %d and %d bytes", p.Digest, len(p.ManifestJSON), len(p.Wasm))
			}
			verify := func() error {
				k, err := pluginpkg.LoadTrust(trusted)
				if err != nil {
					t.Fatal(err)
				}
				_, err = p.Verify(k)
				return err
			}
			if err := verify(); fault.KindOf(err) != fault.Denied {
				t.Errorf("nothing is trusted: %v", err)
			}
			for _, other := range keys(t) {
				trust(t, trusted, "other", other.Public())
				if err := verify(); fault.KindOf(err) != fault.Denied {
					t.Errorf("another key is trusted: %v", err)
				}
			}
			trust(t, trusted, "demo", key.Public())
			if err := verify(); err != nil {
				t.Error(err)
			}
		})
	}
}

// roundTrip sends a package through a tar.
func roundTrip(t *testing.T, dir string) *pluginpkg.Package {
	t.Helper()
	var b bytes.Buffer
	if err := pluginpkg.WriteTar(t.Context(), &b, dir); err != nil {
		t.Fatal(err)
	}
	to := t.TempDir()
	if err := pluginpkg.ReadTar(t.Context(), &b, to); err != nil {
		t.Fatal(err)
	}
	p, err := pluginpkg.Open(t.Context(), to)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestReadTarRefuses(t *testing.T) {
	for name, h := range map[string]tar.Header{
		"a path out of it":   {Name: "../index.json", Typeflag: tar.TypeReg},
		"an absolute path":   {Name: "/etc/passwd", Typeflag: tar.TypeReg},
		"another file":       {Name: "blobs/sha256/x", Typeflag: tar.TypeReg},
		"a link":             {Name: "index.json", Typeflag: tar.TypeSymlink, Linkname: "/etc/passwd"},
		"a hard link":        {Name: "index.json", Typeflag: tar.TypeLink, Linkname: "oci-layout"},
		"a device":           {Name: "index.json", Typeflag: tar.TypeChar},
		"a file of 1 GiB":    {Name: "index.json", Typeflag: tar.TypeReg, Size: 1 << 30},
		"a file that is cut": {Name: "index.json", Typeflag: tar.TypeReg, Size: 100},
	} {
		t.Run(name, func(t *testing.T) {
			var b bytes.Buffer
			if err := tar.NewWriter(&b).WriteHeader(&h); err != nil {
				t.Fatal(err)
			}
			dir := t.TempDir()
			if err := pluginpkg.ReadTar(t.Context(), &b, dir); fault.KindOf(err) != fault.Invalid {
				t.Errorf("error %v, want one of kind invalid", err)
			}
		})
	}
	var twice bytes.Buffer
	w := tar.NewWriter(&twice)
	for range 2 {
		if err := w.WriteHeader(&tar.Header{Name: "oci-layout", Typeflag: tar.TypeReg}); err != nil {
			t.Fatal(err)
		}
	}
	if err := pluginpkg.ReadTar(t.Context(), &twice, t.TempDir()); fault.KindOf(err) != fault.Invalid {
		t.Errorf("a file twice: %v", err)
	}
}

func FuzzParseManifest(f *testing.F) {
	f.Add([]byte(manifest))
	f.Fuzz(func(_ *testing.T, b []byte) {
		if m, err := pluginpkg.ParseManifest(b); err == nil {
			_ = m.CheckSettings(b)
		}
	})
}

func FuzzReadTar(f *testing.F) {
	f.Add([]byte("index.json"))
	f.Fuzz(func(t *testing.T, b []byte) {
		dir := t.TempDir()
		if pluginpkg.ReadTar(t.Context(), bytes.NewReader(b), dir) == nil {
			_, _ = pluginpkg.Open(t.Context(), dir)
		}
	})
}
