package server_test

import (
	"bytes"
	"context"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/grpc"

	runtimev1 "tero.internal/api/runtime/v1"
	"tero.internal/common/fault"
	"tero.internal/common/ocilayout"
	"tero.internal/common/rpc"
	"tero.internal/common/workload"
	"tero.internal/runtime/image"
	"tero.internal/runtime/server"
)

// serveImages serves a new store on a unix socket, as the daemon does.
func serveImages(t *testing.T, trust string) runtimev1.ImageServiceClient {
	t.Helper()
	log := slog.New(slog.DiscardHandler)
	store, err := image.Open(t.Context(), image.Config{Root: filepath.Join(t.TempDir(), "images"), TrustDir: trust, Log: log})
	if err != nil {
		t.Fatal(err)
	}
	allow := func(context.Context, workload.Principal, string, any) error { return nil }
	srv := rpc.NewServer(rpc.PeerCredentials(), allow, log)
	runtimev1.RegisterImageServiceServer(srv, server.NewImages(store))
	path := filepath.Join(t.TempDir(), "s")
	l, err := rpc.ListenUnix(t.Context(), path, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- srv.Serve(l) }()
	conn, err := grpc.NewClient("unix:"+path, grpc.WithTransportCredentials(rpc.PeerCredentials()), grpc.WithContextDialer(
		func(ctx context.Context, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", path)
		}))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = conn.Close()
		srv.Stop()
		if err := <-served; err != nil {
			t.Error(err)
		}
		if err := store.Close(); err != nil {
			t.Error(err)
		}
	})
	return runtimev1.NewImageServiceClient(conn)
}

// importLayout sends a layout in small pieces.
func importLayout(t *testing.T, c runtimev1.ImageServiceClient, l *ocilayout.Layout, cut int) (*runtimev1.ImportImageResponse, error) {
	t.Helper()
	var b bytes.Buffer
	if err := l.WriteTar(t.Context(), &b); err != nil {
		t.Fatal(err)
	}
	stream, err := c.ImportImage(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.Send(&runtimev1.ImportImageRequest{Request: &runtimev1.ImportImageRequest_Start{Start: &runtimev1.ImportImageStart{}}}); err != nil {
		t.Fatal(err)
	}
	b.Truncate(b.Len() - cut)
	for piece := b.Next(1000); len(piece) > 0; piece = b.Next(1000) {
		if stream.Send(&runtimev1.ImportImageRequest{Request: &runtimev1.ImportImageRequest_Data{Data: piece}}) != nil {
			break // the answer tells why
		}
	}
	return stream.CloseAndRecv()
}

func TestImages(t *testing.T) {
	source, dir, trust := t.TempDir(), filepath.Join(t.TempDir(), "layout"), t.TempDir()
	if err := os.WriteFile(filepath.Join(source, "app"), bytes.Repeat([]byte("x"), 10000), 0o755); err != nil {
		t.Fatal(err)
	}
	built, err := ocilayout.Build(t.Context(), ocilayout.BuildOptions{Source: source, Layout: dir, Reference: "web:v1", Entrypoint: []string{"/app"}})
	if err != nil {
		t.Fatal(err)
	}
	l, err := ocilayout.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	c := serveImages(t, trust)
	if _, err := importLayout(t, c, l, 5000); fault.KindOf(rpc.FromStatus(err)) != fault.Corrupt || fault.HintOf(rpc.FromStatus(err)) == "" {
		t.Errorf("a cut archive: %v", err)
	}
	resp, err := importLayout(t, c, l, 0)
	if err != nil {
		t.Fatal(err)
	}
	if len(resp.GetImages()) != 1 || resp.GetImages()[0].GetDigest() != string(built.Manifest.Digest) || len(resp.GetImages()[0].GetSigners()) != 0 {
		t.Errorf("imported %v", resp)
	}

	// Sign it from afar, as "tero image sign" does.
	k, err := ocilayout.GenerateKey()
	if err != nil {
		t.Fatal(err)
	}
	pub, err := k.Public()
	if err != nil {
		t.Fatal(err)
	}
	b, err := pub.MarshalPEM()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(trust, "demo.pub"), b, 0o600); err != nil {
		t.Fatal(err)
	}
	sig, err := ocilayout.SignDigest(k, built.Reference, built.Manifest.Digest)
	if err != nil {
		t.Fatal(err)
	}
	signed, err := c.AttachSignature(t.Context(), &runtimev1.AttachSignatureRequest{Reference: "web:v1", Payload: sig.Payload, Signature: sig.Signature})
	if err != nil || signed.GetSigner().GetName() != "demo" || signed.GetSigner().GetKeyId() != pub.ID() {
		t.Errorf("signed %v, %v", signed, err)
	}
	list, err := c.ListImages(t.Context(), &runtimev1.ListImagesRequest{})
	if err != nil || len(list.GetImages()) != 1 || list.GetImages()[0].GetSigners()[0].GetName() != "demo" {
		t.Errorf("list %v, %v", list, err)
	}
	got, err := c.InspectImage(t.Context(), &runtimev1.InspectImageRequest{Reference: "web:v1"})
	if err != nil || got.GetImage().GetConfig().GetEntrypoint()[0] != "/app" || got.GetImage().GetLayers()[0].GetDiffId() != string(built.Layer.Digest) {
		t.Errorf("inspect %v, %v", got, err)
	}
	removed, err := c.RemoveImage(t.Context(), &runtimev1.RemoveImageRequest{Reference: "web:v1"})
	if err != nil || !removed.GetContentRemoved() || removed.GetFreedBytes() < 10000 {
		t.Errorf("remove %v, %v", removed, err)
	}
	for _, ref := range []string{"web:v1", "no/such"} {
		_, err := c.InspectImage(t.Context(), &runtimev1.InspectImageRequest{Reference: ref})
		if f := rpc.FromStatus(err); fault.KindOf(f) != fault.NotFound || !strings.Contains(fault.HintOf(f), "tero image ls") {
			t.Errorf("inspect of %s: %v", ref, err)
		}
	}
}

func TestImportBeginsWithItsStart(t *testing.T) {
	stream, err := serveImages(t, t.TempDir()).ImportImage(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	_ = stream.Send(&runtimev1.ImportImageRequest{Request: &runtimev1.ImportImageRequest_Data{Data: []byte("x")}})
	if _, err := stream.CloseAndRecv(); fault.KindOf(rpc.FromStatus(err)) != fault.Invalid {
		t.Errorf("error %v, want invalid", err)
	}
}
