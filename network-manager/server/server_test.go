package server_test

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"path/filepath"
	"testing"
	"time"

	"google.golang.org/grpc"

	networkv1 "tero.internal/api/network/v1"
	"tero.internal/common/fault"
	"tero.internal/common/rpc"
	"tero.internal/common/workload"
	"tero.internal/network-manager/internal/nettest"
	"tero.internal/network-manager/network"
	"tero.internal/network-manager/server"
)

func TestMain(m *testing.M) { nettest.Main(m) }

func start(t *testing.T) (*network.Manager, networkv1.NetworkServiceClient) {
	t.Helper()
	m, err := network.Open(t.Context(), network.Config{
		StateDir: t.TempDir(), RunDir: t.TempDir(), Table: "qsrv", InterfacePrefix: "qs", Pool: netip.MustParsePrefix("10.97.0.0/24"),
	})
	if err != nil {
		t.Fatal(err)
	}
	socket := filepath.Join(t.TempDir(), "api.sock")
	l, err := rpc.ListenUnix(t.Context(), socket, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	g := rpc.NewServer(rpc.PeerCredentials(), func(context.Context, workload.Principal, string, any) error { return nil }, slog.New(slog.DiscardHandler))
	server.New(m).Register(g)
	done := make(chan error, 1)
	go func() { done <- g.Serve(l) }()
	c, err := grpc.NewClient("unix:"+socket, grpc.WithTransportCredentials(rpc.PeerCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = c.Close()
		g.Stop()
		if err := <-done; err != nil && !errors.Is(err, grpc.ErrServerStopped) {
			t.Error(err)
		}
		if err := m.Down(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return m, networkv1.NewNetworkServiceClient(c)
}

func attach(t *testing.T, m *network.Manager, name string) *nettest.Namespace {
	t.Helper()
	ns := nettest.New(t)
	if _, err := m.Attach(t.Context(), workload.Attachment{
		Container: workload.NewID(), Name: name, Network: "default", SPIFFEID: "spiffe://t/workload/" + name, NetNS: ns.Path(), Interface: "eth0",
	}); err != nil {
		t.Fatal(err)
	}
	return ns
}

const segments = `kind: Segment
name: web-from-client
to: {workload: web}
from: [{workload: client}]
ports: [{protocol: tcp, port: 8080}]
`

func TestAPI(t *testing.T) {
	m, c := start(t)
	ctx := t.Context()
	attach(t, m, "web")
	client := attach(t, m, "client")

	if _, err := c.CreateNetwork(ctx, &networkv1.CreateNetworkRequest{Name: "back", Pool: "10.96.0.0/24", Labels: map[string]string{"a": "b"}}); err != nil {
		t.Fatal(err)
	}
	_, err := c.CreateNetwork(ctx, &networkv1.CreateNetworkRequest{Name: "x", Pool: "what"})
	if err := rpc.FromStatus(err); fault.KindOf(err) != fault.Invalid || fault.HintOf(err) == "" {
		t.Errorf("bad pool: %v", err)
	}
	list, err := c.ListNetworks(ctx, &networkv1.ListNetworksRequest{})
	if err != nil || len(list.GetNetworks()) != 2 || list.GetNetworks()[0].GetName() != "back" || list.GetNetworks()[1].GetEndpoints() != 2 {
		t.Errorf("networks: %v %v", list, err)
	}
	applied, err := c.ApplySegment(ctx, &networkv1.ApplySegmentRequest{File: "s.yaml", Content: []byte(segments)})
	if err != nil || len(applied.GetSegments()) != 1 || applied.GetSegments()[0].GetEntries() != 1 || applied.GetSegments()[0].GetSource() != "s.yaml:1" {
		t.Errorf("apply: %v %v", applied, err)
	}
	_, err = c.ApplySegment(ctx, &networkv1.ApplySegmentRequest{File: "s.yaml", Content: []byte("kind: What")})
	if fault.KindOf(rpc.FromStatus(err)) != fault.Invalid {
		t.Errorf("bad segment: %v", err)
	}
	i, err := c.InspectNetwork(ctx, &networkv1.InspectNetworkRequest{Name: "default"})
	if err != nil || len(i.GetEndpoints()) != 2 || len(i.GetSegments()) != 1 || i.GetEndpoints()[0].GetAddress() != "10.97.0.2/32" {
		t.Errorf("inspect: %v %v", i, err)
	}
	if _, err := c.ListEndpoints(ctx, &networkv1.ListEndpointsRequest{Network: "nowhere"}); fault.KindOf(rpc.FromStatus(err)) != fault.NotFound {
		t.Errorf("endpoints of nowhere: %v", err)
	}

	watch, err := c.WatchFlows(ctx, &networkv1.WatchFlowsRequest{DeniedOnly: true, Workload: "web"})
	if err != nil {
		t.Fatal(err)
	}
	refuse(t, client)
	w, err := watch.Recv()
	if err != nil || w.GetFlow().GetFrom() != "client" || w.GetFlow().GetPort() != 9 || w.GetFlow().GetVerdict() != networkv1.Verdict_VERDICT_DENIED {
		t.Errorf("watch: %v %v", w, err)
	}
	flows, err := c.ListFlows(ctx, &networkv1.ListFlowsRequest{Workload: "client"})
	if err != nil || len(flows.GetFlows()) != 1 || flows.GetFlows()[0].GetRule() != "default-deny" {
		t.Errorf("flows: %v %v", flows, err)
	}

	if _, err := c.RemoveSegment(ctx, &networkv1.RemoveSegmentRequest{Name: "web-from-client"}); err != nil {
		t.Fatal(err)
	}
	if _, err := c.RemoveSegment(ctx, &networkv1.RemoveSegmentRequest{Name: "web-from-client"}); fault.KindOf(rpc.FromStatus(err)) != fault.NotFound {
		t.Errorf("remove twice: %v", err)
	}
	if s, err := c.ListSegments(ctx, &networkv1.ListSegmentsRequest{}); err != nil || len(s.GetSegments()) != 0 {
		t.Errorf("segments: %v %v", s, err)
	}
	if _, err := c.RemoveNetwork(ctx, &networkv1.RemoveNetworkRequest{Name: "back"}); err != nil {
		t.Fatal(err)
	}
}

// refuse sends to web's port 9 until the watch can have seen it: the stream may
// begin after the first packet.
func refuse(t *testing.T, from *nettest.Namespace) {
	t.Helper()
	from.Do(func() {
		d, err := net.Dial("udp4", "10.97.0.2:9")
		if err != nil {
			t.Error(err)
			return
		}
		defer d.Close()
		for range 3 {
			_, _ = d.Write([]byte("x"))
			<-time.After(600 * time.Millisecond)
		}
	})
}
