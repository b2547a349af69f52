package ipam

import (
	"net/netip"
	"os"
	"path/filepath"
	"testing"
)

// TestRewriteThatFailsLosesNoLease lets the rewrite of a crowded file fail: the
// leases are granted all the same, and stand in the file that counts.
func TestRewriteThatFailsLosesNoLease(t *testing.T) {
	path := filepath.Join(t.TempDir(), "leases")
	c := Config{Name: "x", Prefix: netip.MustParsePrefix("10.0.0.0/24"), Path: path}
	p, err := Open(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.Close() })
	p.journal.lines = 3 * crowded
	p.journal.path = filepath.Join(path, "no folder")
	a, err := p.Lease("a")
	if err != nil || p.owned != 1 {
		t.Fatalf("%d leases, %v", p.owned, err)
	}
	p.journal.path = path
	p.journal.lines = p.nextRewrite
	b, err := p.Lease("b")
	if err != nil || p.journal.lines != 2 {
		t.Fatalf("%d lines, %v", p.journal.lines, err)
	}
	open, err := p.journal.file.Stat()
	if err != nil {
		t.Fatal(err)
	}
	if named, err := os.Stat(path); err != nil || !os.SameFile(open, named) {
		t.Fatalf("writes to another file than %s: %v", path, err)
	}
	if _, err := p.Lease("c"); err != nil {
		t.Fatal(err)
	}
	j, leases, err := openJournal(path)
	if err != nil {
		t.Fatal(err)
	}
	_ = j.close()
	if len(leases) != 3 || leases[0].Address != a || leases[1].Address != b {
		t.Errorf("on disk: %+v", leases)
	}
}
