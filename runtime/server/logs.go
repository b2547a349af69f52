package server

import (
	"context"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/timestamppb"

	runtimev1 "tero.internal/api/runtime/v1"
	"tero.internal/common/fault"
	"tero.internal/common/workload"
	"tero.internal/runtime/internal/crilog"
)

// Logs streams a container's output.
func (r *Runtime) Logs(req *runtimev1.LogsRequest, stream grpc.ServerStreamingServer[runtimev1.LogsResponse]) error {
	if req.GetTail() < 0 {
		return fault.New(fault.Invalid, "a tail of %d lines makes no sense", req.GetTail())
	}
	c, err := r.supervisor.Find(req.GetContainer())
	if err != nil {
		return err
	}
	release := r.supervisor.Hold(c.ID)
	defer release()
	o := crilog.Options{Tail: req.GetTail()}
	if req.GetFollow() {
		o.Until = r.supervisor.Exited(c.ID)
	}
	if t := req.GetSince(); t != nil {
		o.Since = t.AsTime()
	}
	if t := req.GetUntil(); t != nil {
		o.Before = t.AsTime()
	}
	for record, err := range crilog.Read(stream.Context(), r.sandboxes.LogPath(c.ID), o) {
		if err != nil {
			return err
		}
		if err := stream.Send(&runtimev1.LogsResponse{
			Time: timestamppb.New(record.At), Output: &runtimev1.Output{Stream: outputStream(record.Stream), Data: record.Output},
			Dropped: record.Dropped,
		}); err != nil {
			return err
		}
	}
	return nil
}

func outputStream(s crilog.Stream) runtimev1.Output_Stream {
	if s == crilog.Stderr {
		return runtimev1.Output_STREAM_STDERR
	}
	return runtimev1.Output_STREAM_STDOUT
}

// sendOutput sends what the container writes until it has exited. It holds the
// log: the container waits rather than lose what this caller has not taken.
func (r *Runtime) sendOutput(ctx context.Context, id workload.ID, o crilog.Options, send func(*runtimev1.AttachResponse) error) error {
	o.Until, o.Keep = r.supervisor.Exited(id), true
	b := batch{send: send}
	for record, err := range crilog.Read(ctx, r.sandboxes.LogPath(id), o) {
		if err != nil {
			return err
		}
		if err := b.add(&record); err != nil {
			return err
		}
	}
	return b.flush()
}

// batch puts the records of one stream that are there at once into one message:
// a message a line would make short lines slow.
type batch struct {
	send   func(*runtimev1.AttachResponse) error
	stream crilog.Stream
	data   []byte
}

// batchSize is about the largest message.
const batchSize = 64 << 10

func (b *batch) add(r *crilog.Record) error {
	if r.Dropped {
		if err := b.flush(); err != nil {
			return err
		}
		if err := b.send(&runtimev1.AttachResponse{Response: &runtimev1.AttachResponse_Dropped{Dropped: true}}); err != nil {
			return err
		}
	}
	if r.Stream != b.stream || len(b.data)+len(r.Output) > batchSize {
		if err := b.flush(); err != nil {
			return err
		}
	}
	b.stream, b.data = r.Stream, append(b.data, r.Output...)
	if r.Last {
		return b.flush()
	}
	return nil
}

func (b *batch) flush() error {
	if len(b.data) == 0 {
		return nil
	}
	err := b.send(&runtimev1.AttachResponse{Response: &runtimev1.AttachResponse_Output{
		Output: &runtimev1.Output{Stream: outputStream(b.stream), Data: b.data},
	}})
	b.data = b.data[:0]
	return err
}
