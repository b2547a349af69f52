package dns

import (
	"errors"
	"io"
	"net"
	"net/netip"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/miekg/dns"
)

func TestAnAskerHoldsFewConnections(t *testing.T) {
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := newStreams(l)
	accepted := make(chan net.Conn, 2*maxStreams)
	var accepting sync.WaitGroup
	accepting.Go(func() {
		for {
			c, err := s.Accept()
			if err != nil {
				return
			}
			accepted <- c
		}
	})
	t.Cleanup(func() { _ = l.Close(); accepting.Wait() })
	dial := func() net.Conn {
		c, err := net.Dial("tcp4", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = c.Close() })
		return c
	}
	var held []net.Conn
	for range maxStreams {
		dial()
		held = append(held, <-accepted)
	}
	tooMany := dial()
	_ = tooMany.SetReadDeadline(time.Now().Add(10 * time.Second))
	if _, err := tooMany.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Errorf("connection %d: %v, want it closed", maxStreams+1, err)
	}
	_ = held[0].Close()
	_ = held[0].Close() // counts once
	dial()
	again := <-accepted
	for _, c := range append(held[1:], again) {
		_ = c.Close()
	}
	if len(s.open) != 0 {
		t.Errorf("%v is counted after all were closed", s.open)
	}
}

// slow is a resolver that answers when it is let.
type slow struct{ let chan struct{} }

func (s slow) Lookup(netip.Addr, string, string) ([]netip.Addr, bool) { <-s.let; return nil, false }

// writer counts the answers that are written to it.
type writer struct {
	dns.ResponseWriter
	answers chan *dns.Msg
}

func (writer) RemoteAddr() net.Addr { return &net.UDPAddr{IP: net.IPv4(10, 0, 0, 2), Port: 9} }

func (w writer) WriteMsg(m *dns.Msg) error { w.answers <- m; return nil }

func TestQueriesThatWaitAreBounded(t *testing.T) {
	s := slow{make(chan struct{})}
	w := writer{answers: make(chan *dns.Msg, 2*maxQueries)}
	p := newPatient(handler{network: "default", resolver: s})
	q := new(dns.Msg).SetQuestion("web.", dns.TypeA)
	var waiting sync.WaitGroup
	for range maxQueries {
		waiting.Go(func() { p.ServeDNS(w, q) })
	}
	for len(p.places) < maxQueries { // all of them are in
		runtime.Gosched()
	}
	p.ServeDNS(w, q) // returns at once
	close(s.let)
	waiting.Wait()
	if n := len(w.answers); n != maxQueries {
		t.Errorf("%d queries were answered, want %d", n, maxQueries)
	}
	p.ServeDNS(w, q)
	if n := len(w.answers); n != maxQueries+1 {
		t.Error("no query is answered after the crowd has gone")
	}
}
