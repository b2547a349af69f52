package server_test

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"io"
	"log/slog"
	"path/filepath"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/durationpb"

	attestationv1 "tero.internal/api/attestation/v1"
	"tero.internal/attestation/evidence"
	"tero.internal/attestation/issue"
	"tero.internal/attestation/server"
	"tero.internal/attestation/verify"
	"tero.internal/common/fault"
	"tero.internal/common/rpc"
	"tero.internal/common/spiffeid"
	"tero.internal/common/workload"
)

// serve gives a client of a server with a real log and a real authority.
func serve(t *testing.T) (attestationv1.AttestationServiceClient, *evidence.Log, *issue.Issuer) {
	t.Helper()
	ctx := context.Background()
	td, err := spiffeid.ParseTrustDomain("node1.tero")
	if err != nil {
		t.Fatal(err)
	}
	logger := slog.New(slog.DiscardHandler)
	log, err := evidence.Open(ctx, evidence.Config{
		StateDir: filepath.Join(t.TempDir(), "evidence"), NodeName: "node1", SPIFFEID: "spiffe://node1.tero/node/node1", Log: logger,
	})
	if err != nil {
		t.Fatal(err)
	}
	issuer, err := issue.Open(ctx, issue.Config{StateDir: filepath.Join(t.TempDir(), "issue"), TrustDomain: td, Log: logger})
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "s")
	l, err := rpc.ListenUnix(ctx, path, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	s := rpc.NewServer(rpc.PeerCredentials(), func(context.Context, workload.Principal, string, any) error { return nil }, logger)
	attestationv1.RegisterAttestationServiceServer(s, &server.Server{Log: log, Node: log, Issuer: issuer})
	done := make(chan error, 1)
	go func() { done <- s.Serve(l) }()
	conn, err := grpc.NewClient("unix:"+path, grpc.WithTransportCredentials(rpc.PeerCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = conn.Close()
		s.Stop()
		if err := <-done; err != nil && !errors.Is(err, grpc.ErrServerStopped) {
			t.Error(err)
		}
		_ = log.Close()
	})
	return attestationv1.NewAttestationServiceClient(conn), log, issuer
}

func measurement(name string) workload.Measurement {
	d := digest.FromString(name)
	return workload.Measurement{
		Container: workload.NewID(), Name: name, ImageRef: "localhost/" + name, Image: d, Config: d, Mounts: d, Policy: d,
		SPIFFEID: "spiffe://node1.tero/workload/" + name,
	}
}

// TestAttestAndVerify goes the way of "tero attest | tero verify", with a log
// that does not fit into one message.
func TestAttestAndVerify(t *testing.T) {
	c, log, _ := serve(t)
	const n = 1500
	done := make(chan error, n)
	for range n {
		go func() {
			_, err := log.Measure(context.Background(), measurement("web"))
			done <- err
		}()
	}
	for range n {
		if err := <-done; err != nil {
			t.Fatal(err)
		}
	}
	nonce := []byte("sixteen bytes or more")
	stream, err := c.Attest(t.Context(), &attestationv1.AttestRequest{Nonce: nonce})
	if err != nil {
		t.Fatal(err)
	}
	var whole bytes.Buffer
	chunks := 0
	for {
		r, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		whole.Write(r.GetChunk())
		chunks++
	}
	if chunks < 2 {
		t.Errorf("the evidence came in %d piece", chunks)
	}
	e, err := c.GetEnrolment(t.Context(), &attestationv1.GetEnrolmentRequest{TakeWitnessKey: true})
	if err != nil {
		t.Fatal(err)
	}
	enrolment, err := verify.ParseEnrolment(e.GetEnrolment())
	if err != nil {
		t.Fatal(err)
	}
	r, err := verify.Verify(whole.Bytes(), verify.Trust{Enrolment: enrolment, WitnessKey: e.GetWitnessKey()}, nonce)
	if err != nil || len(r.Launches) != n || !r.Witnessed {
		t.Errorf("result %+v, %v", r, err)
	}
	_, err = c.GetEnrolment(t.Context(), &attestationv1.GetEnrolmentRequest{TakeWitnessKey: true})
	if got := fault.KindOf(rpc.FromStatus(err)); got != fault.NotFound {
		t.Errorf("witness key twice: %v", err)
	}
	stream, err = c.Attest(t.Context(), &attestationv1.AttestRequest{Nonce: []byte("short")})
	if err == nil {
		_, err = stream.Recv()
	}
	if got := fault.KindOf(rpc.FromStatus(err)); got != fault.Invalid {
		t.Errorf("short nonce: %v", err)
	}
}

func TestListRecords(t *testing.T) {
	c, log, _ := serve(t)
	for _, n := range []string{"a", "b", "c"} {
		if _, err := log.Measure(t.Context(), measurement(n)); err != nil {
			t.Fatal(err)
		}
	}
	r, err := c.ListRecords(t.Context(), &attestationv1.ListRecordsRequest{From: 1, Limit: 2})
	if err != nil || r.GetSize() != 4 || r.GetState() != "clean" || len(r.GetRecords()) != 2 {
		t.Fatalf("%v, %v", r, err)
	}
	got := r.GetRecords()[1]
	if got.GetSequence() != 2 || got.GetKind() != "launch" || got.GetName() != "b" || got.GetImage() != digest.FromString("b").String() ||
		digest.FromString(got.GetEvent()).String() != got.GetDigest() || time.Since(got.GetTime().AsTime()) > time.Minute {
		t.Errorf("record %v", got)
	}
	if r, err := c.ListRecords(t.Context(), &attestationv1.ListRecordsRequest{From: 99}); err != nil || len(r.GetRecords()) != 0 {
		t.Errorf("beyond the end: %v, %v", r, err)
	}
	for _, limit := range []int32{-1, 1001} {
		_, err := c.ListRecords(t.Context(), &attestationv1.ListRecordsRequest{Limit: limit})
		if got := fault.KindOf(rpc.FromStatus(err)); got != fault.Invalid {
			t.Errorf("limit %d: %v", limit, err)
		}
	}
}

func TestIdentities(t *testing.T) {
	c, _, issuer := serve(t)
	id := workload.NewID()
	if _, err := issuer.Enrol(t.Context(), id, "spiffe://node1.tero/workload/web", workload.Evidence{Sequence: 3, Record: digest.FromString("r")}); err != nil {
		t.Fatal(err)
	}
	r, err := c.ListIdentities(t.Context(), &attestationv1.ListIdentitiesRequest{})
	if err != nil || r.GetTrustDomain() != "node1.tero" || len(r.GetIdentities()) != 1 {
		t.Fatalf("%v, %v", r, err)
	}
	if i := r.GetIdentities()[0]; i.GetContainer() != string(id) || i.GetSequence() != 3 || i.GetLevel() != "L0" || i.GetRecord() != digest.FromString("r").String() {
		t.Errorf("identity %v", i)
	}
	u, err := c.IssueUserCertificate(t.Context(), &attestationv1.IssueUserCertificateRequest{Name: "alice", Ttl: durationpb.New(time.Hour)})
	if err != nil || u.GetSpiffeId() != "spiffe://node1.tero/user/alice" || time.Until(u.GetExpires().AsTime()) > time.Hour || len(u.GetKey()) == 0 {
		t.Errorf("%v, %v", u, err)
	}
	_, err = c.IssueUserCertificate(t.Context(), &attestationv1.IssueUserCertificateRequest{Name: "alice", Csr: []byte("x")})
	if got := fault.KindOf(rpc.FromStatus(err)); got != fault.Invalid {
		t.Errorf("bad request %s: %v", hex.EncodeToString([]byte("x")), err)
	}
}
