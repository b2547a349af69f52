package sandbox_test

import (
	"slices"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"tero.internal/common/workload"
)

// TestDeviceFilter takes the right to a device away from a container that has
// its node, and can open it otherwise.
func TestDeviceFilter(t *testing.T) {
	n := newNode(t)
	s := n.suite()
	for _, c := range []struct {
		keep bool
		want string
	}{{true, "reached /dev/zero: <nil>\nreached /dev/full: <nil>\n"}, {false, "reached /dev/zero: operation not permitted\nreached /dev/full: <nil>\n"}} {
		config, err := n.Configure(s.Spec(t, "reach", "/dev/zero", "/dev/full"), image())
		if err != nil {
			t.Fatal(err)
		}
		if !c.keep {
			r := config.Linux.Resources
			before := len(r.Devices)
			r.Devices = slices.DeleteFunc(r.Devices, func(d specs.LinuxDeviceCgroup) bool {
				return d.Allow && d.Major != nil && *d.Major == 1 && d.Minor != nil && *d.Minor == 5
			})
			if len(r.Devices) != before-1 {
				t.Fatal("the configuration has no rule of its own for /dev/zero")
			}
		}
		id := workload.NewID()
		if _, err := n.Create(t.Context(), id, config, image()); err != nil {
			t.Fatal(err)
		}
		if err := n.Start(t.Context(), id, nil); err != nil {
			t.Fatal(err)
		}
		s.End(t, id)
		if out := s.Output(t, id); out != c.want {
			t.Errorf("%q, want %q", out, c.want)
		}
	}
}
