package launch_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"tero.internal/common/spiffeid"
	"tero.internal/common/workload"
	"tero.internal/runtime/launch"
)

// trace is every step of a pipeline in one fake: it writes down the calls and
// fails the one named.
type trace struct {
	calls []string
	fail  string
	// admission is what policy was asked, measured what the attestor was given.
	admission workload.Admission
	measured  workload.Measurement
	attached  workload.Attachment
	size      *specs.Box // of the terminal, at Create
	resolved  []string
	// recorded is closed when the launch was measured: here the sandbox is made
	// after that, so that the calls have an order.
	recorded chan struct{}
}

var errStep = errors.New("step failed")

func (f *trace) step(ctx context.Context, name string) error {
	f.calls = append(f.calls, name)
	if f.fail == name {
		return errStep
	}
	if strings.HasPrefix(name, "undo") {
		return ctx.Err() // compensations must run with a living context
	}
	return nil
}

func (f *trace) Resolve(ctx context.Context, ref string) (workload.Image, error) {
	f.resolved = append(f.resolved, ref)
	return workload.Image{
		Reference: "localhost/" + ref, Digest: "sha256:aa",
		Config: workload.ImageConfig{Entrypoint: []string{"/web"}, Env: []string{"A=1"}},
	}, f.step(ctx, "resolve")
}

func (f *trace) Release(i workload.Image) {
	f.calls = append(f.calls, "undo resolve "+string(i.Digest))
}

type plugins struct{ *trace }

func (f plugins) Admit(ctx context.Context, s workload.Spec, _ workload.Image) (workload.Spec, []workload.PluginVerdict, error) {
	s.Labels["checked-by"] = "nolatest"
	return s, []workload.PluginVerdict{{Plugin: "nolatest", Ticks: 5}}, f.step(ctx, "admit by plugins")
}

func (f *trace) AdmitLaunch(ctx context.Context, a workload.Admission) (workload.Grant, error) {
	f.admission = a
	return workload.Grant{PolicyDigest: "sha256:bb"}, f.step(ctx, "admit by policy")
}

func (f *trace) Level() workload.Level { return workload.L1 }

func (f *trace) Measure(ctx context.Context, m workload.Measurement) (workload.Evidence, error) {
	defer close(f.recorded)
	f.measured = m
	return workload.Evidence{Sequence: 3, Level: workload.L1}, f.step(ctx, "measure")
}

func (f *trace) Enrol(ctx context.Context, _ workload.ID, id string, _ workload.Evidence) (workload.Identity, error) {
	return workload.Identity{SPIFFEID: id, Enrolled: time.Unix(1, 0)}, f.step(ctx, "enrol")
}

func (f *trace) Revoke(ctx context.Context, _ workload.ID) error { return f.step(ctx, "undo enrol") }

func (f *trace) Configure(s workload.Spec, _ workload.Image) (*specs.Spec, error) {
	return &specs.Spec{Process: &specs.Process{Args: s.Args}}, f.step(context.Background(), "configure")
}

func (f *trace) Create(ctx context.Context, _ workload.ID, config *specs.Spec, _ workload.Image) (string, error) {
	<-f.recorded
	f.size = config.Process.ConsoleSize
	return "/proc/7/ns/net", f.step(ctx, "create")
}

func (f *trace) Start(ctx context.Context, _ workload.ID, e *workload.Endpoint) error {
	return f.step(ctx, fmt.Sprintf("start %t", e != nil))
}

func (f *trace) End(ctx context.Context, _ workload.ID) error { return f.step(ctx, "end") }

func (f *trace) Destroy(ctx context.Context, _ workload.ID) error { return f.step(ctx, "undo create") }

func (f *trace) Attach(ctx context.Context, a workload.Attachment) (workload.Endpoint, error) {
	f.attached = a
	return workload.Endpoint{Network: a.Network}, f.step(ctx, "attach")
}

func (f *trace) Detach(ctx context.Context, _ workload.ID) error { return f.step(ctx, "undo attach") }

func run(t *testing.T, f *trace, spec workload.Spec) (*launch.Launched, error) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	if f.fail != "" {
		cancel() // the caller hung up; compensations must run all the same
	}
	defer cancel()
	return pipeline(t, f).Run(ctx, workload.Principal{Local: true}, workload.NewID(), spec)
}

func pipeline(t *testing.T, f *trace) *launch.Pipeline {
	t.Helper()
	td, err := spiffeid.ParseTrustDomain("n1.tero")
	if err != nil {
		t.Fatal(err)
	}
	f.recorded = make(chan struct{})
	return &launch.Pipeline{
		Images: f, Plugins: plugins{f}, Policy: f, Attestor: f, Identities: f, Sandboxes: f, Ender: f, Network: f, TrustDomain: td,
	}
}

var forward = []string{
	"resolve", "admit by plugins", "admit by policy", "configure", "measure", "create", "enrol", "attach", "start true",
}

const released = "undo resolve sha256:aa"

// compensations maps each step to what must be undone when it fails. The record
// and the sandbox are made at the same time, so one is there when the other fails.
var compensations = map[string][]string{
	"resolve":    nil,
	"measure":    {"create", "undo create", released},
	"enrol":      {"undo create", released},
	"attach":     {"undo enrol", "undo create", released},
	"start true": {"undo attach", "undo enrol", "undo create", released},
}

func TestEachStepFailingUndoesTheOnesBefore(t *testing.T) {
	spec := workload.Spec{Name: "web", Image: "web", Network: "default"}
	for i, step := range forward {
		t.Run(step, func(t *testing.T) {
			f := &trace{fail: step}
			_, err := run(t, f, spec)
			if !errors.Is(err, errStep) {
				t.Fatalf("Run = %v, want the step's error", err)
			}
			undone, ok := compensations[step]
			if !ok {
				undone = []string{released}
			}
			want := append(append([]string{}, forward[:i+1]...), undone...)
			if diff := cmp.Diff(want, f.calls); diff != "" {
				t.Errorf("calls (-want +got):\n%s", diff)
			}
		})
	}
}

func TestAllSeeTheSameFinalSpec(t *testing.T) {
	f := &trace{}
	l, err := run(t, f, workload.Spec{Name: "web", Image: "web", Network: "default", Args: []string{"-v"}})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(forward, f.calls); diff != "" {
		t.Errorf("calls (-want +got):\n%s", diff)
	}
	l.Release()
	l.Release()
	if diff := cmp.Diff(append(slices.Clip(forward), released), f.calls); diff != "" {
		t.Errorf("calls after the caller released the image (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(l.Spec, f.admission.Spec); diff != "" {
		t.Errorf("policy decided on another spec (-launched +admitted):\n%s", diff)
	}
	if diff := cmp.Diff([]string{"/web", "-v"}, l.Spec.Args); diff != "" {
		t.Errorf("argv (-want +got):\n%s", diff)
	}
	if l.Spec.Labels["checked-by"] != "nolatest" || f.attached.Labels["checked-by"] != "nolatest" {
		t.Errorf("the plugin's label did not arrive: %v, %v", l.Spec.Labels, f.attached.Labels)
	}
	if f.admission.NodeLevel != workload.L1 || f.admission.SPIFFEID != "spiffe://n1.tero/workload/web" {
		t.Errorf("admission = %+v", f.admission)
	}
	config, err := workload.CanonicalDigest(&specs.Spec{Process: &specs.Process{Args: l.Spec.Args}})
	if err != nil {
		t.Fatal(err)
	}
	if f.measured.Config != config || f.measured.Policy != "sha256:bb" || f.measured.SPIFFEID != l.Identity.SPIFFEID {
		t.Errorf("measured = %+v", f.measured)
	}
}

func TestTerminalHasItsSizeBeforeTheStart(t *testing.T) {
	f := &trace{}
	size := workload.TerminalSize{Rows: 33, Columns: 99}
	l, err := run(t, f, workload.Spec{Name: "web", Image: "web", Network: workload.NetworkNone, Terminal: true, TerminalSize: size})
	if err != nil {
		t.Fatal(err)
	}
	l.Release()
	if f.size == nil || f.size.Height != 33 || f.size.Width != 99 {
		t.Errorf("created with size %+v", f.size)
	}
	sized := f.measured.Config
	if l, err = run(t, f, workload.Spec{Name: "web", Image: "web", Network: workload.NetworkNone, Terminal: true}); err != nil {
		t.Fatal(err)
	}
	l.Release()
	if f.size != nil || f.measured.Config != sized {
		t.Error("the size of the terminal is measured")
	}
}

func TestNoNetworkIsNotAttached(t *testing.T) {
	f := &trace{}
	l, err := run(t, f, workload.Spec{Name: "web", Image: "web", Network: workload.NetworkNone})
	if err != nil {
		t.Fatal(err)
	}
	if l.Endpoint != nil || f.calls[len(f.calls)-1] != "start false" {
		t.Errorf("endpoint %v, calls %v", l.Endpoint, f.calls)
	}
}

func TestFailedCleanUpIsTold(t *testing.T) {
	f := &trace{fail: "start true"}
	pl := pipeline(t, f)
	pl.Sandboxes = failingDestroy{f}
	_, err := pl.Run(t.Context(), workload.Principal{}, workload.NewID(), workload.Spec{Name: "web", Image: "web", Network: "default"})
	if !errors.Is(err, errStep) || !strings.Contains(err.Error(), "undo create sandbox: stuck") {
		t.Errorf("Run = %v, want the step's error and the clean-up's", err)
	}
	if diff := cmp.Diff([]string{"undo attach", "undo enrol", released}, f.calls[len(forward):]); diff != "" {
		t.Errorf("a failed compensation stopped the others (-want +got):\n%s", diff)
	}
}

type failingDestroy struct{ *trace }

func (failingDestroy) Destroy(context.Context, workload.ID) error { return errors.New("stuck") }
