package network_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os/exec"
	"strings"
	"testing"
	"time"

	"tero.internal/common/eventbus"
	"tero.internal/common/workload"
	"tero.internal/network-manager/flow"
	"tero.internal/network-manager/internal/nettest"
	"tero.internal/network-manager/network"
)

func TestMain(m *testing.M) { nettest.Main(m) }

// open starts a manager that is taken down with the test.
func open(t testing.TB, change func(*network.Config)) (*network.Manager, network.Config) {
	t.Helper()
	c := network.Config{
		StateDir: t.TempDir(), RunDir: t.TempDir(), Table: "qtest", InterfacePrefix: "qt", Bus: &eventbus.Bus{},
		Pool: netip.MustParsePrefix("10.99.0.0/24"),
	}
	if change != nil {
		change(&c)
	}
	m, err := network.Open(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := m.Down(context.Background()); err != nil {
			t.Errorf("down: %v", err)
		}
		clean(t)
	})
	return m, c
}

// clean checks that nothing of a manager is left in the kernel.
func clean(t testing.TB) {
	t.Helper()
	links, _ := exec.Command("ip", "-o", "link").CombinedOutput()
	addrs, _ := exec.Command("ip", "-o", "-4", "addr").CombinedOutput()
	rules, _ := exec.Command("nft", "list", "ruleset").CombinedOutput()
	if strings.Contains(string(links), "qt") || strings.Contains(string(addrs), "10.99.") || strings.Contains(string(rules), "qtest") {
		t.Errorf("left behind:\n%s%s%s", links, addrs, rules)
	}
}

// container is a namespace that is attached.
type container struct {
	*nettest.Namespace
	id       workload.ID
	endpoint workload.Endpoint
}

func (c *container) addr() netip.Addr { return c.endpoint.Address.Addr() }

func attach(t testing.TB, m *network.Manager, name string, labels map[string]string) *container {
	t.Helper()
	c := &container{Namespace: nettest.New(t), id: workload.NewID()}
	var err error
	c.endpoint, err = m.Attach(t.Context(), workload.Attachment{
		Container: c.id, Name: name, Network: "default", SPIFFEID: "spiffe://test.tero/workload/" + name,
		Labels: labels, NetNS: c.Path(), Interface: "eth0",
	})
	if err != nil {
		t.Fatalf("attach %s: %v", name, err)
	}
	return c
}

// listen serves an echo on a TCP port inside.
func (c *container) listen(t testing.TB, port int) {
	t.Helper()
	var l net.Listener
	var err error
	c.Do(func() { l, err = net.Listen("tcp4", fmt.Sprintf(":%d", port)) })
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go func() { defer conn.Close(); _, _ = io.Copy(conn, conn) }()
		}
	}()
	t.Cleanup(func() { _ = l.Close(); <-done })
}

// dial connects from inside.
func (c *container) dial(to netip.Addr, port int) (conn net.Conn, err error) {
	c.Do(func() {
		d := net.Dialer{Timeout: 2 * time.Second}
		conn, err = d.Dial("tcp4", netip.AddrPortFrom(to, uint16(port)).String())
	})
	return conn, err
}

// echo tells whether what is written comes back.
func echo(conn net.Conn, wait time.Duration) error {
	if err := conn.SetDeadline(time.Now().Add(wait)); err != nil {
		return err
	}
	if _, err := conn.Write([]byte("ping")); err != nil {
		return err
	}
	b := make([]byte, 4)
	if _, err := io.ReadFull(conn, b); err != nil {
		return err
	}
	if string(b) != "ping" {
		return errors.New("got " + string(b))
	}
	return nil
}

const webFromClient = `kind: Segment
name: web-from-client
to: {workload: web}
from:
  - workload: client
ports:
  - {protocol: tcp, port: 8080}
  - {protocol: icmp}
`

func apply(t testing.TB, m *network.Manager, yaml string) {
	t.Helper()
	if _, err := m.ApplySegments(t.Context(), "test.yaml", []byte(yaml)); err != nil {
		t.Fatal(err)
	}
}

// waitFlow waits for a flow that matches.
func waitFlow(t testing.TB, m *network.Manager, match func(*flow.Flow) bool) flow.Flow {
	t.Helper()
	w := m.WatchFlows(1000, match)
	defer w.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	f, _, err := w.Next(ctx)
	if err != nil {
		t.Fatalf("no such flow; there are %+v", m.Flows(0, nil))
	}
	return f
}
