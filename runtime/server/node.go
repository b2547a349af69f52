package server

import (
	"context"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/timestamppb"

	nodev1 "tero.internal/api/node/v1"
	"tero.internal/common/eventbus"
)

// Node serves api/node/v1.
type Node struct {
	nodev1.UnsafeNodeServiceServer // so that a method that is missing does not compile
	// Describe tells what the node is and how it is now.
	Describe func(ctx context.Context) (*nodev1.StatusResponse, error)
	// End removes every container and what TERO made in the kernel, gives the
	// containers' names, and lets the node end once the reply is out.
	End func(ctx context.Context) ([]string, error)
	Bus *eventbus.Bus
}

// Status tells what the node is.
func (n *Node) Status(ctx context.Context, _ *nodev1.StatusRequest) (*nodev1.StatusResponse, error) {
	return n.Describe(ctx)
}

// Down ends the node.
func (n *Node) Down(ctx context.Context, _ *nodev1.DownRequest) (*nodev1.DownResponse, error) {
	names, err := n.End(ctx)
	if err != nil {
		return nil, err
	}
	return &nodev1.DownResponse{Containers: names}, nil
}

// WatchEvents streams events until the caller goes away.
func (n *Node) WatchEvents(_ *nodev1.WatchEventsRequest, stream grpc.ServerStreamingServer[nodev1.WatchEventsResponse]) error {
	ctx := stream.Context()
	sub := n.Bus.Subscribe()
	defer sub.Close()
	// The header tells the caller that it misses nothing from now on.
	if err := stream.SendHeader(nil); err != nil {
		return err
	}
	for {
		e, missed, err := sub.Next(ctx)
		if err != nil {
			return err
		}
		if err := stream.Send(&nodev1.WatchEventsResponse{
			Time: timestamppb.New(e.Time), Type: e.Type, Container: string(e.Container), Name: e.Name,
			Message: e.Message, Attributes: e.Attributes, Missed: int64(missed),
		}); err != nil {
			return err
		}
	}
}
