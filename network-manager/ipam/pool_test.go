package ipam_test

import (
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"tero.internal/common/fault"
	"tero.internal/network-manager/ipam"
)

type clock struct{ now time.Time }

func (c *clock) Now() time.Time { return c.now }

func open(t *testing.T, path, prefix string, c *clock) *ipam.Pool {
	t.Helper()
	p := netip.MustParsePrefix(prefix)
	pool, err := ipam.Open(ipam.Config{
		Name: "default", Prefix: p, Reserved: []netip.Addr{p.Addr().Next()}, Grace: time.Minute, Path: path, Now: c.Now,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = pool.Close() })
	return pool
}

func lease(t *testing.T, p *ipam.Pool, owner string) netip.Addr {
	t.Helper()
	a, err := p.Lease(owner)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func TestAddressesRestBeforeReuse(t *testing.T) {
	path, c := filepath.Join(t.TempDir(), "leases"), &clock{time.Unix(1e9, 0)}
	p := open(t, path, "10.0.0.0/29", c)
	seen := map[netip.Addr]bool{}
	for range 5 {
		a := lease(t, p, "x")
		if seen[a] || a == netip.MustParseAddr("10.0.0.0") || a == netip.MustParseAddr("10.0.0.1") || a == netip.MustParseAddr("10.0.0.7") {
			t.Fatalf("leased %s; before: %v", a, seen)
		}
		seen[a] = true
	}
	if _, err := p.Lease("x"); fault.KindOf(err) != fault.Exhausted || !strings.Contains(err.Error(), "5 of 5 are leased") {
		t.Errorf("full: %v", err)
	}
	free := netip.MustParseAddr("10.0.0.3")
	for range 2 {
		if err := p.Release(free); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := p.Lease("y"); fault.KindOf(err) != fault.Exhausted || p.Available() == nil {
		t.Errorf("resting: %v", err)
	}
	p = open(t, path, "10.0.0.0/29", c) // a restart does not shorten the rest
	if _, err := p.Lease("y"); fault.KindOf(err) != fault.Exhausted {
		t.Errorf("resting, after a restart: %v", err)
	}
	c.now = c.now.Add(time.Minute)
	if a := lease(t, p, "y"); a != free {
		t.Errorf("leased %s, want %s", a, free)
	}
}

func TestClockSetBackHoldsNoAddress(t *testing.T) {
	c := &clock{time.Unix(1e9, 0)}
	p := open(t, filepath.Join(t.TempDir(), "leases"), "10.0.0.0/30", c)
	a := lease(t, p, "x")
	if err := p.Release(a); err != nil {
		t.Fatal(err)
	}
	c.now = c.now.Add(-time.Hour)
	if got := lease(t, p, "y"); got != a {
		t.Errorf("leased %s", got)
	}
}

func TestLeasesSurviveACrash(t *testing.T) {
	path, c := filepath.Join(t.TempDir(), "leases"), &clock{time.Unix(1e9, 0)}
	p := open(t, path, "10.0.0.0/24", c)
	a, b := lease(t, p, "a"), lease(t, p, "b")
	f, err := os.OpenFile(path, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteString(`{"address":"10.0.0.9","ow`); err != nil { // cut off
		t.Fatal(err)
	}
	f.Close()
	p = open(t, path, "10.0.0.0/24", c)
	if got := p.Leases(); len(got) != 2 || got[0] != (ipam.Lease{Address: a, Owner: "a"}) || got[1] != (ipam.Lease{Address: b, Owner: "b"}) {
		t.Errorf("leases: %+v", got)
	}
	if err := p.Adopt(a, "a"); err != nil {
		t.Error(err)
	}
	if err := p.Adopt(a, "c"); fault.KindOf(err) != fault.Conflict {
		t.Errorf("adopt somebody's: %v", err)
	}
	if err := p.Adopt(netip.MustParseAddr("10.0.0.50"), "c"); err != nil || p.Len() != 3 {
		t.Errorf("adopt a free one: %v, %d", err, p.Len())
	}
	if err := os.WriteFile(path, []byte("rubbish\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err = ipam.Open(ipam.Config{Name: "x", Prefix: netip.MustParsePrefix("10.0.0.0/24"), Path: path})
	if fault.KindOf(err) != fault.Corrupt || !strings.Contains(err.Error(), "leases:1:") {
		t.Errorf("rubbish: %v", err)
	}
}

func TestFullDiskLosesNothing(t *testing.T) {
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=32k"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
	path, c := filepath.Join(dir, "leases"), &clock{time.Unix(1e9, 0)}
	p := open(t, path, "10.0.0.0/16", c)
	var err error
	granted := 0
	for range 2000 {
		if _, err = p.Lease("somebody"); err != nil {
			break
		}
		granted++
	}
	var f *fault.Error
	if !errors.As(err, &f) || f.Kind != fault.Exhausted || f.Hint == "" || !strings.Contains(f.Message, path) {
		t.Errorf("error: %v", err)
	}
	if granted == 0 || p.Len() != granted {
		t.Errorf("granted %d, has %d", granted, p.Len())
	}
	data, err := os.ReadFile(path)
	if err != nil || strings.Count(string(data), "\n") != granted {
		t.Errorf("on disk: %d lines for %d leases, %v", strings.Count(string(data), "\n"), granted, err)
	}
}

func TestManyLeasesAreAsFastAsFew(t *testing.T) {
	c := &clock{time.Unix(1e9, 0)}
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
	p := open(t, filepath.Join(dir, "leases"), "10.0.0.0/16", c)
	for range 65533 {
		if _, err := p.Lease("x"); err != nil {
			t.Fatal(err)
		}
	}
	start := time.Now()
	for i := range 100 {
		a := netip.AddrFrom4([4]byte{10, 0, byte(i + 1), 7})
		if err := p.Release(a); err != nil {
			t.Fatal(err)
		}
		c.now = c.now.Add(time.Hour)
		if got := lease(t, p, "y"); got != a {
			t.Fatalf("leased %s, want %s", got, a)
		}
	}
	if d := time.Since(start) / 100; d > 100*time.Millisecond {
		t.Errorf("%s a lease in a pool with one free address", d)
	}
}

func TestPoolMustBeUsable(t *testing.T) {
	for _, bad := range []string{"10.0.0.0/31", "fd00::/64"} {
		if _, err := ipam.Open(ipam.Config{Name: "x", Prefix: netip.MustParsePrefix(bad), Path: filepath.Join(t.TempDir(), "l")}); fault.KindOf(err) != fault.Invalid {
			t.Errorf("%s: %v", bad, err)
		}
	}
}
