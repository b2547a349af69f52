package server_test

import (
	"bytes"
	"context"
	"log/slog"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc"

	pluginv1 "tero.internal/api/plugin/v1"
	"tero.internal/common/fault"
	"tero.internal/common/pluginpkg"
	"tero.internal/common/rpc"
	"tero.internal/common/workload"
	. "tero.internal/plugin-manager/internal/wasmtest"
	"tero.internal/plugin-manager/plugintest"
	"tero.internal/plugin-manager/server"
)

const manifest = `{"schema":"tero.plugin/v1","name":"p","version":"1.0.0","abi":"1.0",
	"hooks":[{"point":"admission.mutate","writes":["/labels/x"],"order":{"after":["q"]}}],
	"capabilities":{"required":["log"],"optional":["config"]},"limits":{},
	"vectors":[{"in":{"spec":{},"image":{}},"want":{"allow":true}}]}`

// serve gives a client of a server for a new host, over a unix socket.
func serve(t *testing.T) (pluginv1.PluginServiceClient, *plugintest.Harness) {
	t.Helper()
	h := plugintest.New(t)
	path := filepath.Join(t.TempDir(), "s")
	l, err := rpc.ListenUnix(t.Context(), path, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	s := rpc.NewServer(rpc.PeerCredentials(), func(context.Context, workload.Principal, string, any) error { return nil }, slog.New(slog.DiscardHandler))
	pluginv1.RegisterPluginServiceServer(s, server.New(h.Host))
	done := make(chan error, 1)
	go func() { done <- s.Serve(l) }()
	t.Cleanup(func() {
		s.Stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	c, err := grpc.NewClient("unix:"+path, grpc.WithTransportCredentials(rpc.PeerCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return pluginv1.NewPluginServiceClient(c), h
}

// install streams messages; the header is left out when it is nil.
func install(t *testing.T, c pluginv1.PluginServiceClient, header *pluginv1.InstallHeader, tar []byte) (*pluginv1.Plugin, error) {
	t.Helper()
	stream, err := c.InstallPlugin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if header != nil {
		if err := stream.Send(&pluginv1.InstallPluginRequest{Request: &pluginv1.InstallPluginRequest_Header{Header: header}}); err != nil {
			t.Fatal(err)
		}
	}
	for len(tar) > 0 {
		n := min(len(tar), 1000)
		if stream.Send(&pluginv1.InstallPluginRequest{Request: &pluginv1.InstallPluginRequest_Tar{Tar: tar[:n]}}) != nil {
			break // CloseAndRecv tells why
		}
		tar = tar[n:]
	}
	resp, err := stream.CloseAndRecv()
	return resp.GetPlugin(), rpc.FromStatus(err)
}

func TestService(t *testing.T) {
	c, h := serve(t)
	var tar bytes.Buffer
	guest := Guest{Answer: Allow(), Imports: []Import{LogImport()}}
	if err := pluginpkg.WriteTar(t.Context(), &tar, plugintest.Pack(t, []byte(manifest), guest.Bytes(), h.Key)); err != nil {
		t.Fatal(err)
	}
	if _, err := install(t, c, nil, tar.Bytes()); fault.KindOf(err) != fault.Invalid {
		t.Errorf("without a header: %v", err)
	}
	if _, err := install(t, c, &pluginv1.InstallHeader{}, tar.Bytes()[:2000]); fault.KindOf(err) != fault.Invalid || fault.HintOf(err) == "" {
		t.Errorf("a tar that is cut: %v", err)
	}
	if _, err := install(t, c, &pluginv1.InstallHeader{}, nil); fault.KindOf(err) != fault.Invalid {
		t.Errorf("no tar: %v", err)
	}
	p, err := install(t, c, &pluginv1.InstallHeader{Settings: []byte(`{"a":1}`)}, tar.Bytes())
	if err != nil || p.GetState() != "pending-grant" {
		t.Fatalf("%v, %v", p, err)
	}
	granted, err := c.GrantPlugin(t.Context(), &pluginv1.GrantPluginRequest{Name: "p", GrantRequired: true})
	if err != nil || granted.GetPlugin().GetState() != "active" {
		t.Fatalf("%v, %v", granted, err)
	}
	if _, _, err := h.Admit(t, workload.Spec{Name: "web", Image: "web"}, workload.Image{}); err != nil {
		t.Error(err)
	}
	list, err := c.ListPlugins(t.Context(), &pluginv1.ListPluginsRequest{})
	if err != nil || len(list.GetPlugins()) != 1 {
		t.Fatalf("%v, %v", list, err)
	}
	p = list.GetPlugins()[0]
	if p.GetStats().GetCalls() != 1 || p.GetStats().GetTicks() != 3 || p.GetSigner() != "test" || !p.GetInstalled().IsValid() {
		t.Errorf("listed as %v", p)
	}
	if diff := cmp.Diff([]string{"admission.mutate", "/labels/x", "q"}, []string{p.GetHooks()[0].GetPoint(), p.GetHooks()[0].GetWrites()[0], p.GetHooks()[0].GetAfter()[0]}); diff != "" {
		t.Errorf("hook (-want +got):\n%s", diff)
	}
	d, err := c.InspectPlugin(t.Context(), &pluginv1.InspectPluginRequest{Name: "p"})
	if err != nil || string(d.GetSettings()) != `{"a":1}` || string(d.GetManifest()) != manifest || d.GetImports()[0] != "tero_v1.log" {
		t.Errorf("%v, %v", d, err)
	}
	if _, err := c.RemovePlugin(t.Context(), &pluginv1.RemovePluginRequest{Name: "p"}); err != nil {
		t.Error(err)
	}
	for name, err := range map[string]error{
		"remove":  second(c.RemovePlugin(t.Context(), &pluginv1.RemovePluginRequest{Name: "p"})),
		"inspect": second(c.InspectPlugin(t.Context(), &pluginv1.InspectPluginRequest{Name: "p"})),
		"grant":   second(c.GrantPlugin(t.Context(), &pluginv1.GrantPluginRequest{Name: "p"})),
	} {
		if err := rpc.FromStatus(err); fault.KindOf(err) != fault.NotFound || fault.HintOf(err) == "" {
			t.Errorf("%s of a removed plugin: %v", name, err)
		}
	}
}

func second[T any](_ T, err error) error { return err }
