package network_test

import (
	"context"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"tero.internal/common/fault"
	"tero.internal/common/workload"
	"tero.internal/network-manager/internal/nettest"
	"tero.internal/network-manager/network"
)

func reopen(t *testing.T, c network.Config) *network.Manager {
	t.Helper()
	m, err := network.Open(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := m.Down(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return m
}

func TestRestartKeepsConnectionsAndSweepsTheRest(t *testing.T) {
	m, c := open(t, nil)
	apply(t, m, webFromClient)
	web, client, dead := attach(t, m, "web", nil), attach(t, m, "client", nil), attach(t, m, "dead", nil)
	web.listen(t, 8080)
	conn, err := client.dial(web.addr(), 8080)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := m.Close(); err != nil {
		t.Fatal(err)
	}
	if err := echo(conn, 2*time.Second); err != nil {
		t.Errorf("while no manager runs: %v", err)
	}
	if other, err := client.dial(web.addr(), 9999); err == nil {
		other.Close()
		t.Error("while no manager runs, policy is open")
	}
	dead.End()
	waitGone(t, dead.endpoint.HostInterface)
	// What a crash in the middle of Attach leaves: an interface without a
	// record, a record cut off, a lease of nobody.
	for _, args := range [][]string{
		{"link", "add", "qtorphan", "type", "veth", "peer", "name", "qtpeer"},
		{"link", "set", "qtorphan", "group", group(t, web.endpoint.HostInterface)},
	} {
		if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
			t.Fatalf("ip %v: %s", args, out)
		}
	}
	appendTo(t, filepath.Join(c.RunDir, "endpoints.journal"), `{"state":"making","endpoint":{"contai`)
	appendTo(t, filepath.Join(c.StateDir, "leases-default"), `{"address":"10.99.0.77","owner":"nobody/eth0"}`+"\n")

	m = reopen(t, c)
	var names []string
	for _, e := range m.Endpoints("") {
		names = append(names, e.Name)
	}
	if !slices.Equal(names, []string{"web", "client"}) {
		t.Errorf("endpoints: %v", names)
	}
	if err := echo(conn, 2*time.Second); err != nil {
		t.Errorf("after the restart: %v", err)
	}
	if out, _ := exec.Command("ip", "-o", "link").Output(); strings.Contains(string(out), "qtorphan") {
		t.Errorf("the orphan is left:\n%s", out)
	}
	if i, err := m.Network("default"); err != nil || i.Leases != 4 { // two live, two rest
		t.Errorf("leases: %+v %v", i, err)
	}
	if err := m.RemoveSegment(t.Context(), "web-from-client"); err != nil {
		t.Fatal(err)
	}
	if err := echo(conn, 300*time.Millisecond); err == nil {
		t.Error("revocation does not work after a restart")
	}
	if err := m.Reconcile(t.Context(), []workload.ID{web.id}); err != nil {
		t.Fatal(err)
	}
	if es := m.Endpoints(""); len(es) != 1 || es[0].Name != "web" {
		t.Errorf("after Reconcile: %+v", es)
	}
}

// waitGone waits for the kernel, which removes a namespace some time after the
// last process has left it.
func waitGone(t *testing.T, link string) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for range 1000 {
		if exec.Command("ip", "link", "show", link).Run() != nil {
			return
		}
		<-tick.C
	}
	t.Fatalf("%s is still there", link)
}

func group(t *testing.T, link string) string {
	t.Helper()
	out, err := exec.Command("ip", "-o", "link", "show", link).Output()
	if err != nil {
		t.Fatal(err)
	}
	f := strings.Fields(string(out))
	return f[slices.Index(f, "group")+1]
}

func appendTo(t *testing.T, path, text string) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteString(text); err != nil {
		t.Fatal(err)
	}
}

func TestStateIsForOneManager(t *testing.T) {
	_, c := open(t, nil)
	c.Table, c.InterfacePrefix = "qother", "qo"
	if _, err := network.Open(t.Context(), c); fault.KindOf(err) != fault.Exists || fault.HintOf(err) == "" {
		t.Errorf("second manager on the same state: %v", err)
	}
}

func TestTableIsForOneManager(t *testing.T) {
	_, c := open(t, nil)
	c.StateDir, c.RunDir = t.TempDir(), t.TempDir()
	if _, err := network.Open(t.Context(), c); fault.KindOf(err) != fault.Exists || !strings.Contains(err.Error(), "qtest") {
		t.Errorf("second manager on the same table: %v", err)
	}
}

func TestExhaustionNamesThePool(t *testing.T) {
	m, _ := open(t, func(c *network.Config) { c.Pool = netip.MustParsePrefix("10.99.0.0/29") })
	var all []*container
	for range 5 { // 8 less the first, the last and the gateway
		all = append(all, attach(t, m, "many", nil))
	}
	ns := nettest.New(t)
	a := workload.Attachment{Container: workload.NewID(), Name: "more", Network: "default", NetNS: ns.Path(), Interface: "eth0"}
	_, err := m.Attach(t.Context(), a)
	if fault.KindOf(err) != fault.Exhausted || !strings.Contains(err.Error(), `pool 10.99.0.0/29 of network "default"`) {
		t.Errorf("error: %v", err)
	}
	if err := m.Detach(t.Context(), all[0].id); err != nil {
		t.Fatal(err)
	}
	if _, err = m.Attach(t.Context(), a); fault.KindOf(err) != fault.Exhausted || !strings.Contains(err.Error(), "1 rest for 1m0s") {
		t.Errorf("an address was given away before it had rested: %v", err)
	}
}

func TestAttachRefusesAndUndoes(t *testing.T) {
	m, _ := open(t, nil)
	ns := nettest.New(t)
	good := workload.Attachment{Container: workload.NewID(), Name: "web", Network: "default", NetNS: ns.Path(), Interface: "eth0"}
	cases := map[string]struct {
		change func(*workload.Attachment)
		ended  bool
		kind   fault.Kind
	}{
		"no such network":   {func(a *workload.Attachment) { a.Network = "nowhere" }, false, fault.NotFound},
		"no such namespace": {func(a *workload.Attachment) { a.NetNS = "/proc/0/ns/net" }, false, fault.NotFound},
		"not a namespace":   {func(a *workload.Attachment) { a.NetNS = "/etc/passwd" }, false, fault.Invalid},
		"the node's own":    {func(a *workload.Attachment) { a.NetNS = "/proc/self/ns/net" }, false, fault.Invalid},
		"bad interface":     {func(a *workload.Attachment) { a.Interface = "../eth0" }, false, fault.Invalid},
		"taken interface":   {func(a *workload.Attachment) { a.Interface = "lo" }, false, fault.Exists},
		"context has ended": {func(*workload.Attachment) {}, true, fault.Internal},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			a := good
			c.change(&a)
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			if c.ended {
				cancel()
			}
			if _, err := m.Attach(ctx, a); err == nil || fault.KindOf(err) != c.kind {
				t.Errorf("error %v of kind %v, want %v", err, fault.KindOf(err), c.kind)
			}
			out, _ := exec.Command("ip", "-o", "link").Output()
			rules, _ := exec.Command("nft", "list", "ruleset").Output()
			if strings.Contains(string(out), "qt") || strings.Contains(string(rules), "02:51:") || len(m.Endpoints("")) > 0 {
				t.Errorf("left behind:\n%s%s", out, rules)
			}
		})
	}
	if i, err := m.Network("default"); err != nil || i.Endpoints != 0 {
		t.Errorf("%+v %v", i, err)
	}
	if _, err := m.Attach(t.Context(), good); err != nil {
		t.Fatal(err)
	}
	if _, err := m.Attach(t.Context(), good); fault.KindOf(err) != fault.Exists {
		t.Errorf("second attach: %v", err)
	}
	ns.End() // the runtime removed the namespace first
	if err := m.Detach(t.Context(), good.Container); err != nil {
		t.Errorf("detach after the namespace is gone: %v", err)
	}
	if err := m.Detach(t.Context(), good.Container); err != nil {
		t.Errorf("second detach: %v", err)
	}
}

func TestAttachAgainAtOnce(t *testing.T) {
	m, _ := open(t, nil)
	ns := nettest.New(t)
	a := workload.Attachment{Container: workload.NewID(), Name: "web", Network: "default", NetNS: ns.Path(), Interface: "eth0"}
	for range 5 {
		if _, err := m.Attach(t.Context(), a); err != nil {
			t.Fatal(err)
		}
		if err := m.Detach(t.Context(), a.Container); err != nil {
			t.Fatal(err)
		}
	}
}

func TestManyAtOnce(t *testing.T) {
	m, _ := open(t, nil)
	apply(t, m, webFromClient)
	namespaces := make([]*nettest.Namespace, 8)
	for i := range namespaces {
		namespaces[i] = nettest.New(t)
	}
	var all sync.WaitGroup
	for _, ns := range namespaces {
		all.Go(func() {
			for range 5 {
				id := workload.NewID()
				if _, err := m.Attach(t.Context(), workload.Attachment{
					Container: id, Name: "web", Network: "default", NetNS: ns.Path(), Interface: "eth0",
				}); err != nil {
					t.Error(err)
					return
				}
				if err := m.Detach(t.Context(), id); err != nil {
					t.Error(err)
				}
			}
		})
	}
	all.Wait()
	if es := m.Endpoints(""); len(es) != 0 {
		t.Errorf("left: %+v", es)
	}
}

func TestNetworks(t *testing.T) {
	m, c := open(t, nil)
	n, err := m.CreateNetwork(t.Context(), network.Request{Name: "back"})
	if err != nil || n.Pool.String() != "10.211.0.0/16" || n.Gateway.String() != "10.211.0.1" {
		t.Fatalf("%+v %v", n, err)
	}
	for _, bad := range []struct {
		r    network.Request
		kind fault.Kind
	}{
		{network.Request{Name: "back"}, fault.Exists},
		{network.Request{Name: "Back"}, fault.Invalid},
		{network.Request{Name: "none"}, fault.Invalid},
		{network.Request{Name: "x", Pool: c.Pool}, fault.Conflict},
		{network.Request{Name: "x", Pool: netip.MustParsePrefix("10.98.0.0/31")}, fault.Invalid},
		{network.Request{Name: "x", Driver: "macvlan"}, fault.Unsupported},
		{network.Request{Name: "x", Isolation: "none"}, fault.Unsupported},
	} {
		if _, err := m.CreateNetwork(t.Context(), bad.r); fault.KindOf(err) != bad.kind {
			t.Errorf("%+v: %v, want kind %v", bad.r, err, bad.kind)
		}
	}
	ns := nettest.New(t)
	id := workload.NewID()
	if _, err := m.Attach(t.Context(), workload.Attachment{Container: id, Name: "db", Network: "back", NetNS: ns.Path(), Interface: "eth0"}); err != nil {
		t.Fatal(err)
	}
	if err := m.RemoveNetwork(t.Context(), "back"); fault.KindOf(err) != fault.Conflict || !strings.Contains(err.Error(), "db") {
		t.Errorf("remove a network in use: %v", err)
	}
	if err := m.Close(); err != nil {
		t.Fatal(err)
	}
	m = reopen(t, c)
	if got := m.Networks(); len(got) != 2 || got[0].Name != "back" || got[0].Endpoints != 1 {
		t.Errorf("after a restart: %+v", got)
	}
	if err := m.Detach(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	if err := m.RemoveNetwork(t.Context(), "back"); err != nil {
		t.Fatal(err)
	}
	if err := m.RemoveNetwork(t.Context(), "default"); fault.KindOf(err) != fault.Invalid {
		t.Errorf("remove default: %v", err)
	}
}
