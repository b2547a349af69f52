package daemon

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"testing"

	"google.golang.org/grpc"

	attestationv1 "tero.internal/api/attestation/v1"
	networkv1 "tero.internal/api/network/v1"
	nodev1 "tero.internal/api/node/v1"
	pluginv1 "tero.internal/api/plugin/v1"
	policyv1 "tero.internal/api/policy/v1"
	runtimev1 "tero.internal/api/runtime/v1"
	"tero.internal/common/fault"
	"tero.internal/common/workload"
	"tero.internal/policy/engine"
)

var testNames = names{
	node:      "n1",
	container: func(key string) string { return map[string]string{"aa11": "web"}[key] },
	image:     imageName,
}

// TestEveryMethodIsAuthorised holds the table against the services and against
// the actions that policy knows.
func TestEveryMethodIsAuthorised(t *testing.T) {
	e, err := engine.Open(t.Context(), engine.Config{Dir: t.TempDir(), StateDir: t.TempDir(), Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = e.Close() }()
	actions := e.Actions()
	table := accesses(testNames)
	for _, service := range []grpc.ServiceDesc{
		runtimev1.RuntimeService_ServiceDesc, runtimev1.ImageService_ServiceDesc, runtimev1.VolumeService_ServiceDesc, networkv1.NetworkService_ServiceDesc,
		pluginv1.PluginService_ServiceDesc, policyv1.PolicyService_ServiceDesc, attestationv1.AttestationService_ServiceDesc,
		nodev1.NodeService_ServiceDesc,
	} {
		var methods []string
		for _, m := range service.Methods {
			methods = append(methods, m.MethodName)
		}
		for _, s := range service.Streams {
			methods = append(methods, s.StreamName)
		}
		for _, m := range methods {
			name := "/" + service.ServiceName + "/" + m
			a, ok := table[name]
			if !ok {
				t.Errorf("%s is missing: nobody could call it", name)
				continue
			}
			if !slices.Contains(actions[a.action], a.kind) {
				t.Errorf("%s asks for %s on a %s; policy knows %v", name, a.action, a.kind, actions[a.action])
			}
			delete(table, name)
		}
	}
	for name := range table {
		t.Errorf("%s is no method of the API", name)
	}
}

// asked writes down what policy was asked, and refuses.
type asked struct{ action, kind, name string }

var errRefused = errors.New("refused")

func (a *asked) Authorize(_ context.Context, _ workload.Principal, action, kind, name string) error {
	*a = asked{action, kind, name}
	return errRefused
}

func TestGuardAsksByTheNameThatPoliciesKnow(t *testing.T) {
	start := &runtimev1.AttachRequest{Request: &runtimev1.AttachRequest_Start{Start: &runtimev1.AttachStart{Container: "aa11"}}}
	launch := &runtimev1.AttachRequest{Request: &runtimev1.AttachRequest_Run{Run: &runtimev1.RunRequest{}}}
	exec := &runtimev1.ExecRequest{Request: &runtimev1.ExecRequest_Start{Start: &runtimev1.ExecStart{Container: "aa11"}}}
	copyTo := &runtimev1.CopyToRequest{Request: &runtimev1.CopyToRequest_Start{Start: &runtimev1.CopyToStart{Container: "aa11"}}}
	tests := map[string]struct {
		method  string
		request any
		want    asked
	}{
		"stop by id":        {runtimev1.RuntimeService_StopContainer_FullMethodName, &runtimev1.StopContainerRequest{Container: "aa11"}, asked{"stop", "Container", "web"}},
		"exec by id":        {runtimev1.RuntimeService_Exec_FullMethodName, exec, asked{"exec", "Container", "web"}},
		"attach by id":      {runtimev1.RuntimeService_Attach_FullMethodName, start, asked{"attach", "Container", "web"}},
		"copy to by id":     {runtimev1.RuntimeService_CopyTo_FullMethodName, copyTo, asked{"copyTo", "Container", "web"}},
		"foreground launch": {runtimev1.RuntimeService_Attach_FullMethodName, launch, asked{"run", "Node", "n1"}},
		"short image name":  {runtimev1.ImageService_RemoveImage_FullMethodName, &runtimev1.RemoveImageRequest{Reference: "web"}, asked{"imageRemove", "Image", "localhost/web:latest"}},
		"enrolment":         {attestationv1.AttestationService_GetEnrolment_FullMethodName, &attestationv1.GetEnrolmentRequest{}, asked{"attest", "Node", "n1"}},
		"witness key":       {attestationv1.AttestationService_GetEnrolment_FullMethodName, &attestationv1.GetEnrolmentRequest{TakeWitnessKey: true}, asked{"nodeWrite", "Node", "n1"}},
		"plugin":            {pluginv1.PluginService_RemovePlugin_FullMethodName, &pluginv1.RemovePluginRequest{Name: "nolatest"}, asked{"pluginRemove", "Plugin", "nolatest"}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			var got asked
			if err := guard(&got, testNames)(t.Context(), workload.Principal{}, tt.method, tt.request); !errors.Is(err, errRefused) {
				t.Errorf("guard = %v, want policy's word", err)
			}
			if got != tt.want {
				t.Errorf("policy was asked %+v, want %+v", got, tt.want)
			}
		})
	}
	err := guard(&asked{}, testNames)(t.Context(), workload.Principal{}, "/tero.runtime.v1.RuntimeService/Later", nil)
	if fault.KindOf(err) != fault.Denied {
		t.Errorf("unknown method: %v, want denied", err)
	}
}
