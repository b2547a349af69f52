package landlock

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

func TestRules(t *testing.T) {
	mounts := []specs.Mount{
		{Destination: "/proc", Type: "proc"},
		{Destination: "/dev", Type: "tmpfs"},
		{Destination: "/dev/shm", Type: "tmpfs"},
		{Destination: "/dev/mqueue", Type: "mqueue"},
		{Destination: "/sys", Type: "sysfs", Options: []string{"nosuid", "ro"}},
		{Destination: "/tmp/", Type: "tmpfs"},
		{Destination: "/data/read", Type: "bind", Options: []string{"ro"}},
		{Destination: "/data/write", Type: "bind"},
	}
	nodes := &specs.Linux{Devices: []specs.LinuxDevice{{Path: "/dev/fuse"}, {Path: "/srv/node"}}}
	for name, c := range map[string]struct {
		config specs.Spec
		abi    int
		want   *Ruleset
	}{
		"no landlock":  {specs.Spec{}, 0, nil},
		"too old":      {specs.Spec{}, 1, nil},
		"not wanted":   {specs.Spec{Annotations: map[string]string{Annotation: Off}}, 7, nil},
		"nothing else": {specs.Spec{}, 2, &Ruleset{0x3fff, []Rule{{"/", read}, {"/dev", unix.LANDLOCK_ACCESS_FS_WRITE_FILE}}, 0x6}},
		"read-only root": {specs.Spec{Root: &specs.Root{Readonly: true}, Mounts: mounts, Linux: nodes}, 7, &Ruleset{0xffff, []Rule{
			{"/", read},
			{"/dev", change | populate | ioctl},
			{"/proc", change},
			{"/dev/mqueue", read | change | populate},
			{"/tmp", change | populate},
			{"/data/write", change | populate},
			{"/srv/node", change | ioctl},
		}, 0xc006}},
		"writable root": {specs.Spec{Root: &specs.Root{}, Mounts: mounts}, 7, &Ruleset{0xffff, []Rule{
			{"/", read | change | populate},
			{"/dev", change | ioctl},
			{"/dev/mqueue", read | change | populate},
		}, 0xc006}},
	} {
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff(c.want, Rules(&c.config, c.abi)); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// TestRights holds the numbers against what each version of the kernel knows
// (linux/landlock.h): a right too many, and it takes no ruleset at all.
func TestRights(t *testing.T) {
	for abi, want := range map[int]uint64{2: 1<<14 - 1, 3: 1<<15 - 1, 4: 1<<15 - 1, 5: 1<<16 - 1, 7: 1<<16 - 1} {
		r := Rules(&specs.Spec{Root: &specs.Root{}}, abi)
		if r.Handled != want {
			t.Errorf("ABI %d: %#x, want %#x", abi, r.Handled, want)
		}
		for _, rule := range r.Rules {
			if rule.Access&devices != 0 {
				t.Errorf("ABI %d: nodes can be made below %s", abi, rule.Path)
			}
		}
	}
}
