package daemon

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"tero.internal/common/eventbus"
	"tero.internal/common/fault"
	"tero.internal/common/ocilayout"
	"tero.internal/common/undo"
	"tero.internal/common/workload"
	"tero.internal/runtime/image"
	"tero.internal/runtime/launch"
)

const inOwnNetwork = "TERO_TEST_IN_NETNS"

// TestMain runs the tests with the whole process in a network and a mount
// namespace of its own, so that what other tests do meanwhile is not seen.
func TestMain(m *testing.M) {
	if os.Getenv(inOwnNetwork) != "" {
		os.Exit(m.Run())
	}
	runtime.LockOSThread()
	err := unix.Unshare(unix.CLONE_NEWNET | unix.CLONE_NEWNS)
	if err == nil {
		err = unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, "")
	}
	if err == nil { // the thread that executes is the one that is left
		err = unix.Exec("/proc/self/exe", os.Args, append(os.Environ(), inOwnNetwork+"=1"))
	}
	fmt.Fprintln(os.Stderr, "the tests need namespaces of their own:", err)
	os.Exit(1)
}

var errStep = errors.New("the step failed")

// failing is every step of a pipeline: the real one, but for the step named,
// which fails as a step must, without having done anything.
type failing struct {
	*launch.Pipeline
	step   string
	during func() // called when the step fails
}

func (f failing) check(step string) error {
	if f.step == step {
		f.during()
		return errStep
	}
	return nil
}

func (f failing) Resolve(ctx context.Context, ref string) (workload.Image, error) {
	if err := f.check("resolve"); err != nil {
		return workload.Image{}, err
	}
	return f.Images.Resolve(ctx, ref)
}

func (f failing) Release(i workload.Image) { f.Images.Release(i) }

func (f failing) AdmitLaunch(ctx context.Context, a workload.Admission) (workload.Grant, error) {
	if err := f.check("decide"); err != nil {
		return workload.Grant{}, err
	}
	return f.Policy.AdmitLaunch(ctx, a)
}

func (f failing) Level() workload.Level { return f.Attestor.Level() }

func (f failing) Measure(ctx context.Context, m workload.Measurement) (workload.Evidence, error) {
	if err := f.check("measure"); err != nil {
		return workload.Evidence{}, err
	}
	return f.Attestor.Measure(ctx, m)
}

func (f failing) Enrol(ctx context.Context, id workload.ID, name string, e workload.Evidence) (workload.Identity, error) {
	if err := f.check("enrol"); err != nil {
		return workload.Identity{}, err
	}
	return f.Identities.Enrol(ctx, id, name, e)
}

func (f failing) Revoke(ctx context.Context, id workload.ID) error {
	return f.Identities.Revoke(ctx, id)
}

func (f failing) Configure(s workload.Spec, i workload.Image) (*specs.Spec, error) {
	if err := f.check("configure"); err != nil {
		return nil, err
	}
	return f.Sandboxes.Configure(s, i)
}

func (f failing) Create(ctx context.Context, id workload.ID, c *specs.Spec, i workload.Image) (string, error) {
	if err := f.check("create"); err != nil {
		return "", err
	}
	return f.Sandboxes.Create(ctx, id, c, i)
}

func (f failing) Start(ctx context.Context, id workload.ID, e *workload.Endpoint) error {
	if err := f.check("start"); err != nil {
		return err
	}
	return f.Sandboxes.Start(ctx, id, e)
}

func (f failing) Destroy(ctx context.Context, id workload.ID) error {
	return f.Sandboxes.Destroy(ctx, id)
}

func (f failing) Attach(ctx context.Context, a workload.Attachment) (workload.Endpoint, error) {
	if err := f.check("attach"); err != nil {
		return workload.Endpoint{}, err
	}
	return f.Network.Attach(ctx, a)
}

func (f failing) Detach(ctx context.Context, id workload.ID) error { return f.Network.Detach(ctx, id) }

// failingPlugins is apart because policy's and plugins' methods have other names.
type failingPlugins struct {
	failing
}

func (f failingPlugins) Admit(ctx context.Context, s workload.Spec, i workload.Image) (workload.Spec, []workload.PluginVerdict, error) {
	if err := f.check("admit"); err != nil {
		return s, nil, err
	}
	return f.Plugins.Admit(ctx, s, i)
}

// TestEachStepFailingLeavesTheKernelClean fails every step of the real pipeline
// in turn and compares the kernel with what it was before.
func TestEachStepFailingLeavesTheKernelClean(t *testing.T) {
	n := openNode(t)
	importTrue(t, n)
	real := &launch.Pipeline{
		Images: n.images, Plugins: n.plugins, Policy: n.policy, Attestor: n.evidence, Identities: n.issuer,
		Sandboxes: n.sandboxes, Network: n.network, TrustDomain: n.trustDomain,
	}
	spec := workload.Spec{Name: "probe", Image: "true:v1", Network: workload.NetworkDefault}
	before, mounted := kernel(t, n), mounts(t)
	for _, step := range []string{"resolve", "admit", "decide", "configure", "measure", "enrol", "create", "attach", "start", ""} {
		name := step
		if step == "" {
			name = "none, and the program is missing"
			spec.Entrypoint = []string{"/nothing"}
		}
		t.Run(name, func(t *testing.T) {
			f := failing{real, step, func() {
				if step == "resolve" {
					return
				}
				if _, err := n.images.Remove(t.Context(), "true:v1"); fault.KindOf(err) != fault.Conflict || !strings.Contains(err.Error(), "a launch") {
					t.Errorf("image removed from under a launch: %v", err)
				}
			}}
			p := &launch.Pipeline{
				Images: f, Plugins: failingPlugins{f}, Policy: f, Attestor: f, Identities: f, Sandboxes: f, Network: f, TrustDomain: n.trustDomain,
			}
			_, err := p.Run(t.Context(), workload.Principal{Local: true}, workload.NewID(), spec)
			if err == nil || step != "" && !errors.Is(err, errStep) {
				t.Fatalf("Run = %v, want the step's error", err)
			}
			deadline := time.NewTimer(10 * time.Second)
			defer deadline.Stop()
			tick := time.NewTicker(5 * time.Millisecond)
			defer tick.Stop()
			for { // a link that is given up is removed by a worker
				diff := cmp.Diff(before, kernel(t, n)) + newMounts(t, mounted)
				if diff == "" {
					return
				}
				select {
				case <-deadline.C:
					t.Fatalf("the kernel is not as it was (-before +after):\n%s", diff)
				case <-tick.C:
				}
			}
		})
	}
	if _, err := n.images.Remove(t.Context(), "true:v1"); err != nil {
		t.Errorf("image rm after all launches: %v", err)
	}
}

// openNode opens everything of a node but its sockets.
func openNode(t *testing.T) *node {
	t.Helper()
	base := t.TempDir()
	c := DefaultConfig()
	c.NodeName, c.StateDir, c.RunDir = "launchtest", filepath.Join(base, "state"), filepath.Join(base, "run")
	c.CgroupParent, c.Network.Table, c.InitPath = "tero-launchtest", "quantum_launchtest", filepath.Join(base, "tero-init")
	c.Pool = 0 // what is prepared ahead of time is no part of any launch
	if err := c.Validate(); err != nil {
		t.Fatal(err)
	}
	build(t, c.InitPath, "tero.internal/cmd/tero-init")
	n := &node{config: c, log: slog.New(slog.DiscardHandler), bus: &eventbus.Bus{}, ended: make(chan struct{})}
	if err := n.name(); err != nil {
		t.Fatal(err)
	}
	var open undo.Stack
	ctx := context.WithoutCancel(t.Context())
	t.Cleanup(func() {
		if _, err := n.end(ctx); err != nil {
			t.Error(err)
		}
		if err := open.Run(ctx); err != nil {
			t.Error(err)
		}
	})
	for _, start := range []func(context.Context, *undo.Stack) error{n.openDecisions, n.openTrust, n.openMachine, n.openRuntime} {
		if err := start(ctx, &open); err != nil {
			t.Fatal(err)
		}
	}
	return n
}

func build(t *testing.T, out, source string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "go", "build", "-o", out, source)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if b, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("go build %s: %v: %s", source, err, b)
	}
}

// importTrue gives the node the signed image true:v1.
func importTrue(t *testing.T, n *node) {
	t.Helper()
	dir := t.TempDir()
	build(t, filepath.Join(dir, "true"), "tero.internal/examples/true")
	if _, err := ocilayout.Build(t.Context(), ocilayout.BuildOptions{
		Source: filepath.Join(dir, "true"), Reference: "true:v1", Layout: filepath.Join(dir, "layout"),
	}); err != nil {
		t.Fatal(err)
	}
	layout, err := ocilayout.Open(filepath.Join(dir, "layout"))
	if err != nil {
		t.Fatal(err)
	}
	key, err := ocilayout.GenerateKey()
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := layout.Sign("true:v1", key); err != nil {
		t.Fatal(err)
	}
	public, err := key.Public()
	if err != nil {
		t.Fatal(err)
	}
	pem, err := public.MarshalPEM()
	if err != nil {
		t.Fatal(err)
	}
	trust := filepath.Join(n.config.TrustDir, "images")
	if err := os.MkdirAll(trust, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(trust, "test.pub"), pem, 0o600); err != nil {
		t.Fatal(err)
	}
	var archive bytes.Buffer
	if err := layout.WriteTar(t.Context(), &archive); err != nil {
		t.Fatal(err)
	}
	if _, err := n.images.Import(t.Context(), &archive, image.ImportOptions{}); err != nil {
		t.Fatal(err)
	}
}

// kernel describes everything that a launch makes: cgroups, links, the nftables
// table, the keeper's children and network namespaces, and what the
// modules believe to hold.
func kernel(t *testing.T, n *node) map[string]string {
	t.Helper()
	k := map[string]string{
		"endpoints":  fmt.Sprint(len(n.network.Endpoints(""))),
		"identities": fmt.Sprint(len(n.issuer.List())),
	}
	boxes, err := n.sandboxes.List(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	k["sandboxes"] = fmt.Sprint(boxes)
	for name, cmd := range map[string][]string{
		"links": {"ip", "-o", "link"},
		"nft":   {"nft", "-s", "list", "table", "inet", n.config.Network.Table},
	} {
		out, err := exec.CommandContext(t.Context(), cmd[0], cmd[1:]...).CombinedOutput()
		if err != nil {
			t.Fatalf("%v: %v: %s", cmd, err, out)
		}
		k[name] = string(out)
	}
	var groups []string
	if err := filepath.WalkDir("/sys/fs/cgroup", func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() && strings.Contains(path, "/"+n.config.CgroupParent+"/") {
			groups = append(groups, path)
		}
		return nil // somebody else's cgroup may go while we walk
	}); err != nil {
		t.Fatal(err)
	}
	k["cgroups"] = strings.Join(groups, "\n")
	k["keeper"] = keeper(t)
	return k
}

func mounts(t *testing.T) []string {
	t.Helper()
	b, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	return strings.Split(string(b), "\n")
}

// newMounts gives the mounts that were not there before. Some may have gone:
// who removes a folder takes the mounts on it away in all namespaces.
func newMounts(t *testing.T, before []string) string {
	t.Helper()
	return strings.Join(slices.DeleteFunc(mounts(t), func(m string) bool { return slices.Contains(before, m) }), "\n")
}

// keeper describes what the keeper, a child of this process, holds.
func keeper(t *testing.T) string {
	t.Helper()
	tasks, err := filepath.Glob("/proc/self/task/*/children")
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, f := range tasks {
		b, err := os.ReadFile(f)
		if err != nil {
			continue // the thread has ended
		}
		for pid := range strings.FieldsSeq(string(b)) {
			comm, _ := os.ReadFile("/proc/" + pid + "/comm")
			if !strings.HasPrefix(string(comm), "tero-init") {
				continue
			}
			children, _ := filepath.Glob("/proc/" + pid + "/task/*/children")
			for _, c := range children {
				b, _ := os.ReadFile(c)
				if s := strings.TrimSpace(string(b)); s != "" {
					out = append(out, "child "+s)
				}
			}
			fds, _ := filepath.Glob("/proc/" + pid + "/fd/*")
			for _, fd := range fds {
				if to, _ := os.Readlink(fd); strings.HasPrefix(to, "net:[") {
					out = append(out, to)
				}
			}
		}
	}
	return strings.Join(out, "\n")
}
