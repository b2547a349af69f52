package workload_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"tero.internal/common/fault"
	"tero.internal/common/workload"
)

func TestComplete(t *testing.T) {
	img := workload.Image{Reference: "localhost/web:v1", Config: workload.ImageConfig{
		Entrypoint: []string{"/web"}, Cmd: []string{"-p", "80"}, Env: []string{"PATH=/bin", "A=image"}, User: "1000",
	}}
	tests := map[string]struct {
		spec workload.Spec
		img  workload.Image
		args []string
		err  string
	}{
		"image's own":            {img: img, args: []string{"/web", "-p", "80"}},
		"args replace the cmd":   {spec: workload.Spec{Args: []string{"-v"}}, img: img, args: []string{"/web", "-v"}},
		"entrypoint drops cmd":   {spec: workload.Spec{Entrypoint: []string{"/sh"}}, img: img, args: []string{"/sh"}},
		"entrypoint and args":    {spec: workload.Spec{Entrypoint: []string{"/sh"}, Args: []string{"-c"}}, img: img, args: []string{"/sh", "-c"}},
		"nothing names commands": {img: workload.Image{Reference: "localhost/x"}, err: "names no command"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			got, err := tt.spec.Complete(tt.img)
			if tt.err != "" {
				if fault.KindOf(err) != fault.Invalid || !strings.Contains(err.Error(), tt.err) {
					t.Fatalf("error %v of kind %v, want %q, the caller's fault", err, fault.KindOf(err), tt.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.args, got.Args); diff != "" {
				t.Errorf("args (-want +got):\n%s", diff)
			}
			again, err := got.Complete(workload.Image{Reference: "localhost/other"})
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(got, again); diff != "" {
				t.Errorf("a completed spec still depends on the image (-first +second):\n%s", diff)
			}
		})
	}
}

func TestCompleteMergesTheEnvironment(t *testing.T) {
	img := workload.Image{Config: workload.ImageConfig{Cmd: []string{"/web"}, Env: []string{"PATH=/bin", "A=image", "B=image"}}}
	s, err := workload.Spec{Name: "web", Env: []string{"A=mine", "C=mine"}}.Complete(img)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"PATH=/bin", "A=mine", "B=image", "C=mine"}, s.Env); diff != "" {
		t.Errorf("env (-want +got):\n%s", diff)
	}
	if s.Hostname != "web" || s.User != "0:0" || s.WorkingDir != "/" || s.StopSignal != "SIGTERM" || s.Resources.Pids == 0 {
		t.Errorf("defaults are missing: %+v", s)
	}
}

func TestValidate(t *testing.T) {
	good := workload.Spec{Name: "web", Image: "web", Network: "default"}
	if err := good.Validate(); err != nil {
		t.Fatal(err)
	}
	tests := map[string]struct {
		change func(*workload.Spec)
		want   string
	}{
		"name":      {func(s *workload.Spec) { s.Name = "Web_1" }, `"Web_1"`},
		"no image":  {func(s *workload.Spec) { s.Image = "" }, "no image"},
		"network":   {func(s *workload.Spec) { s.Network = "../x" }, "network"},
		"workdir":   {func(s *workload.Spec) { s.WorkingDir = "etc" }, "absolute"},
		"env":       {func(s *workload.Spec) { s.Env = []string{"=x"} }, "KEY=value"},
		"nul":       {func(s *workload.Spec) { s.Args = []string{"a\x00b"} }, "NUL"},
		"host name": {func(s *workload.Spec) { s.Hostname = "a\n10.0.0.1 web" }, "host name"},
		"negative":  {func(s *workload.Spec) { s.Resources.Pids = -1 }, "negative"},
		"tiny":      {func(s *workload.Spec) { s.Resources.MemoryBytes = 4096 }, "4 MiB"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			s := good
			tt.change(&s)
			if err := s.Validate(); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("Validate = %v, want it to say %q", err, tt.want)
			}
		})
	}
}

func TestCanonicalDigestIgnoresTheOrderOfKeys(t *testing.T) {
	a, err := workload.CanonicalDigest(map[string]any{"b": 1, "a": []string{"x"}})
	if err != nil {
		t.Fatal(err)
	}
	b, err := workload.CanonicalDigest(struct {
		A []string `json:"a"`
		B float64  `json:"b"`
	}{[]string{"x"}, 1})
	if err != nil || a != b {
		t.Errorf("%s and %s differ (%v)", a, b, err)
	}
}

func TestLevelText(t *testing.T) {
	for l := workload.L0; l <= workload.L3; l++ {
		got, err := workload.ParseLevel(l.String())
		if err != nil || got != l || !strings.HasPrefix(l.Describe(), l.String()) {
			t.Errorf("ParseLevel(%q) = %v, %v", l, got, err)
		}
	}
	if _, err := workload.ParseLevel("L4"); err == nil {
		t.Error("L4 was accepted")
	}
}

func TestID(t *testing.T) {
	id := workload.NewID()
	if err := id.Validate(); err != nil || len(id.Short()) != 12 || id == workload.NewID() {
		t.Errorf("id %q: %v", id, err)
	}
	for _, bad := range []workload.ID{"", "../../etc", id + "0", workload.ID(strings.ToUpper(string(id[:31])) + "G")} {
		if bad.Validate() == nil {
			t.Errorf("%q was accepted", bad)
		}
	}
}
