package nft

import (
	"fmt"
	"net"
	"net/netip"
	"os/exec"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"tero.internal/common/fault"
	"tero.internal/network-manager/internal/nettest"
)

func TestMain(m *testing.M) { nettest.Main(m) }

// nftList runs the nft program, as administrators do.
func nftRun(t *testing.T, args ...string) (string, error) {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "nft", args...).CombinedOutput()
	return string(out), err
}

func sample(n int) Change {
	c := Change{AddGateways: []netip.Addr{netip.MustParseAddr("10.210.0.1")}}
	for i := range n {
		a := netip.AddrFrom4([4]byte{10, 210, byte(i >> 8), byte(i)})
		mac := net.HardwareAddr{2, 0x51, 10, 210, byte(i >> 8), byte(i)}
		c.AddEndpoints = append(c.AddEndpoints, Endpoint{Index: i + 10, MAC: mac, Addr: a, Mark: 0x1000 + uint32(i)})
		c.AddAllows = append(c.AddAllows, Allow{Mark: 0x1000, Addr: a, Protocol: 6, Port: 8080}, Allow{Mark: 0x1000, Addr: a, Protocol: 1})
	}
	return c
}

// canOwn tells whether this kernel has tables that outlive their owner, as 6.9 is
// the first to have.
func canOwn(t *testing.T) bool {
	t.Helper()
	var name unix.Utsname
	if err := unix.Uname(&name); err != nil {
		t.Fatal(err)
	}
	var major, minor int
	if _, err := fmt.Sscanf(unix.ByteSliceToString(name.Release[:]), "%d.%d", &major, &minor); err != nil {
		t.Fatal(err)
	}
	return major > 6 || major == 6 && minor >= 9
}

func TestTableIsListedOwnedAndAdopted(t *testing.T) {
	c := Config{Name: "qtest", Group: 810, LogGroup: 81}
	table, err := Open(c)
	if err != nil {
		t.Fatal(err)
	}
	if err := table.Replace(sample(2)); err != nil {
		t.Fatal(err)
	}
	out, err := nftRun(t, "list", "ruleset")
	if err != nil {
		t.Fatalf("nft list ruleset: %v\n%s", err, out)
	}
	for _, want := range []string{
		"elements = { 10 . 02:51:0a:d2:00:00 . 10.210.0.0",
		"10.210.0.1 : 0x00001001",
		"0x00001000 . 10.210.0.1 . tcp . 8080",
		"meta mark . ip daddr . meta l4proto . th dport @allow4 goto allowed",
		"meta mark . ip saddr . meta l4proto . th sport @allow4",
		"iifgroup 810 iif . ether saddr . ip saddr @spoof4 accept",
		`log prefix "denied" group 81`,
		"reject with icmpx admin-prohibited",
	} {
		if !strings.Contains(out, want) {
			t.Errorf("the ruleset lacks %q", want)
		}
	}
	if t.Failed() {
		t.Log(out)
	}
	if table.Owned() != canOwn(t) {
		t.Fatalf("owned %v, want %v on this kernel", table.Owned(), canOwn(t))
	}
	if table.Owned() {
		if _, err := Open(c); fault.KindOf(err) != fault.Exists {
			t.Errorf("second owner: %v, want a fault of kind exists", err)
		}
		if out, err := nftRun(t, "flush", "ruleset"); err != nil {
			t.Fatalf("flush: %v %s", err, out)
		}
		if out, err := nftRun(t, "delete", "table", "inet", "qtest"); err == nil {
			t.Errorf("deleted by somebody else: %s", out)
		}
	}
	if err := table.Close(); err != nil {
		t.Fatal(err)
	}
	again, err := Open(c)
	if err != nil {
		t.Fatal(err)
	}
	if out, _ := nftRun(t, "list", "table", "inet", "qtest"); !strings.Contains(out, "10.210.0.1 : 0x00001001") {
		t.Errorf("elements did not stay:\n%s", out)
	}
	if err := again.Replace(sample(1)); err != nil {
		t.Fatal(err)
	}
	out, _ = nftRun(t, "list", "table", "inet", "qtest")
	if strings.Contains(out, "0x00001001") || strings.Count(out, "chain policy") != 1 {
		t.Errorf("Replace left old things:\n%s", out)
	}
	if err := again.Delete(); err != nil {
		t.Fatal(err)
	}
	if out, _ := nftRun(t, "list", "ruleset"); strings.Contains(out, "qtest") {
		t.Errorf("Delete left:\n%s", out)
	}
	if err := again.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestChangesAreAllOrNone(t *testing.T) {
	table, err := Open(Config{Name: "qtest", Group: 810, LogGroup: 81})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = table.Delete(); _ = table.Close() })
	if err := table.Replace(Change{}); err != nil {
		t.Fatal(err)
	}
	c := sample(3000) // more than fits a message, and more answers than a default buffer holds
	if err := table.Apply(c); err != nil {
		t.Fatal(err)
	}
	bad := Change{
		AddAllows:    []Allow{{Mark: 7, Addr: netip.MustParseAddr("10.9.9.9"), Protocol: 17, Port: 53}},
		RemoveAllows: []Allow{{Mark: 8, Addr: netip.MustParseAddr("10.9.9.9"), Protocol: 17, Port: 53}}, // is not there
	}
	if err := table.Apply(bad); err == nil {
		t.Error("a change with an element that is not there was committed")
	}
	if out, _ := nftRun(t, "list", "set", "inet", "qtest", "allow4"); strings.Contains(out, "10.9.9.9") {
		t.Error("half of a change is in the kernel")
	}
	if table.Owned() != canOwn(t) {
		t.Error("the table is not owned any more after a failure")
	}
	if err := table.Apply(Change{RemoveGateways: c.AddGateways, RemoveEndpoints: c.AddEndpoints, RemoveAllows: c.AddAllows}); err != nil {
		t.Fatal(err)
	}
	if out, _ := nftRun(t, "list", "table", "inet", "qtest"); strings.Contains(out, "10.210.") {
		t.Error("elements are left")
	}
}
