package doctor

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// TestRun makes all checks on this machine, as root, and sees that they leave nothing.
func TestRun(t *testing.T) {
	before := leftovers(t)
	checks := Run(t.Context())
	if diff := cmp.Diff(before, leftovers(t)); diff != "" {
		t.Errorf("left behind:\n%s", diff)
	}
	byName := map[string]Check{}
	for _, c := range checks {
		t.Logf("%-9s %-38s %-8s %s | %s", c.Area, c.Name, c.Status, c.Found, c.Hint)
		if _, twice := byName[c.Name]; twice {
			t.Errorf("%s is there twice", c.Name)
		}
		byName[c.Name] = c
		if c.Area == "" || c.Needs == "" || c.Found == "" || c.Status == "" {
			t.Errorf("%+v has an empty field", c)
		}
		if c.Status == Missing && c.Hint == "" {
			t.Errorf("%s is missing, and there is no hint", c.Name)
		}
	}
	// What the sandbox and the network of the tests need, so that a broken probe shows.
	for _, name := range []string{
		"root", "version", "namespaces", "overlayfs", "seccomp", "pidfd", "landlock", "system calls", "device filter", "memory kills", "user namespaces and idmapped mounts", "hierarchy",
		"throw-away namespace", "nftables", "veth", "X25519MLKEM768", "class native",
	} {
		if c := byName[name]; c.Status != OK {
			t.Errorf("%s: %+v", name, c)
		}
	}
}

// leftovers lists what probes could leave: temporary folders, links, mounts, descriptors and children.
func leftovers(t *testing.T) map[string]string {
	t.Helper()
	temp, err := filepath.Glob(filepath.Join(os.TempDir(), "tero-doctor-*"))
	if err != nil {
		t.Fatal(err)
	}
	fds, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	var open []string
	for _, fd := range fds {
		target, err := os.Readlink("/proc/self/fd/" + fd.Name())
		if err == nil && !strings.Contains(target, "anon_inode") { // the poller of the runtime stays
			open = append(open, target)
		}
	}
	children, err := filepath.Glob("/proc/self/task/*/children")
	if err != nil {
		t.Fatal(err)
	}
	var pids strings.Builder
	for _, c := range children {
		b, err := os.ReadFile(c)
		if err != nil && !errors.Is(err, os.ErrNotExist) && !errors.Is(err, unix.ESRCH) {
			t.Fatal(err)
		}
		pids.Write(b)
	}
	links, err := filepath.Glob("/sys/class/net/tero[0-3]")
	if err != nil {
		t.Fatal(err)
	}
	return map[string]string{
		"temporary": fmt.Sprint(temp), "mounts": strings.Join(doctorMounts(t), ","), "children": pids.String(),
		"links": fmt.Sprint(links), "descriptors": fmt.Sprint(len(open)),
	}
}

func doctorMounts(t *testing.T) []string {
	t.Helper()
	b, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for line := range strings.Lines(string(b)) {
		if strings.Contains(line, "tero-doctor") {
			out = append(out, line)
		}
	}
	return out
}

func TestRunStopsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if got := Run(ctx); len(got) != 0 {
		t.Errorf("%d checks were made", len(got))
	}
}

func TestParseRelease(t *testing.T) {
	for in, want := range map[string]struct {
		version version
		ok      bool
	}{
		"6.18.44-vendor": {version{6, 18}, true},
		"5.4":            {version{5, 4}, true},
		"6.1rc3":         {version{6, 1}, true},
		"":               {version{}, false},
		"six.one":        {version{}, false},
		"6.":             {version{}, false},
	} {
		got, ok := parseRelease(in)
		if ok != want.ok || ok && got != want.version {
			t.Errorf("%q: %v, %v", in, got, ok)
		}
	}
	if !(version{5, 14}).less(oldest) || (version{6, 0}).less(oldest) || oldest.less(oldest) {
		t.Error("versions are out of order")
	}
}

func TestMissingCapabilities(t *testing.T) {
	for name, c := range map[string]struct {
		status string
		want   []string
		ok     bool
	}{
		"all":         {"Name:\tx\nCapEff:\t000001ffffffffff\n", nil, true},
		"no resource": {"CapInh:\t0000000000000000\nCapEff:\t000001fffeffffff\nCapBnd:\t0\n", []string{"CAP_SYS_RESOURCE"}, true},
		"garbage":     {"CapEff:\tzz\n", nil, false},
		"absent":      {"Name:\tx\n", nil, false},
	} {
		got, ok := missingCapabilities(c.status, 40)
		if diff := cmp.Diff(c.want, got); diff != "" || ok != c.ok {
			t.Errorf("%s: %v, %s", name, ok, diff)
		}
	}
}

func TestParseHierarchies(t *testing.T) {
	const (
		v1cpu  = "30 24 0:26 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu,cpuacct\n"
		v1mem  = "31 24 0:27 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory\n"
		named  = "32 24 0:28 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,name=systemd\n"
		v2     = "33 24 0:29 / /sys/fs/cgroup rw,relatime shared:4 - cgroup2 cgroup2 rw,nsdelegate\n"
		hybrid = "33 24 0:29 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw\n"
	)
	for name, c := range map[string]struct {
		in   string
		want hierarchies
	}{
		"none":    {"20 1 0:1 / /proc rw - proc proc rw\nnonsense\n", hierarchies{mode: "none"}},
		"v2":      {v2, hierarchies{mode: "v2", unified: "/sys/fs/cgroup"}},
		"v1":      {v1cpu + v1mem + named, hierarchies{mode: "v1", controllers: []string{"cpu", "cpuacct", "memory"}}},
		"hybrid":  {v1mem + hybrid, hierarchies{mode: "hybrid", controllers: []string{"memory"}, unified: "/sys/fs/cgroup/unified"}},
		"systemd": {named + v2, hierarchies{mode: "v2", unified: "/sys/fs/cgroup"}},
	} {
		if diff := cmp.Diff(c.want, parseHierarchies(c.in), cmp.AllowUnexported(hierarchies{})); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
}

func TestUnifiedPath(t *testing.T) {
	for in, want := range map[string]string{"0::/\n": "/", "3:memory:/x\n0::/a/b\n": "/a/b", "3:memory:/x\n": "", "": ""} {
		if got := unifiedPath(in); got != want {
			t.Errorf("%q: %q", in, got)
		}
	}
}

func TestBytesText(t *testing.T) {
	for in, want := range map[uint64]string{0: "0 B", 1023: "1023 B", 1024: "1.0 KiB", 3 << 29: "1.5 GiB", 1<<64 - 1: "16.0 EiB"} {
		if got := bytesText(in); got != want {
			t.Errorf("%d: %q", in, got)
		}
	}
}

func TestReason(t *testing.T) {
	for want, err := range map[string]error{
		"the kernel does not have it": fmt.Errorf("x: %w", unix.ENOSYS), "not permitted": unix.EPERM, "not there": os.ErrNotExist, "odd": errors.New("odd"),
	} {
		if got := reason(err); got != want {
			t.Errorf("%v: %q", err, got)
		}
	}
}

func TestWorst(t *testing.T) {
	for want, checks := range map[Status][]Check{
		OK: nil, Warn: {{Status: OK}, {Status: Warn}}, Missing: {{Status: Missing}, {Status: Warn}},
	} {
		if got := Worst(checks); got != want {
			t.Errorf("%v: %v", checks, got)
		}
	}
}

func TestNativeFollowsItsParts(t *testing.T) {
	if c := nativeCheck([]Check{{Name: "seccomp", Status: Missing}, {Name: "TPM", Status: Missing}}); c.Status != Missing || c.Found != "cannot work: seccomp" {
		t.Errorf("%+v", c)
	}
	if c := nativeCheck(nil); c.Status != OK {
		t.Errorf("%+v", c)
	}
}

func TestTPMSocket(t *testing.T) {
	t.Setenv("TERO_TPM", filepath.Join(t.TempDir(), "none"))
	if c := tpmCheck(t.Context()); c.Status != Missing {
		t.Errorf("%+v", c)
	}
}
