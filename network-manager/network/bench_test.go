package network_test

import (
	"net/netip"
	"slices"
	"testing"
	"time"

	"tero.internal/common/workload"
	"tero.internal/network-manager/internal/nettest"
	"tero.internal/network-manager/network"
)

// BenchmarkAttach measures Attach and Detach beside 50 endpoints and prints
// their medians.
func BenchmarkAttach(b *testing.B) {
	m, _ := open(b, func(c *network.Config) { c.Pool = netip.MustParsePrefix("10.99.0.0/16"); c.Grace = time.Nanosecond })
	apply(b, m, webFromClient)
	for range 50 {
		attach(b, m, "client", nil)
	}
	ns := nettest.New(b)
	var up, down []time.Duration
	for b.Loop() {
		a := workload.Attachment{Container: workload.NewID(), Name: "web", Network: "default", NetNS: ns.Path(), Interface: "eth0"}
		start := time.Now()
		if _, err := m.Attach(b.Context(), a); err != nil {
			b.Fatal(err)
		}
		middle := time.Now()
		if err := m.Detach(b.Context(), a.Container); err != nil {
			b.Fatal(err)
		}
		up, down = append(up, middle.Sub(start)), append(down, time.Since(middle))
		b.StopTimer()
		ns.End() // as a container does; the same name could not be used before the reaper came by
		ns = nettest.New(b)
		b.StartTimer()
	}
	slices.Sort(up)
	slices.Sort(down)
	b.ReportMetric(float64(up[len(up)/2].Microseconds()), "attach-p50-µs")
	b.ReportMetric(float64(down[len(down)/2].Microseconds()), "detach-p50-µs")
}
