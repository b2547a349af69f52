package client

import (
	"context"
	"errors"
	"io"

	"google.golang.org/grpc"
)

// unary turns the statuses of simple calls into faults.
func (w *where) unary(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
	return w.fault(invoke(ctx, method, req, reply, cc, opts...))
}

// stream does the same for each step of a stream.
func (w *where) stream(ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, method string, open grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
	s, err := open(ctx, desc, cc, method, opts...)
	if err != nil {
		return nil, w.fault(err)
	}
	return &faultStream{ClientStream: s, where: w}, nil
}

type faultStream struct {
	grpc.ClientStream
	where *where
}

// RecvMsg receives; io.EOF is the stream's proper end.
func (s *faultStream) RecvMsg(m any) error { return s.translate(s.ClientStream.RecvMsg(m)) }

// SendMsg sends; io.EOF says that the server ended the stream, and RecvMsg why.
func (s *faultStream) SendMsg(m any) error { return s.translate(s.ClientStream.SendMsg(m)) }

func (s *faultStream) translate(err error) error {
	if err == nil || errors.Is(err, io.EOF) {
		return err
	}
	return s.where.fault(err)
}
