package dns

import (
	"net"
	"net/netip"
	"sync"

	"github.com/miekg/dns"
)

// The bounds on what askers can make the node hold. Without them one container
// took all 20,000 descriptors of the node with connections that asked nothing.
const (
	// maxStreams is how many connections one asker may have open.
	maxStreams = 16
	// maxQueries is how many queries may wait for an answer at a time; more are
	// dropped, and resolvers ask again.
	maxQueries = 256
)

// streams is a listener that closes the connections of an asker beyond maxStreams.
type streams struct {
	net.Listener

	mu   sync.Mutex // guards open
	open map[netip.Addr]int
}

func newStreams(l net.Listener) *streams {
	return &streams{Listener: l, open: map[netip.Addr]int{}}
}

// Accept waits for the next connection that its asker may have.
func (s *streams) Accept() (net.Conn, error) {
	for {
		c, err := s.Listener.Accept()
		if err != nil {
			return nil, err
		}
		from, err := netip.ParseAddrPort(c.RemoteAddr().String())
		if err == nil && s.enter(from.Addr()) {
			return &stream{Conn: c, leave: sync.OnceFunc(func() { s.leave(from.Addr()) })}, nil
		}
		_ = c.Close()
	}
}

func (s *streams) enter(asker netip.Addr) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.open[asker] >= maxStreams {
		return false
	}
	s.open[asker]++
	return true
}

func (s *streams) leave(asker netip.Addr) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.open[asker]--; s.open[asker] == 0 {
		delete(s.open, asker)
	}
}

// stream is a connection that is counted until it is closed.
type stream struct {
	net.Conn
	leave func()
}

// Close closes the connection.
func (s *stream) Close() error {
	defer s.leave()
	return s.Conn.Close()
}

// patient answers at most maxQueries queries at a time: the library begins a
// goroutine for each packet, and all of them wait for the manager's lock.
type patient struct {
	dns.Handler
	places chan struct{}
}

func newPatient(h dns.Handler) patient {
	return patient{Handler: h, places: make(chan struct{}, maxQueries)}
}

// ServeDNS answers a query, or drops it when too many wait.
func (p patient) ServeDNS(w dns.ResponseWriter, q *dns.Msg) {
	select {
	case p.places <- struct{}{}:
		defer func() { <-p.places }()
		p.Handler.ServeDNS(w, q)
	default:
	}
}
