package server

import (
	"errors"
	"io"

	"google.golang.org/grpc"

	runtimev1 "tero.internal/api/runtime/v1"
	"tero.internal/common/fault"
	"tero.internal/common/filetree"
	"tero.internal/runtime/state"
)

// copyable gives a running container; of one that has exited no file is left.
func (r *Runtime) copyable(key string) (state.Container, error) {
	c, err := r.supervisor.Running(key)
	if fault.KindOf(err) == fault.Conflict && c.Phase == state.Exited {
		return c, fault.New(fault.Conflict, "container %q has exited, and its file system with it", c.Spec.Name).
			WithHint("copy while it runs; let it write what shall stay to a volume; \"tero logs %s\" has its output", c.Spec.Name)
	}
	return c, err
}

// CopyFrom streams files of a container.
func (r *Runtime) CopyFrom(req *runtimev1.CopyFromRequest, stream grpc.ServerStreamingServer[runtimev1.CopyFromResponse]) error {
	c, err := r.copyable(req.GetContainer())
	if err != nil {
		return err
	}
	if req.GetPath() == "" {
		return fault.New(fault.Invalid, "the request names no path")
	}
	copying, err := r.copier.Out(stream.Context(), c.ID, req.GetPath(), req.GetFollowLink())
	if err != nil {
		return err
	}
	s := copying.Source
	err = stream.Send(&runtimev1.CopyFromResponse{Response: &runtimev1.CopyFromResponse_Source{
		Source: &runtimev1.CopySource{Name: valid(s.Name), Directory: s.Directory, Contents: s.Contents, SizeBytes: s.Size},
	}})
	buf := make([]byte, copyPiece)
	for err == nil {
		var n int
		n, err = io.ReadFull(copying.Archive, buf)
		if n > 0 {
			if sendErr := stream.Send(&runtimev1.CopyFromResponse{Response: &runtimev1.CopyFromResponse_Data{Data: buf[:n]}}); sendErr != nil {
				err = sendErr
			}
		}
	}
	if !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
		copying.Cancel()
		return err
	}
	summary, err := copying.Wait()
	if err != nil {
		return err
	}
	return stream.Send(&runtimev1.CopyFromResponse{Response: &runtimev1.CopyFromResponse_Done{Done: summaryToProto(summary)}})
}

// copyPiece is how much of an archive is in a message.
const copyPiece = 256 << 10

func summaryToProto(s filetree.Summary) *runtimev1.CopySummary {
	return &runtimev1.CopySummary{Entries: s.Entries, Bytes: s.Bytes, Skipped: s.Skipped}
}

// CopyTo writes files into a container.
func (r *Runtime) CopyTo(stream grpc.ClientStreamingServer[runtimev1.CopyToRequest, runtimev1.CopyToResponse]) error {
	first, err := stream.Recv()
	if err != nil {
		return err
	}
	start := first.GetStart()
	if start.GetPath() == "" {
		return fault.New(fault.Invalid, "the first message of a copy names no path")
	}
	c, err := r.copyable(start.GetContainer())
	if err != nil {
		return err
	}
	var source *filetree.Source
	if s := start.GetSource(); s != nil {
		source = &filetree.Source{Name: s.GetName(), Directory: s.GetDirectory(), Contents: s.GetContents(), Size: s.GetSizeBytes()}
		if !source.Valid() {
			return fault.New(fault.Invalid, "%q is no name of a file", source.Name)
		}
	}
	summary, err := r.copier.In(stream.Context(), c.ID, start.GetPath(), source, start.GetOwners(), &received{stream: stream})
	if err != nil {
		return err
	}
	return stream.SendAndClose(&runtimev1.CopyToResponse{Summary: summaryToProto(summary)})
}

// received is the archive that a caller sends.
type received struct {
	stream grpc.ClientStreamingServer[runtimev1.CopyToRequest, runtimev1.CopyToResponse]
	rest   []byte
}

// Read gives what came; io.EOF at the caller's end.
func (r *received) Read(b []byte) (int, error) {
	for len(r.rest) == 0 {
		m, err := r.stream.Recv()
		if err != nil {
			return 0, err
		}
		r.rest = m.GetData()
	}
	n := copy(b, r.rest)
	r.rest = r.rest[n:]
	return n, nil
}
