package cli_test

import (
	"context"
	"errors"
	"io"
	"net"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/test/bufconn"
	"google.golang.org/protobuf/types/known/timestamppb"

	attestationv1 "tero.internal/api/attestation/v1"
	networkv1 "tero.internal/api/network/v1"
	nodev1 "tero.internal/api/node/v1"
	pluginv1 "tero.internal/api/plugin/v1"
	policyv1 "tero.internal/api/policy/v1"
	runtimev1 "tero.internal/api/runtime/v1"
	"tero.internal/client"
	"tero.internal/common/fault"
	"tero.internal/common/rpc"
)

// now is the time in all of these tests.
var now = time.Date(2026, 7, 1, 12, 0, 0, 0, time.UTC)

func before(d time.Duration) *timestamppb.Timestamp { return timestamppb.New(now.Add(-d)) }

// fake is a node that knows a web server and a job that has ended.
type fake struct {
	runtimev1.UnimplementedRuntimeServiceServer
	runtimev1.UnimplementedImageServiceServer
	runtimev1.UnimplementedVolumeServiceServer
	nodev1.UnimplementedNodeServiceServer
	networkv1.UnimplementedNetworkServiceServer
	policyv1.UnimplementedPolicyServiceServer
	pluginv1.UnimplementedPluginServiceServer
	attestationv1.UnimplementedAttestationServiceServer
}

// dialFake serves a fake and gives what connects to it.
func dialFake(t *testing.T) func(client.Options) (*client.Client, error) {
	t.Helper()
	l := bufconn.Listen(1 << 20)
	s := grpc.NewServer(grpc.UnaryInterceptor(func(ctx context.Context, req any, _ *grpc.UnaryServerInfo, h grpc.UnaryHandler) (any, error) {
		r, err := h(ctx, req)
		return r, rpc.ToStatus(err)
	}), grpc.StreamInterceptor(func(srv any, ss grpc.ServerStream, _ *grpc.StreamServerInfo, h grpc.StreamHandler) error {
		return rpc.ToStatus(h(srv, ss))
	}))
	f := &fake{}
	runtimev1.RegisterRuntimeServiceServer(s, f)
	runtimev1.RegisterImageServiceServer(s, f)
	runtimev1.RegisterVolumeServiceServer(s, f)
	nodev1.RegisterNodeServiceServer(s, f)
	networkv1.RegisterNetworkServiceServer(s, f)
	policyv1.RegisterPolicyServiceServer(s, f)
	pluginv1.RegisterPluginServiceServer(s, f)
	attestationv1.RegisterAttestationServiceServer(s, f)
	served := make(chan error, 1)
	go func() { served <- s.Serve(l) }()
	t.Cleanup(func() {
		s.Stop()
		if err := <-served; err != nil && !errors.Is(err, grpc.ErrServerStopped) {
			t.Error(err)
		}
	})
	return func(client.Options) (*client.Client, error) {
		return client.New("fake", insecure.NewCredentials(), func(ctx context.Context) (net.Conn, error) { return l.DialContext(ctx) })
	}
}

func web() *runtimev1.Container {
	return &runtimev1.Container{
		Id: "3f2a9c0011223344556677889900aabb", Name: "web",
		Spec: &runtimev1.ContainerSpec{
			Name: "web", Image: "localhost/web:v1", Args: []string{"/web", "-listen", ":8080"}, User: "0:0", Network: "default",
			Labels: map[string]string{"app": "web", "tier": "front"}, Pids: 1024, MemoryBytes: 64 << 20, MilliCpu: 500,
			WritableRootfs: true, CapAdd: []string{"CAP_NET_RAW"},
		},
		ImageDigest: "sha256:aa", Signers: []string{"demo"}, State: runtimev1.State_STATE_RUNNING, Pid: 4242,
		Created: before(3 * time.Minute), Started: before(3 * time.Minute), SpiffeId: "spiffe://tero.local/workload/web",
		Endpoint: &runtimev1.Endpoint{Network: "default", Address: "10.210.0.2/32"}, Level: "L0", RecordSequence: 7, RecordDigest: "sha256:bb",
		Policies: []string{"allow-signed"}, PolicyDigest: "sha256:cc", DecisionId: "7f3a",
		Plugins: []*runtimev1.PluginVerdict{{Plugin: "nolatest", Ticks: 512, Changed: []string{"/labels/checked"}}},
		Restart: "always", RestartCount: 2, Exit: &runtimev1.Exit{Code: 137, OomKilled: true, At: before(4 * time.Minute)},
		Limits: &runtimev1.Limits{MilliCpu: 500, MemoryBytes: 128 << 20, Pids: 1024},
		Health: &runtimev1.Health{Status: "unhealthy", Failing: 3, Log: []*runtimev1.HealthResult{{Start: before(time.Second), Code: 1, Output: "no answer\x1b[2J\n"}}},
	}
}

func job() *runtimev1.Container {
	return &runtimev1.Container{
		Id: "99887766554433221100ffeeddccbbaa", Name: "job\x1b[2J",
		Spec:  &runtimev1.ContainerSpec{Name: "job", Image: "localhost/job:v1", Network: "none"},
		State: runtimev1.State_STATE_EXITED, Exit: &runtimev1.Exit{Code: 3, At: before(49 * time.Hour)}, Level: "L0",
	}
}

func (*fake) ListContainers(_ context.Context, r *runtimev1.ListContainersRequest) (*runtimev1.ListContainersResponse, error) {
	l := &runtimev1.ListContainersResponse{Containers: []*runtimev1.Container{web()}}
	if r.GetAll() {
		l.Containers = append(l.Containers, job())
	}
	return l, nil
}

func (*fake) InspectContainer(_ context.Context, r *runtimev1.InspectContainerRequest) (*runtimev1.InspectContainerResponse, error) {
	if err := known(r.GetContainer()); err != nil {
		return nil, err
	}
	return &runtimev1.InspectContainerResponse{Container: web()}, nil
}

func known(name string) error {
	if name != "web" {
		return fault.New(fault.NotFound, "no container %q", name).WithHint("see \"tero ps -a\"")
	}
	return nil
}

func (*fake) Run(_ context.Context, r *runtimev1.RunRequest) (*runtimev1.RunResponse, error) {
	if r.GetSpec().GetImage() == "rogue" {
		return nil, fault.New(fault.Denied, "launch of %q refused by policy: image localhost/rogue:latest is not signed by a trusted key", "rogue").
			WithHint("see why with \"tero policy why 7f3a\"")
	}
	c := web()
	c.Spec = r.GetSpec()
	return &runtimev1.RunResponse{Container: c, DurationUs: 4200}, nil
}

// Attach plays a container that echoes its input, or ends with the code that
// its first argument tells.
func (f *fake) Attach(stream runtimev1.RuntimeService_AttachServer) error {
	first, err := stream.Recv()
	if err != nil {
		return err
	}
	launched, err := f.Run(stream.Context(), first.GetRun())
	if err != nil {
		return err
	}
	spec := launched.GetContainer().GetSpec()
	if err := stream.Send(&runtimev1.AttachResponse{Response: &runtimev1.AttachResponse_Launched{Launched: launched}}); err != nil {
		return err
	}
	say := func(to runtimev1.Output_Stream, b []byte) error {
		return stream.Send(&runtimev1.AttachResponse{Response: &runtimev1.AttachResponse_Output{Output: &runtimev1.Output{Stream: to, Data: b}}})
	}
	exit := &runtimev1.Exit{}
	switch {
	case spec.GetOpenStdin():
		for {
			r, err := stream.Recv()
			if err != nil {
				return err
			}
			if r.GetCloseStdin() {
				break
			}
			if err := say(runtimev1.Output_STREAM_STDOUT, r.GetStdin()); err != nil {
				return err
			}
		}
	case len(spec.GetArgs()) > 0 && spec.GetArgs()[0] == "gone":
		return nil
	case len(spec.GetArgs()) > 0:
		if err := errors.Join(say(runtimev1.Output_STREAM_STDOUT, []byte("out\n")), say(runtimev1.Output_STREAM_STDERR, []byte("err\n"))); err != nil {
			return err
		}
		exit = &runtimev1.Exit{Code: 42, Message: "out of memory"}
	}
	return stream.Send(&runtimev1.AttachResponse{Response: &runtimev1.AttachResponse_Exit{Exit: exit}})
}

func (*fake) Exec(stream runtimev1.RuntimeService_ExecServer) error {
	r, err := stream.Recv()
	if err != nil {
		return err
	}
	if err := known(r.GetStart().GetContainer()); err != nil {
		return err
	}
	out := &runtimev1.Output{Stream: runtimev1.Output_STREAM_STDOUT, Data: []byte(r.GetStart().GetArgs()[0] + "\n")}
	return errors.Join(
		stream.Send(&runtimev1.ExecResponse{Response: &runtimev1.ExecResponse_Started{Started: true}}),
		stream.Send(&runtimev1.ExecResponse{Response: &runtimev1.ExecResponse_Output{Output: out}}),
		stream.Send(&runtimev1.ExecResponse{Response: &runtimev1.ExecResponse_Exit{Exit: &runtimev1.Exit{Code: 7}}}),
	)
}

func (*fake) Logs(r *runtimev1.LogsRequest, stream runtimev1.RuntimeService_LogsServer) error {
	if err := known(r.GetContainer()); err != nil {
		return err
	}
	for i, part := range []string{"first\n", "sec", "ond\n"} {
		err := stream.Send(&runtimev1.LogsResponse{
			Time:   timestamppb.New(now.Add(time.Duration(i) * time.Second)),
			Output: &runtimev1.Output{Stream: runtimev1.Output_STREAM_STDOUT, Data: []byte(part)},
		})
		if err != nil {
			return err
		}
	}
	return nil
}

func (*fake) RemoveContainer(_ context.Context, r *runtimev1.RemoveContainerRequest) (*runtimev1.RemoveContainerResponse, error) {
	if err := known(r.GetContainer()); err != nil {
		return nil, err
	}
	return &runtimev1.RemoveContainerResponse{Id: web().GetId(), Name: "web"}, nil
}

func (*fake) StopContainer(_ context.Context, r *runtimev1.StopContainerRequest) (*runtimev1.StopContainerResponse, error) {
	if err := known(r.GetContainer()); err != nil {
		return nil, err
	}
	if r.TimeoutSeconds != nil { // 0 is not unset
		return &runtimev1.StopContainerResponse{Exit: &runtimev1.Exit{Code: 137}}, nil
	}
	return &runtimev1.StopContainerResponse{Exit: &runtimev1.Exit{Code: 143}}, nil
}

func (*fake) Status(context.Context, *nodev1.StatusRequest) (*nodev1.StatusResponse, error) {
	return &nodev1.StatusResponse{
		Name: "node", SpiffeId: "spiffe://tero.local/node/node", TrustDomain: "tero.local", Level: "L0",
		LevelDescription: "L0 (software key: tamper-evident, not tamper-proof)", Version: "v1", Socket: "/run/tero/tero.sock",
		StateDir: "/var/lib/tero", Started: before(90 * time.Minute), ContainersRunning: 1, Containers: 2, LaunchRecords: 8, PolicyDigest: "sha256:cc", PluginsActive: 1,
	}, nil
}

func (*fake) Down(context.Context, *nodev1.DownRequest) (*nodev1.DownResponse, error) {
	return &nodev1.DownResponse{Containers: []string{"web", "job"}}, nil
}

func (*fake) WatchEvents(_ *nodev1.WatchEventsRequest, stream nodev1.NodeService_WatchEventsServer) error {
	return errors.Join(
		stream.Send(&nodev1.WatchEventsResponse{Time: before(time.Second), Type: "container.started", Name: "web", Message: "web runs"}),
		stream.Send(&nodev1.WatchEventsResponse{Time: before(0), Type: "flow.denied", Message: "default-deny", Missed: 2}),
	)
}

func image() *runtimev1.Image {
	return &runtimev1.Image{
		Reference: "localhost/web:v1", Digest: "sha256:00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff", Platform: "linux/amd64",
		SizeBytes: 5 << 20, Imported: before(time.Hour), Signers: []*runtimev1.ImageSigner{{Name: "demo", KeyId: "sha256:ee"}}, Signatures: 1,
		Config: &runtimev1.ImageConfig{Entrypoint: []string{"/web"}},
		Layers: []*runtimev1.ImageLayer{{Digest: "sha256:11", SizeBytes: 5 << 20, MediaType: "application/vnd.oci.image.layer.v1.tar"}},
	}
}

func (*fake) ListImages(context.Context, *runtimev1.ListImagesRequest) (*runtimev1.ListImagesResponse, error) {
	rogue := &runtimev1.Image{Reference: "localhost/rogue:v1", Digest: "sha256:ff", SizeBytes: 900}
	other := &runtimev1.Image{Reference: "localhost/other:v1", Digest: "sha256:dd", SizeBytes: 2048, Signatures: 2}
	return &runtimev1.ListImagesResponse{Images: []*runtimev1.Image{image(), rogue, other}}, nil
}

func (*fake) InspectImage(context.Context, *runtimev1.InspectImageRequest) (*runtimev1.InspectImageResponse, error) {
	return &runtimev1.InspectImageResponse{Image: image()}, nil
}

func (*fake) RemoveImage(_ context.Context, r *runtimev1.RemoveImageRequest) (*runtimev1.RemoveImageResponse, error) {
	if r.GetReference() != "web" {
		return nil, fault.New(fault.Conflict, "image %s is used by container web", r.GetReference()).WithHint("remove the container first")
	}
	return &runtimev1.RemoveImageResponse{Reference: "localhost/web:latest", Digest: "sha256:aa", ContentRemoved: true, FreedBytes: 3 << 20}, nil
}

// ImportImage refuses in the middle of the upload, or counts what came.
func (*fake) ImportImage(stream runtimev1.ImageService_ImportImageServer) error {
	var n int64
	for {
		r, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			i := image()
			i.SizeBytes = n
			return stream.SendAndClose(&runtimev1.ImportImageResponse{Images: []*runtimev1.Image{i}})
		}
		if err != nil {
			return err
		}
		if r.GetStart().GetReference() == "corrupt" {
			return fault.New(fault.Corrupt, "layer sha256:11 has other bytes than its digest says").WithHint("fetch the image again")
		}
		n += int64(len(r.GetData()))
	}
}
