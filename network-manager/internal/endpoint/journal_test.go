package endpoint

import (
	"bytes"
	"encoding/json"
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"golang.org/x/sys/unix"

	"tero.internal/common/fault"
	"tero.internal/common/workload"
)

// made makes the endpoint of a container called name.
func made(name, address string) *Endpoint {
	return New(workload.Attachment{Container: workload.ID(name), Name: name, Network: "default", Interface: "eth0"},
		netip.MustParseAddr(address), netip.MustParseAddr("10.0.0.1"), 1500, "qt")
}

func openJournal(t *testing.T, path string) (*Journal, map[Key]Record) {
	t.Helper()
	j, records, err := OpenJournal(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = j.Close() })
	return j, records
}

func TestJournalKeepsTheLastRecord(t *testing.T) {
	path := filepath.Join(t.TempDir(), "journal")
	j, records := openJournal(t, path)
	if len(records) > 0 {
		t.Fatalf("a new journal has %v", records)
	}
	a, b, c := made("a", "10.0.0.2"), made("b", "10.0.0.3"), made("c", "10.0.0.4")
	if err := j.Rewrite([]*Endpoint{a}); err != nil {
		t.Fatal(err)
	}
	for _, r := range []Record{{Making, b}, {Ready, b}, {Making, c}, {Gone, a}} {
		if err := j.Write(r.State, r.Endpoint); err != nil {
			t.Fatal(err)
		}
	}
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	_, got := openJournal(t, path)
	if diff := cmp.Diff(map[Key]Record{b.Key(): {Ready, b}, c.Key(): {Making, c}}, got, cmpopts.EquateComparable(netip.Addr{})); diff != "" {
		t.Errorf("records (-want +got):\n%s", diff)
	}
}

func TestCrowdedJournalKeepsTheStates(t *testing.T) {
	path := filepath.Join(t.TempDir(), "journal")
	j, _ := openJournal(t, path)
	a, b := made("a", "10.0.0.2"), made("b", "10.0.0.3")
	if err := j.Rewrite([]*Endpoint{a}); err != nil {
		t.Fatal(err)
	}
	if err := j.Write(Making, b); err != nil {
		t.Fatal(err)
	}
	for range 3 * crowded {
		if err := j.Write(Ready, a); err != nil {
			t.Fatal(err)
		}
	}
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if n := bytes.Count(text, []byte("\n")); n > crowded+10 {
		t.Errorf("%d lines about two endpoints", n)
	}
	// What was being made is not ready because others came and went meanwhile.
	_, got := openJournal(t, path)
	if diff := cmp.Diff(map[Key]Record{a.Key(): {Ready, a}, b.Key(): {Making, b}}, got, cmpopts.EquateComparable(netip.Addr{})); diff != "" {
		t.Errorf("records (-want +got):\n%s", diff)
	}
}

func TestDamagedJournals(t *testing.T) {
	b, err := json.Marshal(Record{Ready, made("a", "10.0.0.2")})
	if err != nil {
		t.Fatal(err)
	}
	good := string(b) + "\n"
	for name, c := range map[string]struct {
		text string
		want int
		bad  bool
	}{
		"whole":               {good, 1, false},
		"last line cut off":   {good + strings.Replace(good, `"a"`, `"b"`, 1)[:40], 1, false},
		"line in the middle":  {"{\n" + good, 0, true},
		"no endpoint":         {`{"state":"ready"}` + "\n", 0, true},
		"an address of IPv6":  {strings.Replace(good, "10.0.0.2", "fe80::1", 1), 0, true},
		"no address that is":  {strings.Replace(good, "10.0.0.2", "10.0.0", 1), 0, true},
		"empty line at start": {"\n" + good, 0, true},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "journal")
			if err := os.WriteFile(path, []byte(c.text), 0o600); err != nil {
				t.Fatal(err)
			}
			_, records, err := OpenJournal(path)
			if c.bad && (fault.KindOf(err) != fault.Corrupt || fault.HintOf(err) == "") || !c.bad && err != nil || len(records) != c.want {
				t.Errorf("%d records, %v", len(records), err)
			}
		})
	}
}

func TestRegister(t *testing.T) {
	r := NewRegister()
	a, b := made("a", "10.0.0.3"), made("b", "10.0.0.2")
	a.HostIndex, b.HostIndex = 7, 8
	r.Add(a)
	r.Add(b)
	if r.Get(a.Key()) != a || r.At(a.Address) != a || r.Last(a.Address) != a || r.Behind(7) != a || r.Len() != 2 {
		t.Error("a is not found")
	}
	if l := r.List("default"); len(l) != 2 || l[0].Name != "b" || len(r.List("other")) != 0 {
		t.Errorf("list %+v", l)
	}
	r.Remove(a)
	if r.Get(a.Key()) != nil || r.At(a.Address) != nil || r.Behind(7) != nil || r.Len() != 1 {
		t.Error("a is still there")
	}
	if r.Last(a.Address) != a {
		t.Error("nobody had a's address last")
	}
	next := made("c", "10.0.0.3")
	r.Add(next)
	r.Remove(next)
	if r.Last(a.Address) != next {
		t.Error("c had the address last")
	}
}

// TestAFullDiskLeavesNoHalfLine writes until the file system is full, makes
// room, and writes on.
func TestAFullDiskLeavesNoHalfLine(t *testing.T) {
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=64k"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
	filler := filepath.Join(dir, "filler")
	if err := os.WriteFile(filler, make([]byte, 16<<10), 0o600); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "journal")
	j, _ := openJournal(t, path)
	if err := j.Rewrite(nil); err != nil {
		t.Fatal(err)
	}
	e := made("web", "10.0.0.2")
	var err error
	for err == nil {
		err = j.Write(Making, e)
	}
	if !errors.Is(err, unix.ENOSPC) {
		t.Fatalf("full disk: %v", err)
	}
	if err := os.Remove(filler); err != nil {
		t.Fatal(err)
	}
	if err := j.Write(Ready, e); err != nil {
		t.Fatal(err)
	}
	if _, found := openJournal(t, path); found[e.Key()].State != Ready {
		t.Errorf("found %v", found)
	}
}

// TestRewriteKeepsTheNewFile: it does not open the file by its name again,
// which could fail when the old one is gone already.
func TestRewriteKeepsTheNewFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "journal")
	j, _ := openJournal(t, path)
	a, b := made("a", "10.0.0.2"), made("b", "10.0.0.3")
	for range 2 {
		if err := j.Rewrite([]*Endpoint{a}); err != nil {
			t.Fatal(err)
		}
		open, err := j.file.Stat()
		if err != nil {
			t.Fatal(err)
		}
		named, err := os.Stat(path)
		if err != nil || !os.SameFile(open, named) {
			t.Fatalf("writes to another file than %s: %v", path, err)
		}
	}
	// A rewrite that fails leaves the file that is open.
	good := j.path
	j.path = filepath.Join(good, "no folder")
	if err := j.Rewrite([]*Endpoint{a}); err == nil {
		t.Fatal("no error")
	}
	j.path = good
	if err := j.Write(Ready, b); err != nil {
		t.Fatal(err)
	}
	if _, got := openJournal(t, path); len(got) != 2 {
		t.Errorf("found %v", got)
	}
}
