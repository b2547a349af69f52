// Package server answers the calls of api/attestation: it hands out evidence,
// records and identities. Who may call is decided before, by the guard of the
// gRPC server.
package server

import (
	"context"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/timestamppb"

	attestationv1 "tero.internal/api/attestation/v1"
	"tero.internal/attestation/bundle"
	"tero.internal/attestation/issue"
	"tero.internal/attestation/record"
	"tero.internal/common/fault"
)

// chunkSize is the size of a piece of evidence.
const chunkSize = 1 << 20

// The sizes of a page of records.
const (
	defaultPage = 100
	maxPage     = 1000
)

// Log is the launch log, as evidence.Log is one.
type Log interface {
	// Attest gives evidence of the whole log.
	Attest(ctx context.Context, nonce []byte) ([]byte, error)
	// Records gives up to limit records from number from on.
	Records(ctx context.Context, from uint64, limit int) ([]record.Entry, error)
	// State gives the log's size, and why nothing is recorded any more.
	State() (size uint64, diverged string)
}

// Node gives the node's keys, as evidence.Log does.
type Node interface {
	// Enrolment gives the public material.
	Enrolment(ctx context.Context) (*bundle.Enrolment, error)
	// TakeWitnessKey gives the first key of the ratchet, once.
	TakeWitnessKey(ctx context.Context) ([]byte, error)
}

// Issuer is the authority, as issue.Issuer is one.
type Issuer interface {
	// List gives the enrolled identities.
	List() []issue.Enrolled
	// TrustDomain gives the trust domain's name.
	TrustDomain() string
	// IssueUser mints a client certificate.
	IssueUser(ctx context.Context, name string, csr []byte, ttl time.Duration) (*issue.UserCertificate, error)
}

// Server answers AttestationService. All fields must be set.
type Server struct {
	attestationv1.UnsafeAttestationServiceServer // so that a method that is missing does not compile

	Log    Log
	Node   Node
	Issuer Issuer
}

// Attest sends fresh evidence in pieces.
func (s *Server) Attest(r *attestationv1.AttestRequest, stream grpc.ServerStreamingServer[attestationv1.AttestResponse]) error {
	b, err := s.Log.Attest(stream.Context(), r.GetNonce())
	if err != nil {
		return err
	}
	for len(b) > 0 {
		n := min(len(b), chunkSize)
		if err := stream.Send(&attestationv1.AttestResponse{Chunk: b[:n]}); err != nil {
			return err
		}
		b = b[n:]
	}
	return nil
}

// GetEnrolment gives the node's public material, and its witness key when asked.
func (s *Server) GetEnrolment(ctx context.Context, r *attestationv1.GetEnrolmentRequest) (*attestationv1.GetEnrolmentResponse, error) {
	e, err := s.Node.Enrolment(ctx)
	if err != nil {
		return nil, err
	}
	var out attestationv1.GetEnrolmentResponse
	if out.Enrolment, err = e.Encode(); err != nil {
		return nil, err
	}
	if r.GetTakeWitnessKey() {
		if out.WitnessKey, err = s.Node.TakeWitnessKey(ctx); err != nil {
			return nil, err
		}
	}
	return &out, nil
}

// ListRecords gives a page of the launch log.
func (s *Server) ListRecords(ctx context.Context, r *attestationv1.ListRecordsRequest) (*attestationv1.ListRecordsResponse, error) {
	limit := int(r.GetLimit())
	switch {
	case limit < 0 || limit > maxPage:
		return nil, fault.New(fault.Invalid, "a page of %d records is not 1 to %d", limit, maxPage)
	case limit == 0:
		limit = defaultPage
	}
	size, diverged := s.Log.State()
	entries, err := s.Log.Records(ctx, r.GetFrom(), limit)
	if err != nil {
		return nil, err
	}
	out := &attestationv1.ListRecordsResponse{Size: size, State: "clean"}
	if diverged != "" {
		out.State = "diverged: " + diverged
	}
	for i := range entries {
		out.Records = append(out.Records, message(&entries[i]))
	}
	return out, nil
}

// message gives the API's form of a record.
func message(e *record.Entry) *attestationv1.Record {
	m := &attestationv1.Record{
		Sequence: e.Sequence, Kind: string(e.Kind), Boot: e.Boot, Time: timestamppb.New(e.Time),
		Digest: e.Digests.SHA256.Digest().String(), Event: string(e.Event), Policy: e.Policy.String(),
	}
	if e.Kind == record.Launch {
		l := e.Launch
		m.Container, m.Name, m.ImageRef, m.SpiffeId = string(l.Container), l.Name, l.ImageRef, l.SPIFFEID
		m.Image, m.Config, m.Mounts, m.Policy = l.Image.String(), l.Config.String(), l.Mounts.String(), l.Policy.String()
	}
	return m
}

// ListIdentities gives the identities that are enrolled now.
func (s *Server) ListIdentities(context.Context, *attestationv1.ListIdentitiesRequest) (*attestationv1.ListIdentitiesResponse, error) {
	out := &attestationv1.ListIdentitiesResponse{TrustDomain: s.Issuer.TrustDomain()}
	for _, e := range s.Issuer.List() {
		out.Identities = append(out.Identities, &attestationv1.Identity{
			SpiffeId: e.Identity.SPIFFEID, Container: string(e.Container), Record: e.Identity.Record.String(),
			Sequence: e.Evidence.Sequence, Level: e.Evidence.Level.String(), Enrolled: timestamppb.New(e.Identity.Enrolled),
		})
	}
	return out, nil
}

// IssueUserCertificate mints a client certificate.
func (s *Server) IssueUserCertificate(ctx context.Context, r *attestationv1.IssueUserCertificateRequest) (*attestationv1.IssueUserCertificateResponse, error) {
	var ttl time.Duration
	if r.GetTtl() != nil {
		if err := r.GetTtl().CheckValid(); err != nil {
			return nil, fault.New(fault.Invalid, "ttl: %w", err)
		}
		ttl = r.GetTtl().AsDuration()
	}
	u, err := s.Issuer.IssueUser(ctx, r.GetName(), r.GetCsr(), ttl)
	if err != nil {
		return nil, err
	}
	return &attestationv1.IssueUserCertificateResponse{
		Certificate: u.Certificate, Key: u.Key, Ca: u.CA, SpiffeId: u.SPIFFEID, Expires: timestamppb.New(u.Expires),
	}, nil
}
