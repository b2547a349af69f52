// Package server answers the requests of api/network/v1 from a manager. Who may
// ask is decided before, by the guard of the gRPC server.
package server

import (
	"context"
	"net/netip"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/timestamppb"

	networkv1 "tero.internal/api/network/v1"
	"tero.internal/common/fault"
	"tero.internal/network-manager/flow"
	"tero.internal/network-manager/network"
	"tero.internal/network-manager/segment"
)

// Server implements networkv1.NetworkServiceServer.
type Server struct {
	networkv1.UnsafeNetworkServiceServer // so that a method that is missing does not compile
	manager                              *network.Manager
}

// New gives a server for a manager.
func New(m *network.Manager) *Server { return &Server{manager: m} }

// Register makes s part of a gRPC server.
func (s *Server) Register(g grpc.ServiceRegistrar) { networkv1.RegisterNetworkServiceServer(g, s) }

// ListNetworks gives all networks.
func (s *Server) ListNetworks(context.Context, *networkv1.ListNetworksRequest) (*networkv1.ListNetworksResponse, error) {
	out := &networkv1.ListNetworksResponse{}
	for _, n := range s.manager.Networks() {
		out.Networks = append(out.Networks, networkMessage(n))
	}
	return out, nil
}

// CreateNetwork makes a network.
func (s *Server) CreateNetwork(ctx context.Context, r *networkv1.CreateNetworkRequest) (*networkv1.CreateNetworkResponse, error) {
	q := network.Request{
		Name: r.GetName(), Driver: r.GetDriver(), Isolation: r.GetIsolation(), MTU: int(r.GetMtu()), Labels: r.GetLabels(),
	}
	if r.GetPool() != "" {
		p, err := netip.ParsePrefix(r.GetPool())
		if err != nil {
			return nil, fault.New(fault.Invalid, "pool %q is not a prefix", r.GetPool()).WithHint("give one like 10.211.0.0/16")
		}
		q.Pool = p
	}
	n, err := s.manager.CreateNetwork(ctx, q)
	if err != nil {
		return nil, err
	}
	return &networkv1.CreateNetworkResponse{Network: networkMessage(n)}, nil
}

// RemoveNetwork removes a network.
func (s *Server) RemoveNetwork(ctx context.Context, r *networkv1.RemoveNetworkRequest) (*networkv1.RemoveNetworkResponse, error) {
	if err := s.manager.RemoveNetwork(ctx, r.GetName()); err != nil {
		return nil, err
	}
	return &networkv1.RemoveNetworkResponse{}, nil
}

// InspectNetwork gives one network with what is on it.
func (s *Server) InspectNetwork(_ context.Context, r *networkv1.InspectNetworkRequest) (*networkv1.InspectNetworkResponse, error) {
	n, err := s.manager.Network(r.GetName())
	if err != nil {
		return nil, err
	}
	return &networkv1.InspectNetworkResponse{
		Network: networkMessage(n), Endpoints: s.endpoints(n.Name), Segments: segmentMessages(s.manager.Segments(n.Name)),
	}, nil
}

// ListEndpoints gives the attached interfaces.
func (s *Server) ListEndpoints(_ context.Context, r *networkv1.ListEndpointsRequest) (*networkv1.ListEndpointsResponse, error) {
	if r.GetNetwork() != "" {
		if _, err := s.manager.Network(r.GetNetwork()); err != nil {
			return nil, err
		}
	}
	return &networkv1.ListEndpointsResponse{Endpoints: s.endpoints(r.GetNetwork())}, nil
}

// ApplySegment puts the segments of a file in force.
func (s *Server) ApplySegment(ctx context.Context, r *networkv1.ApplySegmentRequest) (*networkv1.ApplySegmentResponse, error) {
	applied, err := s.manager.ApplySegments(ctx, r.GetFile(), r.GetContent())
	if err != nil {
		return nil, err
	}
	return &networkv1.ApplySegmentResponse{Segments: segmentMessages(applied)}, nil
}

// ListSegments gives the segments in force.
func (s *Server) ListSegments(_ context.Context, r *networkv1.ListSegmentsRequest) (*networkv1.ListSegmentsResponse, error) {
	return &networkv1.ListSegmentsResponse{Segments: segmentMessages(s.manager.Segments(r.GetNetwork()))}, nil
}

// RemoveSegment ends what a segment allows.
func (s *Server) RemoveSegment(ctx context.Context, r *networkv1.RemoveSegmentRequest) (*networkv1.RemoveSegmentResponse, error) {
	if err := s.manager.RemoveSegment(ctx, r.GetName()); err != nil {
		return nil, err
	}
	return &networkv1.RemoveSegmentResponse{}, nil
}

// ListFlows gives the newest flows, oldest first.
func (s *Server) ListFlows(_ context.Context, r *networkv1.ListFlowsRequest) (*networkv1.ListFlowsResponse, error) {
	limit := int(r.GetLimit())
	if limit <= 0 {
		limit = 100
	}
	out := &networkv1.ListFlowsResponse{}
	for _, f := range s.manager.Flows(limit, matcher(r.GetDeniedOnly(), r.GetWorkload())) {
		out.Flows = append(out.Flows, flowMessage(f))
	}
	return out, nil
}

// WatchFlows gives flows as they are seen.
func (s *Server) WatchFlows(r *networkv1.WatchFlowsRequest, stream grpc.ServerStreamingServer[networkv1.WatchFlowsResponse]) error {
	w := s.manager.WatchFlows(int(r.GetRecent()), matcher(r.GetDeniedOnly(), r.GetWorkload()))
	defer w.Close()
	for {
		f, missed, err := w.Next(stream.Context())
		if err != nil {
			return err
		}
		if err := stream.Send(&networkv1.WatchFlowsResponse{Flow: flowMessage(f), Missed: missed}); err != nil {
			return err
		}
	}
}

func matcher(deniedOnly bool, workload string) func(*flow.Flow) bool {
	return func(f *flow.Flow) bool {
		return (!deniedOnly || !f.Allowed) && (workload == "" || f.From == workload || f.To == workload)
	}
}

func (s *Server) endpoints(network string) []*networkv1.Endpoint {
	var out []*networkv1.Endpoint
	for _, e := range s.manager.Endpoints(network) {
		out = append(out, &networkv1.Endpoint{
			Container: string(e.Container), Name: e.Name, SpiffeId: e.SPIFFEID, Network: e.Network, Interface: e.Interface,
			HostInterface: e.HostInterface, Mac: e.MAC, Address: netip.PrefixFrom(e.Address, e.Address.BitLen()).String(),
			Labels: e.Labels, Mark: e.Mark, Attached: timestamppb.New(e.Attached),
		})
	}
	return out
}

func networkMessage(n network.Info) *networkv1.Network {
	return &networkv1.Network{
		Name: n.Name, Driver: n.Driver, Isolation: n.Isolation, Pool: n.Pool.String(), Gateway: n.Gateway.String(),
		Mtu: int32(n.MTU), Labels: n.Labels, Created: timestamppb.New(n.Created), //nolint:gosec // an MTU is small
		Endpoints: int32(n.Endpoints), Leases: int32(n.Leases), //nolint:gosec // bounded by the pool
	}
}

func segmentMessages(list []network.SegmentInfo) []*networkv1.Segment {
	var out []*networkv1.Segment
	for _, s := range list {
		message := &networkv1.Segment{
			Name: s.Name, Network: s.Network, To: peerMessage(s.To), Source: s.Source, Entries: int32(s.Entries), //nolint:gosec // bounded by memory
		}
		for _, f := range s.From {
			message.From = append(message.From, peerMessage(f))
		}
		for _, p := range s.Ports {
			message.Ports = append(message.Ports, &networkv1.Port{Protocol: p.Protocol, Port: uint32(p.Port)})
		}
		out = append(out, message)
	}
	return out
}

func peerMessage(s segment.Selector) *networkv1.Peer {
	return &networkv1.Peer{Workload: s.Workload, Labels: s.Labels}
}

func flowMessage(f flow.Flow) *networkv1.Flow {
	v := networkv1.Verdict_VERDICT_DENIED
	if f.Allowed {
		v = networkv1.Verdict_VERDICT_ALLOWED
	}
	return &networkv1.Flow{
		Sequence: f.Sequence, First: timestamppb.New(f.First), Last: timestamppb.New(f.Last), From: f.From, To: f.To,
		FromAddress: address(f.FromAddress), ToAddress: address(f.ToAddress), Network: f.Network, Protocol: f.Protocol,
		Port: uint32(f.Port), Verdict: v, Rule: f.Rule, Reason: f.Reason, Packets: f.Packets,
		FromContainer: f.FromContainer, ToContainer: f.ToContainer, Query: f.Query,
	}
}

func address(a netip.Addr) string {
	if !a.IsValid() {
		return ""
	}
	return a.String()
}
