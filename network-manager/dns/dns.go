// Package dns answers for the names of workloads on a network's gateway
// address: WORKLOAD, WORKLOAD.NETWORK and WORKLOAD.NETWORK.tero. Each asker is
// told only the names that it may reach.
package dns

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"

	"github.com/miekg/dns"
)

// ttl is short: a workload that is started anew has another address.
const ttl = 5

// Resolver knows names.
type Resolver interface {
	// Lookup gives the addresses of name on network that asker may reach;
	// known is false when there is nothing that it may know of.
	Lookup(asker netip.Addr, network, name string) (addresses []netip.Addr, known bool)
}

// Server answers on one gateway.
type Server struct {
	servers []*dns.Server
	running sync.WaitGroup
}

// Serve begins to answer on port 53 of address, by UDP and TCP.
func Serve(ctx context.Context, address netip.Addr, network string, r Resolver, log *slog.Logger) (*Server, error) {
	endpoint := netip.AddrPortFrom(address, 53).String()
	var lc net.ListenConfig
	packets, err := lc.ListenPacket(ctx, "udp", endpoint)
	if err != nil {
		return nil, fmt.Errorf("DNS of network %s: %w", network, err)
	}
	stream, err := lc.Listen(ctx, "tcp", endpoint)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("DNS of network %s: %w", network, err), packets.Close())
	}
	h := newPatient(handler{network: network, resolver: r})
	s := &Server{servers: []*dns.Server{{PacketConn: packets, Handler: h}, {Listener: newStreams(stream), Handler: h}}}
	for _, d := range s.servers {
		started := make(chan struct{})
		d.NotifyStartedFunc = func() { close(started) }
		failed := make(chan struct{})
		s.running.Go(func() {
			defer close(failed)
			if err := d.ActivateAndServe(); err != nil && !errors.Is(err, net.ErrClosed) {
				log.ErrorContext(context.WithoutCancel(ctx), "DNS ended", slog.String("network", network), slog.String("error", err.Error()))
			}
		})
		select { // Shutdown works on a server that has started only
		case <-started:
		case <-failed:
		}
	}
	return s, nil
}

// Close stops answering.
func (s *Server) Close() error {
	var errs []error
	for _, d := range s.servers {
		errs = append(errs, d.Shutdown())
	}
	s.running.Wait()
	return errors.Join(errs...)
}

type handler struct {
	network  string
	resolver Resolver
}

// ServeDNS answers one query.
func (h handler) ServeDNS(w dns.ResponseWriter, q *dns.Msg) {
	asker, err := netip.ParseAddrPort(w.RemoteAddr().String())
	if err != nil {
		return
	}
	m := h.answer(asker.Addr().Unmap(), q)
	if w.RemoteAddr().Network() == "udp" {
		m.Truncate(udpSize(q))
	}
	_ = w.WriteMsg(m) // the asker may have gone away
}

func (h handler) answer(asker netip.Addr, q *dns.Msg) *dns.Msg {
	m := new(dns.Msg)
	m.SetReply(q)
	m.RecursionAvailable = false
	if q.Opcode != dns.OpcodeQuery || len(q.Question) != 1 {
		m.Rcode = dns.RcodeNotImplemented
		return m
	}
	question := q.Question[0]
	name, ours := h.workload(question.Name)
	if !ours || question.Qclass != dns.ClassINET {
		m.Rcode = dns.RcodeRefused // somebody else's name, and we do not ask others
		return m
	}
	m.Authoritative = true
	addresses, known := h.resolver.Lookup(asker, h.network, name)
	if !known {
		m.Rcode = dns.RcodeNameError
		return m
	}
	if question.Qtype != dns.TypeA && question.Qtype != dns.TypeANY {
		return m // the name exists and has nothing of this type
	}
	slices.SortFunc(addresses, netip.Addr.Compare)
	for _, a := range addresses {
		m.Answer = append(m.Answer, &dns.A{
			Hdr: dns.RR_Header{Name: question.Name, Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: ttl}, A: a.AsSlice(),
		})
	}
	return m
}

// udpSize is how large an answer may be (RFC 6891, section 6.2.3).
func udpSize(q *dns.Msg) int {
	if o := q.IsEdns0(); o != nil {
		return int(o.UDPSize())
	}
	return dns.MinMsgSize
}

// workload gives the name of the workload in a query, and whether the name is
// one of this server's.
func (h handler) workload(query string) (string, bool) {
	labels := dns.SplitDomainName(strings.ToLower(query))
	switch {
	case len(labels) == 1,
		len(labels) == 2 && labels[1] == h.network,
		len(labels) == 3 && labels[1] == h.network && labels[2] == "tero":
		return labels[0], true
	}
	return "", len(labels) > 0 && labels[len(labels)-1] == "tero"
}
