package cgroup

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"tero.internal/common/fault"
)

func TestWithout(t *testing.T) {
	list := []hierarchy{{controllers: []string{"devices"}}, {controllers: []string{"cpu", "devices"}}, {v2: true}}
	want := []hierarchy{{controllers: []string{"cpu"}}, {v2: true}}
	if diff := cmp.Diff(want, without(list, "devices"), cmp.AllowUnexported(hierarchy{})); diff != "" {
		t.Error(diff)
	}
}

// TestDevices opens real devices in a cgroup that has but one, by each of the
// ways that a host can have: a filter on v2, and the v1 controller.
func TestDevices(t *testing.T) {
	tree, err := Open("tero-test-devices")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := tree.Remove(context.WithoutCancel(t.Context())); err != nil {
			t.Error(err)
		}
	})
	filtered := tree.hierarchies
	if slices.ContainsFunc(filtered, func(h hierarchy) bool { return h.has("devices") }) || tree.noFilter != nil {
		t.Fatalf("devices are not filtered on v2: %v", tree.noFilter)
	}
	major, minor := int64(1), int64(3)
	limits := &specs.LinuxResources{Devices: []specs.LinuxDeviceCgroup{
		{Access: "rwm"}, {Allow: true, Type: "c", Major: &major, Minor: &minor, Access: "rw"},
	}}
	ways := map[string][]hierarchy{"v2": filtered}
	if controller := "/sys/fs/cgroup/devices"; exists(controller) { // a hybrid host has both
		parent := filepath.Join(controller, "tero-test-devices-v1")
		if err := os.MkdirAll(parent, 0o755); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = os.Remove(parent) })
		ways["v1"] = append(slices.Clone(filtered), hierarchy{controllers: []string{"devices"}, dir: parent})
	}
	for name, hierarchies := range ways {
		t.Run(name, func(t *testing.T) {
			tree.hierarchies = hierarchies
			defer func() { tree.hierarchies = filtered }()
			g := tree.Plan("one", nil)
			if err := tree.Create(t.Context(), g, limits); err != nil {
				t.Fatal(err)
			}
			script := ""
			for _, dir := range g.Dirs {
				script += "echo 0 > " + filepath.Join(dir, "cgroup.procs") + "; "
			}
			out, err := exec.CommandContext(t.Context(), "sh", "-c", script+"for d in null zero; do (: <> /dev/$d) 2>/dev/null && echo $d; done; true").CombinedOutput()
			if err != nil || string(out) != "null\n" {
				t.Errorf("%v %q", err, out)
			}
			if err := g.Remove(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
	tree.noFilter = errors.New("not here")
	g := tree.Plan("one", nil)
	if err := tree.Create(t.Context(), g, limits); fault.KindOf(err) != fault.Unsupported || exists(g.V2) {
		t.Errorf("without any way to filter: %v", err)
	}
	if err := tree.Create(t.Context(), g, &specs.LinuxResources{}); err != nil {
		t.Errorf("without rules: %v", err)
	}
	if err := g.Remove(t.Context()); err != nil {
		t.Error(err)
	}
}

func exists(path string) bool { _, err := os.Stat(path); return err == nil }
