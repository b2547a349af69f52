package server

import (
	"context"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	runtimev1 "tero.internal/api/runtime/v1"
	"tero.internal/common/fault"
	"tero.internal/runtime/insight"
	"tero.internal/runtime/state"
)

// The times between samples.
const (
	defaultInterval = time.Second
	minInterval     = 100 * time.Millisecond
)

// Stats streams what a running container uses until it has exited.
func (r *Runtime) Stats(req *runtimev1.StatsRequest, stream grpc.ServerStreamingServer[runtimev1.StatsResponse]) error {
	interval := defaultInterval
	if d := req.GetInterval(); d != nil {
		interval = d.AsDuration()
	}
	if interval < minInterval {
		return fault.New(fault.Invalid, "an interval of %v is under the least, %v", interval, minInterval)
	}
	c, err := r.supervisor.Running(req.GetContainer())
	if err != nil {
		return err
	}
	ctx := stream.Context()
	sampler, err := r.inspector.Sampler(ctx, c.ID)
	if err != nil {
		return err
	}
	defer sampler.Close()
	before, err := sampler.Sample()
	if err != nil {
		return err
	}
	ticker := time.NewTicker(interval)
	defer ticker.Stop()
	for sent := false; !sent || !req.GetOnce(); sent = true {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-r.supervisor.Exited(c.ID):
			return nil
		case <-ticker.C:
		}
		now, err := sampler.Sample()
		if fault.KindOf(err) == fault.Conflict {
			return nil // it has ended, as streams about it do
		}
		if err != nil {
			return err
		}
		if err := stream.Send(statsToProto(&c, &before, &now)); err != nil {
			return err
		}
		before = now
	}
	return nil
}

func statsToProto(c *state.Container, before, now *insight.Sample) *runtimev1.StatsResponse {
	s := &runtimev1.StatsResponse{
		Id: string(c.ID), Name: c.Spec.Name, Time: timestamppb.New(now.At),
		CpuNs: uint64(now.CPU), CpuThrottledNs: uint64(now.Throttled), //nolint:gosec // counters
		MemoryBytes: now.Memory, MemoryPeakBytes: now.MemoryPeak, MemoryLimitBytes: now.MemoryLimit,
		Pids: now.Pids, PidsLimit: now.PidsLimit,
		NetworkReceivedBytes: now.Received, NetworkSentBytes: now.Sent,
		NetworkReceivedPackets: now.ReceivedPackets, NetworkSentPackets: now.SentPackets,
	}
	if took := now.At.Sub(before.At); took > 0 {
		s.CpuPercent = 100 * float64(now.CPU-before.CPU) / float64(took)
	}
	if now.IO {
		s.IoReadBytes, s.IoWriteBytes = &now.Read, &now.Written
	}
	return s
}

// Top lists the processes in a running container.
func (r *Runtime) Top(ctx context.Context, req *runtimev1.TopRequest) (*runtimev1.TopResponse, error) {
	c, err := r.supervisor.Running(req.GetContainer())
	if err != nil {
		return nil, err
	}
	list, err := r.inspector.Processes(ctx, c.ID)
	if err != nil {
		return nil, err
	}
	booted, err := bootTime()
	if err != nil {
		return nil, err
	}
	resp := &runtimev1.TopResponse{}
	for _, p := range list {
		resp.Processes = append(resp.Processes, &runtimev1.Process{
			Pid: int32(p.PID), ParentPid: int32(p.ParentPID), HostPid: int32(p.HostPID), User: p.User, //nolint:gosec // pids are below 2^22
			State: p.State, Threads: int32(p.Threads), RssBytes: p.RSS, CpuTime: durationpb.New(p.CPU), //nolint:gosec // as above
			Started: timestamppb.New(booted.Add(p.Started)), Name: valid(p.Name), Args: validAll(p.Args),
		})
	}
	return resp, nil
}
