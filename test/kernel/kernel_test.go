// Package kernel runs the core of the tests on another kernel than this
// machine's: Debian's, with cgroup v2 alone and AppArmor, emulated by QEMU. No
// virtualisation is needed of the processor.
package kernel

import (
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// patience is how long the machine may take in all; it takes some three minutes on two
// cores that are its own.
const patience = 15 * time.Minute

// suite is what runs on the other kernel of a package's tests.
type suite struct {
	dir string
	// run and skip choose tests, as the flags of go test do.
	run, skip string
}

// suites are the tests that ask the kernel for something. What only computes
// runs here as well as there.
func suites() []suite {
	return []suite{
		{dir: "runtime/internal/cgroup"},
		{dir: "runtime/internal/devicefilter"},
		// Not composed images, for which there has to be Linux 6.15.
		{dir: "runtime/internal/rootfs", run: "^Test(Mount|Covers|Clone)"},
		{dir: "runtime/internal/program"},
		{dir: "runtime/internal/seccomp", run: "^TestKernel"},
		{dir: "runtime/keeper"},
		{
			dir: "runtime/sandbox",
			run: "^TestConformance$/^layers$|^Test(" + // what waits for races, or fills things, shows no more here
				"AppArmor|SELinux|OldKernel|StateWithoutIDMaps|" +
				"Pause|DestroyEndsAPausedContainer|Unkillable|Update|DeviceFilter|Devices|Limits|BindMounts|Volumes|Tmpfs|" +
				"OwnerKilled|KeeperKilled|MachineRestarted|FailedCreateLeavesNothing|ConnectionsLost)$",
			skip: "^TestConformance$/^layers$/^mean_images$",
		},
		{dir: "network-manager/internal/nft"},
		{dir: "network-manager/internal/nflog"},
		// A first packet is soon lost where all takes ten times as long.
		{dir: "network-manager/network", skip: "^TestTheFirstPacketArrives$"},
		{dir: "common/doctor", run: "^TestRun$"},
		{dir: "test/e2e", run: "^Test(ContainersOutliveTheDaemon|Streams|CNI)$"},
	}
}

// programs are what those tests build.
func programs() []string {
	return []string{"./cmd/tero-init", "./runtime/sandbox/sandboxtest/testdata/probe"}
}

func TestDebianKernel(t *testing.T) {
	var tests []test
	for _, s := range suites() {
		args := []string{"-test.v", "-test.timeout=10m", "-test.run=" + s.run}
		if s.skip != "" {
			args = append(args, "-test.skip="+s.skip)
		}
		tests = append(tests, test{
			Name: s.dir, Dir: "/tero/" + s.dir, Binary: "/tero/bin/vm/tests/" + filepath.Base(s.dir) + ".test", Args: args,
		})
	}
	m := newMachine(t, tests)
	began := time.Now()
	reports, err := m.run(t)
	if err != nil {
		t.Error(err)
	}
	t.Logf("%s took %v", filepath.Base(m.kernel), time.Since(began).Round(time.Second))
	for _, s := range suites() {
		t.Run(s.dir, func(t *testing.T) {
			passed, err := reports[s.dir].judge()
			if err != nil {
				t.Fatal(err)
			}
			t.Logf("%d tests passed in %v", passed, reports[s.dir].took)
		})
	}
}

// TestPanicIsTold crashes the kernel during a test.
func TestPanicIsTold(t *testing.T) {
	m := newMachine(t, []test{
		{Name: "true", Dir: "/", Binary: "/bin/true"},
		{Name: "crash", Dir: "/", Binary: "/bin/sh", Args: []string{"-c", "echo c >/proc/sysrq-trigger"}},
	})
	reports, err := m.run(t)
	if _, ran := reports["true"]; !ran || err == nil {
		t.Fatalf("%+v, %v", reports, err)
	}
	for _, want := range []string{"during the tests of crash", "Kernel panic - not syncing: sysrq triggered crash"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("no %q in: %v", want, err)
		}
	}
}

// newMachine gives a machine with Debian's kernel.
func newMachine(t *testing.T, tests []test) *machine {
	t.Helper()
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	vm := filepath.Join(root, "bin", "vm")
	dependOn(t, root)
	if err := build(); err != nil {
		t.Fatal(err)
	}
	image, err := filepath.Glob(filepath.Join(vm, "kernel/boot/vmlinuz-*"))
	if err != nil || len(image) != 1 {
		t.Fatalf("%d kernels in %s: %v", len(image), vm, err)
	}
	version := strings.TrimPrefix(filepath.Base(image[0]), "vmlinuz-")
	mods, err := findModules(filepath.Join(vm, "kernel/lib/modules", version))
	if err != nil {
		t.Fatal(err)
	}
	return &machine{
		kernel: image[0], mods: mods, init: filepath.Join(vm, "programs/guest"), dir: t.TempDir(),
		shares: map[string]string{"usr": "/usr", "tero": root},
		plan: plan{
			Shares: map[string]string{"usr": "/usr", "tero": "/tero"}, Programs: "/tero/bin/vm/programs", Tests: tests,
		},
	}
}

// dependOn looks at all sources, so that go test knows that a result of this test
// is of no use when one of them has changed.
func dependOn(t *testing.T, root string) {
	t.Helper()
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
		case d.IsDir() && (path == filepath.Join(root, "bin") || d.Name() == ".git"):
			return fs.SkipDir
		case d.Type().IsRegular():
			_, err = os.Stat(path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// build fetches the kernel and builds what runs on it, from the tree under test.
var build = sync.OnceValue(func() error {
	tests := []string{"go", "test", "-c", "-o", "bin/vm/tests/"}
	for _, s := range suites() {
		tests = append(tests, "./"+s.dir)
	}
	for _, args := range [][]string{
		{"make", "-s", "kernel", "build", "examples"},
		append([]string{"go", "build", "-trimpath", "-o", "bin/vm/programs/", "./test/kernel/guest"}, programs()...),
		tests,
	} {
		cmd := exec.Command(args[0], args[1:]...)
		cmd.Dir = "../.."
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("%s: %w\n%s", strings.Join(args, " "), err, out)
		}
	}
	return nil
})
