package registry_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"

	"tero.internal/common/fault"
	"tero.internal/plugin-manager/registry"
)

func open(t *testing.T, dir string) *registry.Registry {
	t.Helper()
	r, err := registry.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestRecordsAreKept(t *testing.T) {
	dir := t.TempDir()
	a := registry.Record{Name: "a", Digest: digest.FromString("a"), Grants: []string{"log"}, Settings: []byte("{}")}
	b := registry.Record{Name: "b", Digest: digest.FromString("b"), Settings: []byte("{}")}
	r := open(t, dir)
	for _, rec := range []registry.Record{b, a} {
		if err := r.Put(rec); err != nil {
			t.Fatal(err)
		}
	}
	// Packages: one that is known, and one that a crash left.
	for _, d := range []digest.Digest{a.Digest, digest.FromString("left")} {
		if err := os.MkdirAll(r.PackageDir(d), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	r = open(t, dir)
	if diff := cmp.Diff([]registry.Record{a, b}, r.List()); diff != "" {
		t.Errorf("records (-want +got):\n%s", diff)
	}
	left, err := os.ReadDir(filepath.Join(dir, "packages"))
	if err != nil || len(left) != 1 || left[0].Name() != a.Digest.Encoded() {
		t.Errorf("packages %v, error %v", left, err)
	}
	if err := r.Delete("a"); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(r.PackageDir(a.Digest)); err == nil {
		t.Error("the package of a removed plugin is still there")
	}
	if got := open(t, dir).List(); len(got) != 1 || got[0].Name != "b" {
		t.Errorf("after removal: %v", got)
	}
}

// TestFailedWritesChangeNothing has a folder that cannot be written to.
func TestFailedWritesChangeNothing(t *testing.T) {
	dir := t.TempDir()
	r := open(t, dir)
	if err := r.Put(registry.Record{Name: "a", Digest: digest.FromString("a")}); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(dir, dir+".away"); err != nil {
		t.Fatal(err)
	}
	if err := r.Put(registry.Record{Name: "b", Digest: digest.FromString("b")}); err == nil {
		t.Error("a record was written to nowhere")
	}
	if err := r.Delete("a"); err == nil {
		t.Error("a record was deleted nowhere")
	}
	if got := r.List(); len(got) != 1 || got[0].Name != "a" {
		t.Errorf("records: %v", got)
	}
}

func TestCorruptRegistryIsTold(t *testing.T) {
	for name, content := range map[string]string{
		"not JSON":       "{",
		"another schema": `{"schema":"tero.plugins/v9"}`,
		"a bad digest":   `{"schema":"tero.plugins/v1","plugins":[{"name":"a","digest":"sha256:../../etc"}]}`,
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			if err := os.WriteFile(filepath.Join(dir, "installed.json"), []byte(content), 0o600); err != nil {
				t.Fatal(err)
			}
			_, err := registry.Open(dir)
			if fault.KindOf(err) != fault.Corrupt || !strings.Contains(err.Error(), "installed.json") || fault.HintOf(err) == "" {
				t.Errorf("error %v, hint %q", err, fault.HintOf(err))
			}
		})
	}
}
