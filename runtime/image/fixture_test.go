package image

import (
	"bytes"
	"log/slog"
	"os"
	"path/filepath"
	"testing"

	"tero.internal/common/fault"
	"tero.internal/common/ocilayout"
)

func discard() *slog.Logger { return slog.New(slog.DiscardHandler) }

// newStore opens a store with an empty trust folder of its own.
func newStore(t testing.TB, change ...func(*Config)) *Store {
	t.Helper()
	c := Config{Root: filepath.Join(t.TempDir(), "images"), TrustDir: filepath.Join(t.TempDir(), "trust"), Log: discard()}
	for _, f := range change {
		f(&c)
	}
	s, err := Open(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func (s *Store) mustImport(t testing.TB, archive []byte) Info {
	t.Helper()
	infos, err := s.Import(t.Context(), bytes.NewReader(archive), ImportOptions{})
	if err != nil {
		t.Fatalf("import: %v (hint %q)", err, fault.HintOf(err))
	}
	return infos[0]
}

// isEmpty checks that nothing is in the store, under names or without.
func (s *Store) isEmpty(t testing.TB) {
	t.Helper()
	for _, dir := range []string{s.blobs(), s.layers(), s.roots(), s.ingest()} {
		entries, err := os.ReadDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			t.Errorf("left behind: %s", filepath.Join(dir, e.Name()))
		}
	}
	if infos, err := s.List(t.Context()); err != nil || len(infos) > 0 {
		t.Errorf("images %v, %v; want none", infos, err)
	}
}

// trustKey makes a key and trusts it as "release".
func trustKey(t testing.TB, s *Store) *ocilayout.PrivateKey {
	t.Helper()
	k, err := ocilayout.GenerateKey()
	if err != nil {
		t.Fatal(err)
	}
	pub, err := k.Public()
	if err != nil {
		t.Fatal(err)
	}
	b, err := pub.MarshalPEM()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(s.trust.dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(s.trust.dir, "release.pub"), b, 0o644); err != nil {
		t.Fatal(err)
	}
	return k
}
