package network_test

import (
	"fmt"
	"net/netip"
	"sync"
	"testing"
	"time"

	mdns "github.com/miekg/dns"

	"tero.internal/network-manager/flow"
	"tero.internal/network-manager/internal/nettest"
	"tero.internal/network-manager/network"
)

// ask queries the network's DNS server from inside.
func (c *container) ask(t *testing.T, transport, name string, typ uint16) *mdns.Msg {
	t.Helper()
	q := new(mdns.Msg)
	q.SetQuestion(name, typ)
	var answer *mdns.Msg
	var err error
	c.Do(func() {
		client := mdns.Client{Net: transport, Timeout: 2 * time.Second}
		answer, _, err = client.Exchange(q, netip.AddrPortFrom(c.endpoint.Gateway, 53).String())
	})
	if err != nil {
		t.Fatalf("ask for %s by %s: %v", name, transport, err)
	}
	return answer
}

func TestDNSTellsWhatTheAskerMayReach(t *testing.T) {
	m, _ := open(t, nil)
	apply(t, m, webFromClient)
	web, client, other := attach(t, m, "web", nil), attach(t, m, "client", nil), attach(t, m, "client-2", nil)
	for _, transport := range []string{"udp", "tcp"} {
		for _, name := range []string{"web.", "web.default.", "WEB.default.tero."} {
			a := client.ask(t, transport, name, mdns.TypeA)
			if a.Rcode != mdns.RcodeSuccess || len(a.Answer) != 1 || a.Answer[0].(*mdns.A).A.String() != web.addr().String() {
				t.Errorf("%s by %s: %v", name, transport, a)
			}
		}
	}
	for _, c := range []struct {
		who   *container
		name  string
		typ   uint16
		rcode int
	}{
		{client, "web.default.tero.", mdns.TypeAAAA, mdns.RcodeSuccess},
		{client, "nobody.default.tero.", mdns.TypeA, mdns.RcodeNameError},
		{client, "web.elsewhere.tero.", mdns.TypeA, mdns.RcodeNameError},
		{client, "example.com.", mdns.TypeA, mdns.RcodeRefused},
		{other, "web.default.tero.", mdns.TypeA, mdns.RcodeNameError},
		{other, "client-2.default.tero.", mdns.TypeA, mdns.RcodeSuccess},
		{web, "client.", mdns.TypeA, mdns.RcodeNameError},
	} {
		if a := c.who.ask(t, "udp", c.name, c.typ); a.Rcode != c.rcode || c.typ == mdns.TypeAAAA && len(a.Answer) > 0 {
			t.Errorf("%s: %s, want %s", c.name, mdns.RcodeToString[a.Rcode], mdns.RcodeToString[c.rcode])
		}
	}
	f := waitFlow(t, m, func(f *flow.Flow) bool { return f.Rule == flow.RuleDNS && f.From == "client-2" })
	if f.To != "web" || f.Query != "web" || f.Reason != "the name web was not answered: no segment allows client-2 to reach web on any port" {
		t.Errorf("flow: %+v", f)
	}
	if e := client.endpoint; len(e.DNS) != 1 || e.DNS[0] != e.Gateway || e.Search[0] != "default."+network.Domain {
		t.Errorf("endpoint: %+v", e)
	}
}

// TestTheFirstPacketArrives asks from containers the moment they are attached,
// while namespaces come and go: what is sent before the kernel has acted on the
// link's carrier would be lost, and nothing here asks twice.
func TestTheFirstPacketArrives(t *testing.T) {
	m, _ := open(t, nil)
	const askers = 24
	var busy sync.WaitGroup
	defer busy.Wait()
	for range 4 {
		busy.Go(func() {
			for range askers / 2 {
				nettest.New(t).End()
			}
		})
	}
	for i := range askers {
		c := attach(t, m, fmt.Sprintf("asker-%d", i), nil)
		c.ask(t, "udp", fmt.Sprintf("asker-%d.", i), mdns.TypeA)
	}
}
