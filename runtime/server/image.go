package server

import (
	"context"
	"errors"
	"io"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/timestamppb"

	runtimev1 "tero.internal/api/runtime/v1"
	"tero.internal/common/fault"
	"tero.internal/common/ocilayout"
	"tero.internal/common/workload"
	"tero.internal/runtime/image"
)

// Images serves the image store.
type Images struct {
	runtimev1.UnsafeImageServiceServer // so that a method that is missing does not compile
	store                              *image.Store
}

// NewImages gives the handlers of tero.runtime.v1.ImageService.
func NewImages(store *image.Store) *Images { return &Images{store: store} }

// ImportImage stores the images of an archive.
func (s *Images) ImportImage(stream grpc.ClientStreamingServer[runtimev1.ImportImageRequest, runtimev1.ImportImageResponse]) error {
	first, err := stream.Recv()
	if err != nil {
		return err
	}
	start := first.GetStart()
	if start == nil {
		return fault.New(fault.Invalid, "the first message of an import is not its start")
	}
	infos, err := s.store.Import(stream.Context(), &importReader{stream: stream}, image.ImportOptions{Reference: start.GetReference()})
	if err != nil {
		return err
	}
	resp := &runtimev1.ImportImageResponse{}
	for _, i := range infos {
		resp.Images = append(resp.Images, imageMessage(i))
	}
	return stream.SendAndClose(resp)
}

// importReader reads an archive from its messages.
type importReader struct {
	stream grpc.ClientStreamingServer[runtimev1.ImportImageRequest, runtimev1.ImportImageResponse]
	left   []byte
}

// Read reads.
func (r *importReader) Read(p []byte) (int, error) {
	for len(r.left) == 0 {
		m, err := r.stream.Recv()
		if errors.Is(err, io.EOF) {
			return 0, io.EOF
		}
		if err != nil {
			return 0, err
		}
		if m.GetStart() != nil {
			return 0, fault.New(fault.Invalid, "an import was started twice in one request")
		}
		r.left = m.GetData()
	}
	n := copy(p, r.left)
	r.left = r.left[n:]
	return n, nil
}

// ListImages lists the images by reference.
func (s *Images) ListImages(ctx context.Context, _ *runtimev1.ListImagesRequest) (*runtimev1.ListImagesResponse, error) {
	infos, err := s.store.List(ctx)
	if err != nil {
		return nil, err
	}
	resp := &runtimev1.ListImagesResponse{}
	for _, i := range infos {
		resp.Images = append(resp.Images, imageMessage(i))
	}
	return resp, nil
}

// InspectImage tells all that is known about one image.
func (s *Images) InspectImage(ctx context.Context, req *runtimev1.InspectImageRequest) (*runtimev1.InspectImageResponse, error) {
	i, err := s.store.Inspect(ctx, req.GetReference())
	if err != nil {
		return nil, err
	}
	return &runtimev1.InspectImageResponse{Image: imageMessage(i)}, nil
}

// RemoveImage removes a name, and what only it needed.
func (s *Images) RemoveImage(ctx context.Context, req *runtimev1.RemoveImageRequest) (*runtimev1.RemoveImageResponse, error) {
	r, err := s.store.Remove(ctx, req.GetReference())
	if err != nil {
		return nil, err
	}
	return &runtimev1.RemoveImageResponse{
		Reference: r.Reference, Digest: string(r.Digest), ContentRemoved: r.Content, FreedBytes: r.Freed,
	}, nil
}

// AttachSignature adds a signature that the client made.
func (s *Images) AttachSignature(ctx context.Context, req *runtimev1.AttachSignatureRequest) (*runtimev1.AttachSignatureResponse, error) {
	i, signer, err := s.store.AttachSignature(ctx, req.GetReference(), ocilayout.Signature{Payload: req.GetPayload(), Signature: req.GetSignature()})
	if err != nil {
		return nil, err
	}
	resp := &runtimev1.AttachSignatureResponse{Image: imageMessage(i)}
	if signer != nil {
		resp.Signer = signerMessage(*signer)
	}
	return resp, nil
}

func signerMessage(s workload.Signer) *runtimev1.ImageSigner {
	return &runtimev1.ImageSigner{Name: s.Name, KeyId: s.KeyID}
}

func imageMessage(i image.Info) *runtimev1.Image {
	m := &runtimev1.Image{
		Reference: i.Reference, Digest: string(i.Digest), IndexDigest: string(i.IndexDigest),
		ConfigDigest: string(i.ConfigDigest), Platform: i.Platform, SizeBytes: i.Size,
		Imported: timestamppb.New(i.Imported), Signatures: int32(i.Signatures), //nolint:gosec // at most 2 x 64
		Config: &runtimev1.ImageConfig{
			Health:     checkToProto(i.Config.Health),
			Entrypoint: i.Config.Entrypoint, Cmd: i.Config.Cmd, Env: i.Config.Env, WorkingDir: i.Config.WorkingDir,
			User: i.Config.User, StopSignal: i.Config.StopSignal, Labels: i.Config.Labels, ExposedPorts: i.Config.ExposedPorts,
		},
		UsedBy: i.UsedBy,
	}
	if !i.Created.IsZero() {
		m.Created = timestamppb.New(i.Created)
	}
	for _, s := range i.Signers {
		m.Signers = append(m.Signers, signerMessage(s))
	}
	for _, l := range i.Layers {
		m.Layers = append(m.Layers, &runtimev1.ImageLayer{
			Digest: string(l.Digest), DiffId: string(l.DiffID), SizeBytes: l.Size, MediaType: l.MediaType,
		})
	}
	return m
}
