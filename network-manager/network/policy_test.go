package network_test

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os/exec"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"tero.internal/network-manager/flow"
	"tero.internal/network-manager/network"
)

func TestOnlyWhatASegmentAllowsPasses(t *testing.T) {
	m, c := open(t, nil)
	events := c.Bus.Subscribe()
	defer events.Close()
	web := attach(t, m, "web", nil)
	client := attach(t, m, "client", nil)
	other := attach(t, m, "client-2", nil)
	web.listen(t, 8080)
	web.listen(t, 9090)

	if conn, err := client.dial(web.addr(), 8080); err == nil {
		conn.Close()
		t.Fatal("a connection passed that no segment allows")
	}
	f := waitFlow(t, m, func(f *flow.Flow) bool { return f.From == "client" && f.To == "web" })
	if f.Allowed || f.Rule != flow.RuleDefaultDeny || f.Port != 8080 || f.Protocol != "tcp" ||
		f.Reason != "no segment allows client to reach web on tcp/8080; no segment of network default has anything to do with either" {
		t.Errorf("flow: %+v", f)
	}
	for {
		e, _, err := events.Next(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if e.Type == "flow.denied" {
			if e.Name != "client" || e.Container != client.id || e.Attributes["to"] != "web" {
				t.Errorf("event: %+v", e)
			}
			break
		}
	}

	apply(t, m, webFromClient)
	conn, err := client.dial(web.addr(), 8080)
	if err != nil {
		t.Fatalf("allowed connection: %v", err)
	}
	defer conn.Close()
	if err := echo(conn, time.Second); err != nil {
		t.Fatalf("allowed connection: %v", err)
	}
	if f := waitFlow(t, m, func(f *flow.Flow) bool { return f.Allowed }); f.From != "client" || f.Rule != "web-from-client" {
		t.Errorf("flow: %+v", f)
	}
	for name, try := range map[string]func() (net.Conn, error){
		"other port":      func() (net.Conn, error) { return client.dial(web.addr(), 9090) },
		"other client":    func() (net.Conn, error) { return other.dial(web.addr(), 8080) },
		"back":            func() (net.Conn, error) { return web.dial(client.addr(), 8080) },
		"node":            func() (net.Conn, error) { return client.dial(web.endpoint.Gateway, 22) },
		"another outside": func() (net.Conn, error) { return client.dial(netip.MustParseAddr("192.0.2.1"), 80) },
	} {
		if conn, err := try(); err == nil {
			conn.Close()
			t.Errorf("%s: passed", name)
		}
	}
	f = waitFlow(t, m, func(f *flow.Flow) bool { return f.From == "client-2" })
	if want := "no segment allows client-2 to reach web on tcp/8080; nearest: web-from-client allows from {workload: client}"; f.Reason != want {
		t.Errorf("reason: %q, want %q", f.Reason, want)
	}
	f = waitFlow(t, m, func(f *flow.Flow) bool { return f.Rule == flow.RuleHostGuard })
	if f.From != "client" || f.To != "gateway" || f.Port != 22 {
		t.Errorf("flow to the node: %+v", f)
	}
	out, err := exec.Command("nft", "list", "ruleset").CombinedOutput()
	if err != nil || !strings.Contains(string(out), fmt.Sprintf("%s . tcp . 8080", web.addr())) {
		t.Errorf("nft list ruleset: %v\n%s", err, out)
	}
}

func TestRevocationStopsAnOpenStream(t *testing.T) {
	m, _ := open(t, nil)
	web, client := attach(t, m, "web", nil), attach(t, m, "client", nil)
	web.listen(t, 8080)
	apply(t, m, webFromClient)
	conn, err := client.dial(web.addr(), 8080)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := echo(conn, time.Second); err != nil {
		t.Fatal(err)
	}
	if err := m.RemoveSegment(t.Context(), "web-from-client"); err != nil {
		t.Fatal(err)
	}
	if err := conn.SetDeadline(time.Now().Add(600 * time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	_, _ = conn.Write([]byte("after"))
	if n, err := conn.Read(make([]byte, 16)); err == nil || n != 0 {
		t.Errorf("%d bytes came after the revocation, error %v", n, err)
	}
	waitFlow(t, m, func(f *flow.Flow) bool { return f.From == "client" && f.Rule == flow.RuleDefaultDeny })
	apply(t, m, webFromClient) // and allowing it again lets the same stream go on
	if err := conn.SetDeadline(time.Now().Add(5 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if n, err := conn.Read(make([]byte, 5)); err != nil || n != 5 {
		t.Errorf("after allowing it again: %d bytes, %v", n, err)
	}
}

func TestRevocationStopsTheServersSide(t *testing.T) {
	m, _ := open(t, nil)
	web, client := attach(t, m, "web", nil), attach(t, m, "client", nil)
	apply(t, m, webFromClient)
	var l net.Listener
	var err error
	web.Do(func() { l, err = net.Listen("tcp4", ":8080") })
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	conn, err := client.dial(web.addr(), 8080)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	server, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	if err := m.RemoveSegment(t.Context(), "web-from-client"); err != nil {
		t.Fatal(err)
	}
	if _, err := server.Write([]byte("secret")); err != nil {
		t.Fatal(err)
	}
	f := waitFlow(t, m, func(f *flow.Flow) bool { return f.Rule == flow.RuleRevoked })
	if f.From != "client" || f.To != "web" || f.Port != 8080 {
		t.Errorf("flow: %+v", f)
	}
	_ = conn.SetReadDeadline(time.Now().Add(300 * time.Millisecond))
	if n, _ := conn.Read(make([]byte, 16)); n != 0 {
		t.Errorf("%d bytes of a reply came after the revocation", n)
	}
}

func TestSpoofedSourceIsDropped(t *testing.T) {
	m, _ := open(t, nil)
	web, client, rogue := attach(t, m, "web", nil), attach(t, m, "client", nil), attach(t, m, "rogue", nil)
	apply(t, m, strings.ReplaceAll(webFromClient, "tcp", "udp"))
	var server net.PacketConn
	var err error
	web.Do(func() { server, err = net.ListenPacket("udp4", ":8080") })
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	send := func(c *container, from netip.Addr) {
		t.Helper()
		var err error
		c.Do(func() { err = rawUDP(from, web.addr(), 8080) })
		if err != nil {
			t.Fatal(err)
		}
	}
	send(rogue, client.addr()) // what only client may do
	f := waitFlow(t, m, func(f *flow.Flow) bool { return f.Rule == flow.RuleSpoofed })
	if f.From != "rogue" || f.FromAddress != client.addr() || f.To != "web" {
		t.Errorf("flow: %+v", f)
	}
	send(client, client.addr()) // the same packet from whom it may come
	b := make([]byte, 16)
	_ = server.SetReadDeadline(time.Now().Add(2 * time.Second))
	n, from, err := server.ReadFrom(b)
	if err != nil || n != 5 {
		t.Fatalf("allowed packet: %d bytes from %v, %v", n, from, err)
	}
	_ = server.SetReadDeadline(time.Now().Add(200 * time.Millisecond))
	if _, from, err := server.ReadFrom(b); err == nil {
		t.Errorf("a second packet came from %v: the spoofed one passed", from)
	}
}

// rawUDP sends one UDP packet with any source address.
func rawUDP(from, to netip.Addr, port uint16) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_RAW)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	s, d := from.As4(), to.As4()
	packet := []byte{0x45, 0, 0, 33, 0, 0, 0, 0, 64, unix.IPPROTO_UDP, 0, 0}
	packet = append(append(packet, s[:]...), d[:]...)
	packet = append(packet, 0x30, 0x39, byte(port>>8), byte(port), 0, 13, 0, 0, 'h', 'e', 'l', 'l', 'o')
	return unix.Sendto(fd, packet, 0, &unix.SockaddrInet4{Addr: d})
}

func TestPing(t *testing.T) {
	m, _ := open(t, nil)
	web, client := attach(t, m, "web", nil), attach(t, m, "client", nil)
	ping := func(c *container, to netip.Addr) error {
		var err error
		c.Do(func() { err = exec.Command("ping", "-c1", "-W1", to.String()).Run() })
		return err
	}
	if ping(client, web.addr()) == nil {
		t.Error("an echo passed that no segment allows")
	}
	apply(t, m, webFromClient)
	if err := ping(client, web.addr()); err != nil {
		t.Errorf("allowed echo: %v", err)
	}
	if ping(web, client.addr()) == nil {
		t.Error("an echo passed the other way")
	}
}

// TestSegmentsMeetEndpointsInAnyOrder attaches after the segment is there, by
// label, and takes the identity away again.
func TestSegmentsMeetEndpointsInAnyOrder(t *testing.T) {
	m, _ := open(t, nil)
	apply(t, m, `kind: Segment
name: db
to: {labels: {role: db}}
from: [{labels: {tier: front}}]
ports: [{protocol: tcp, port: 5432}]
`)
	db := attach(t, m, "pg", map[string]string{"role": "db"})
	db.listen(t, 5432)
	front := attach(t, m, "shop", map[string]string{"tier": "front"})
	back := attach(t, m, "batch", map[string]string{"tier": "back"})
	conn, err := front.dial(db.addr(), 5432)
	if err != nil {
		t.Fatal(err)
	}
	conn.Close()
	if conn, err := back.dial(db.addr(), 5432); err == nil {
		conn.Close()
		t.Error("the wrong label passed")
	}
	if got := m.Segments(""); len(got) != 1 || got[0].Entries != 1 {
		t.Errorf("segments: %+v", got)
	}
	if err := m.Detach(context.Background(), front.id); err != nil {
		t.Fatal(err)
	}
	if got := m.Segments(""); got[0].Entries != 0 {
		t.Errorf("entries are left after the endpoint went: %+v", got)
	}
}

func TestApplyIsAllOrNone(t *testing.T) {
	m, _ := open(t, func(c *network.Config) {})
	apply(t, m, webFromClient)
	_, err := m.ApplySegments(t.Context(), "x.yaml", []byte(webFromClient+"---\nkind: Segment\nname: two\nnetwork: nowhere\nto: {workload: a}\nfrom: [{workload: b}]\nports: [{protocol: tcp, port: 1}]\n"))
	if err == nil || !strings.Contains(err.Error(), `x.yaml:10: segment "two" is about network "nowhere"`) {
		t.Errorf("error: %v", err)
	}
	if got := m.Segments(""); len(got) != 1 || got[0].Source != "test.yaml:1" {
		t.Errorf("segments: %+v", got)
	}
}
