package tero

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"

	pluginv1 "tero.internal/api/plugin/v1"
)

func full() *pluginv1.AdmitRequest {
	return &pluginv1.AdmitRequest{
		Name: "web", Image: "web:v1", Reference: "localhost/web:v1", Digest: "sha256:aa", Signers: []string{"a", "b"},
		ImageLabels: map[string]string{"k": "v", "": ""}, Args: []string{"/web", ""}, Env: []string{"A=b"}, WorkingDir: "/", User: "0:0", Hostname: "h",
		Labels: map[string]string{"tier": "front"}, Terminal: true, WritableRootfs: true, CapAdd: []string{"CAP_NET_RAW"}, MilliCpu: 1500,
		MemoryBytes: 1 << 40, Pids: -1, Network: "default", StopSignal: "SIGTERM", AutoRemove: true, MinLevel: "L1",
	}
}

// TestDecodeIsProtobuf compares the codec by hand with the generated one.
func TestDecodeIsProtobuf(t *testing.T) {
	b, err := proto.Marshal(full())
	if err != nil {
		t.Fatal(err)
	}
	// A field of a newer minor version, of each wire type.
	b = protowire.AppendVarint(protowire.AppendTag(b, 900, protowire.VarintType), 7)
	b = protowire.AppendFixed32(protowire.AppendTag(b, 901, protowire.Fixed32Type), 7)
	b = protowire.AppendFixed64(protowire.AppendTag(b, 902, protowire.Fixed64Type), 7)
	b = protowire.AppendBytes(protowire.AppendTag(b, 903, protowire.BytesType), []byte("x"))
	got, err := decodeRequest(b)
	if err != nil {
		t.Fatal(err)
	}
	want := &LaunchRequest{
		Name: "web", Image: "web:v1", Reference: "localhost/web:v1", Digest: "sha256:aa", Signers: []string{"a", "b"},
		ImageLabels: map[string]string{"k": "v", "": ""}, Args: []string{"/web", ""}, Env: []string{"A=b"}, WorkingDir: "/", User: "0:0", Hostname: "h",
		Labels: map[string]string{"tier": "front"}, Terminal: true, WritableRootfs: true, CapAdd: []string{"CAP_NET_RAW"}, MilliCPU: 1500,
		MemoryBytes: 1 << 40, Pids: -1, Network: "default", StopSignal: "SIGTERM", AutoRemove: true, MinLevel: "L1",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("request (-want +got):\n%s", diff)
	}
	if n := (&pluginv1.AdmitRequest{}).ProtoReflect().Descriptor().Fields().Len(); n != 22 {
		t.Errorf("AdmitRequest has %d fields; this test and the codec know 22", n)
	}
}

func TestEncodeIsProtobuf(t *testing.T) {
	d := Allow().Set("/labels/tier", "x").Set("/resources/pids", 300)
	got := &pluginv1.AdmitResponse{}
	if err := proto.Unmarshal(d.encode(), got); err != nil {
		t.Fatal(err)
	}
	want := &pluginv1.AdmitResponse{Allow: true, Mutations: []*pluginv1.Mutation{{Path: "/labels/tier", Value: `"x"`}, {Path: "/resources/pids", Value: "300"}}}
	if diff := cmp.Diff(want, got, protocmp.Transform()); diff != "" {
		t.Errorf("response (-want +got):\n%s", diff)
	}
	got.Reset()
	if err := proto.Unmarshal(Deny("a.b", "no %d", 1).encode(), got); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(&pluginv1.AdmitResponse{Code: "a.b", Reason: "no 1"}, got, protocmp.Transform()); diff != "" {
		t.Errorf("response (-want +got):\n%s", diff)
	}
	if d := Allow().Set("/x", func() {}); d.Allowed {
		t.Error("a value that is no JSON was allowed")
	}
}

// TestDispatch is the only test that registers: there is one plugin a program.
func TestDispatch(t *testing.T) {
	answer := func(in []byte) *pluginv1.AdmitResponse {
		t.Helper()
		a := &pluginv1.AdmitResponse{}
		if err := proto.Unmarshal(Dispatch(Settings("{}"), Validate, in), a); err != nil {
			t.Fatal(err)
		}
		return a
	}
	if c := answer(nil).GetCode(); c != "plugin.unregistered" {
		t.Errorf("code %q before OnAdmit", c)
	}
	defer OnAdmit(nil)
	OnAdmit(func(_ Host, r *LaunchRequest) Decision {
		if r.Phase != Validate {
			t.Errorf("phase %d", r.Phase)
		}
		panic("faulty")
	})
	if a := answer(nil); a.GetAllow() || a.GetCode() != "plugin.panic" {
		t.Errorf("a panic answered %v", a)
	}
	if c := answer([]byte{0xff}).GetCode(); c != "plugin.decode" {
		t.Errorf("code %q for nonsense", c)
	}
}

func FuzzDecodeRequest(f *testing.F) {
	b, err := proto.Marshal(full())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		want := &pluginv1.AdmitRequest{}
		// Groups, which proto3 has not, may hide among unknown fields: dropped.
		if (proto.UnmarshalOptions{DiscardUnknown: true}).Unmarshal(b, want) != nil {
			_, _ = decodeRequest(b)
			return
		}
		got, err := decodeRequest(mustMarshal(t, want))
		if err != nil {
			t.Fatalf("protobuf reads what the SDK does not: %v", err)
		}
		if got.Image != want.GetImage() || got.Pids != want.GetPids() || len(got.Labels) != len(want.GetLabels()) {
			t.Errorf("read %+v, want %v", got, want)
		}
	})
}

func mustMarshal(t *testing.T, m proto.Message) []byte {
	t.Helper()
	b, err := proto.MarshalOptions{}.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return b
}
