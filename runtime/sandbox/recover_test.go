package sandbox_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"tero.internal/common/fault"
	"tero.internal/common/workload"
	"tero.internal/runtime/internal/keeperclient"
	"tero.internal/runtime/sandbox"
)

// ownerVariable makes the test binary play a terod: it opens the driver that
// the variable describes, launches containers and waits to be killed.
const ownerVariable = "TERO_SANDBOX_TEST_OWNER"

type owner struct {
	Config sandbox.Config
	Layer  string
	Args   [][]string
	// Create leaves the containers before their start.
	Create bool
}

// play is the owner's process.
func play(description string) error {
	var o owner
	if err := json.Unmarshal([]byte(description), &o); err != nil {
		return err
	}
	ctx := context.Background()
	o.Config.Log = slog.New(slog.DiscardHandler)
	n, err := sandbox.OpenNative(ctx, o.Config)
	if err != nil {
		return err
	}
	img := workload.Image{Reference: "localhost/probe:test", Layers: []string{o.Layer}}
	for _, args := range o.Args {
		id := workload.NewID()
		spec, err := workload.Spec{Name: "probe", Image: img.Reference, Network: workload.NetworkNone, Args: args}.Complete(img)
		if err != nil {
			return err
		}
		config, err := n.Configure(spec, img)
		if err != nil {
			return err
		}
		if _, err := n.Create(ctx, id, config, img); err != nil {
			return err
		}
		if !o.Create {
			if err := n.Start(ctx, id, nil); err != nil {
				return err
			}
		}
		fmt.Println(id)
	}
	select {}
}

// ownerKilled runs containers in a process that is then killed with SIGKILL.
func ownerKilled(t *testing.T, o owner) (n *node, ids []workload.ID) {
	t.Helper()
	dir := t.TempDir()
	o.Layer = built.layer
	o.Config = sandbox.Config{
		StateDir: filepath.Join(dir, "state"), RunDir: filepath.Join(dir, "run"), InitPath: built.init,
		CgroupParent: "tero-test-" + workload.NewID().Short(), Pool: 2,
	}
	description, err := json.Marshal(o)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), ownerVariable+"="+string(description))
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	scan := bufio.NewScanner(out)
	for range o.Args {
		if !scan.Scan() {
			t.Fatal("the owner ended early")
		}
		ids = append(ids, workload.ID(scan.Text()))
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	o.Config.Log, o.Config.Pool = slog.New(slog.DiscardHandler), 0 // what it had prepared must be gone
	return openNode(t, o.Config), ids
}

func TestOwnerKilled(t *testing.T) {
	n, ids := ownerKilled(t, owner{Args: [][]string{{"/probe", "ticks", "40", "10ms"}, {"/probe", "wait"}, {"/probe", "exit", "4"}}})
	s := n.suite()
	phases := map[workload.ID]sandbox.Status{}
	list, err := n.List(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range list {
		phases[p.ID] = p
	}
	if len(list) != 3 || phases[ids[1]].Phase != sandbox.Running || phases[ids[1]].PID == 0 {
		t.Errorf("taken up: %+v", list)
	}
	if exit := s.End(t, ids[0]); exit.Code != 3 || exit.Lost {
		t.Errorf("ticks: %+v", exit)
	}
	var want strings.Builder
	for i := range 40 {
		fmt.Fprintln(&want, "tick", i)
	}
	if out := s.Output(t, ids[0]); out != want.String() {
		t.Errorf("log is not whole: %q", out)
	}
	if err := n.Signal(t.Context(), ids[1], unix.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if exit := s.End(t, ids[1]); exit.Code != 7 || s.Output(t, ids[1]) != "waiting\nterminated\n" {
		t.Errorf("wait: %+v %q", exit, s.Output(t, ids[1]))
	}
	if exit := s.End(t, ids[2]); exit.Code != 4 {
		t.Errorf("exit: %+v", exit)
	}
}

func TestOwnerKilledBeforeStart(t *testing.T) {
	n, ids := ownerKilled(t, owner{Args: [][]string{{"/probe", "exit", "4"}}, Create: true})
	list, err := n.List(t.Context())
	if err != nil || len(list) != 1 || list[0].ID != ids[0] || list[0].Phase != sandbox.Created {
		t.Fatalf("%+v, %v", list, err)
	}
	// Nobody was told that it runs, so nobody goes on with it.
	if err := n.Start(t.Context(), ids[0], nil); fault.KindOf(err) != fault.Conflict || fault.HintOf(err) == "" {
		t.Errorf("start of what another process made: %v", err)
	}
	if err := n.Destroy(t.Context(), ids[0]); err != nil {
		t.Error(err)
	}
	if state := kernelState(t, n); state != "cgroups 0, folders 0, mounts 0" {
		t.Error(state)
	}
}

// launchWithKeeper launches a container and finds its keeper by the path that Create gives.
func launchWithKeeper(t *testing.T, n *node) (id workload.ID, keeper int, netns string) {
	t.Helper()
	s := n.suite()
	config, err := n.Configure(s.Spec(t, "hold"), image())
	if err != nil {
		t.Fatal(err)
	}
	id = workload.NewID()
	if netns, err = n.Create(t.Context(), id, config, image()); err != nil {
		t.Fatal(err)
	}
	if err := n.Start(t.Context(), id, nil); err != nil {
		t.Fatal(err)
	}
	s.Expect(t, id, "holding\n")
	if _, err := fmt.Sscanf(netns, "/proc/%d/fd/", &keeper); err != nil {
		t.Fatal(err)
	}
	return id, keeper, netns
}

// TestExecEndsWithItsOwner takes the keeper over from the terod that began a
// process: nobody has its streams any more, nor could ask how it ended.
func TestExecEndsWithItsOwner(t *testing.T) {
	n := newNode(t)
	id, _, _ := launchWithKeeper(t, n)
	p, err := n.Exec(t.Context(), id, sandbox.ExecSpec{Args: []string{"/probe", "hold"}})
	if err != nil {
		t.Fatal(err)
	}
	process, err := unix.PidfdOpen(p.PID(), 0)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Close(process) }()
	next, err := sandbox.OpenNative(t.Context(), n.config)
	if err != nil {
		t.Fatal(err)
	}
	if ended, err := unix.Poll([]unix.PollFd{{Fd: int32(process), Events: unix.POLLIN}}, 5000); err != nil || ended != 1 {
		t.Errorf("the process outlives its owner: %d, %v", ended, err)
	}
	if _, err := next.PID(t.Context(), id); err != nil {
		t.Errorf("the container does not: %v", err)
	}
	if err := next.Close(); err != nil {
		t.Error(err)
	}
}

func TestKeeperKilled(t *testing.T) {
	n := newNode(t)
	id, keeper, _ := launchWithKeeper(t, n)
	pid, err := n.PID(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	process, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Close(process) }()
	waited := make(chan error, 1)
	var exit sandbox.Exit
	go func() {
		var err error
		exit, err = n.Wait(t.Context(), id)
		waited <- err
	}()
	if err := unix.Kill(keeper, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	select {
	case err = <-waited:
	case <-time.After(10 * time.Second):
		t.Fatal("Wait goes on without a keeper")
	}
	if err != nil || !exit.Lost || exit.Code != 137 {
		t.Errorf("%+v, %v", exit, err)
	}
	// The container ends with its keeper, and the next one works.
	if ended, err := unix.Poll([]unix.PollFd{{Fd: int32(process), Events: unix.POLLIN}}, 5000); err != nil || ended != 1 {
		t.Errorf("the container outlives its keeper: %d, %v", ended, err)
	}
	list, err := n.List(t.Context())
	if err != nil || len(list) != 1 || list[0].Phase != sandbox.Exited || !list[0].Exit.Lost {
		t.Errorf("%+v, %v", list, err)
	}
	if err := n.Destroy(t.Context(), id); err != nil {
		t.Error(err)
	}
	if exit, _ := n.suite().Run(t, n.suite().Spec(t, "exit", "6")); exit.Code != 6 {
		t.Errorf("%+v", exit)
	}
}

// TestMachineRestarted leaves only what is on disk of a container, as when the
// machine is started anew, and an exit record whose content went down with it.
// The running container, which a machine would have ended, must not go on.
func TestMachineRestarted(t *testing.T) {
	n := newNode(t)
	running, keeper, netns := launchWithKeeper(t, n)
	exited := n.suite().Launch(t, n.suite().Spec(t, "true"))
	n.suite().End(t, exited)
	process, err := unix.PidfdOpen(keeper, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Close(process) }()
	if err := unix.Kill(keeper, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if ended, err := unix.Poll([]unix.PollFd{{Fd: int32(process), Events: unix.POLLIN}}, 5000); err != nil || ended != 1 {
		t.Fatalf("the keeper goes on: %d, %v", ended, err)
	}
	if _, err := os.Stat(netns); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the network namespace is held without a keeper: %v", err)
	}
	if err := os.RemoveAll(n.config.RunDir); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Join(n.config.RunDir, "containers"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(filepath.Join(n.config.StateDir, "containers", string(exited), "exit.json"), 0); err != nil {
		t.Fatal(err)
	}
	_, _ = n.List(t.Context()) // may be what finds the keeper lost
	list, err := n.List(t.Context())
	if err != nil || len(list) != 2 {
		t.Fatalf("%+v, %v", list, err)
	}
	for _, s := range list {
		if s.Phase != sandbox.Exited || !s.Exit.Lost || s.Exit.Code != 137 {
			t.Errorf("%+v, %+v", s, s.Exit)
		}
	}
	for _, id := range []workload.ID{running, exited} {
		if err := n.Destroy(t.Context(), id); err != nil {
			t.Error(err)
		}
	}
	if state := kernelState(t, n); state != "cgroups 0, folders 0, mounts 0" {
		t.Error(state)
	}
}

func TestShutdownRefusesContainers(t *testing.T) {
	n := newNode(t)
	n.suite().Launch(t, n.suite().Spec(t, "hold"))
	if err := n.Shutdown(t.Context()); fault.KindOf(err) != fault.Conflict {
		t.Errorf("%v", err)
	}
}

// TestFailedCreateLeavesNothing fails Create at each of its steps.
func TestFailedCreateLeavesNothing(t *testing.T) {
	for name, c := range map[string]struct {
		image  func(*workload.Image)
		sysctl string
		mount  string
		cgroup bool
	}{
		"root file system": {image: func(i *workload.Image) { i.Layers, i.Erofs = []string{"/nowhere"}, "" }},
		"composed image":   {image: func(i *workload.Image) { i.Erofs = "/nowhere" }},
		"child":            {sysctl: "net.nothing"}, "compile": {mount: "no-such-type"}, "mount": {mount: "sysfs"}, "cgroup": {cgroup: true},
	} {
		t.Run(name, func(t *testing.T) {
			n := newNode(t)
			config, err := n.Configure(n.suite().Spec(t), image())
			if err != nil {
				t.Fatal(err)
			}
			img := image()
			if c.image != nil {
				c.image(&img)
			}
			if c.sysctl != "" {
				config.Linux.Sysctl[c.sysctl] = "1"
			}
			if c.mount != "" {
				config.Mounts[0].Type, config.Mounts[0].Options = c.mount, []string{"bad=option"}
			}
			if c.cgroup {
				limit := int64(1)
				config.Linux.Resources.CPU = &specs.LinuxCPU{Quota: &limit}
			}
			before := kernelState(t, n)
			id := workload.NewID()
			if _, err := n.Create(t.Context(), id, config, img); err == nil {
				t.Fatal("no error")
			} else {
				t.Log(err)
			}
			if after := kernelState(t, n); after != before {
				t.Errorf("before %s\nafter %s", before, after)
			}
			if list, err := n.List(t.Context()); err != nil || len(list) != 0 {
				t.Errorf("%+v, %v", list, err)
			}
		})
	}
}

// kernelState counts what a container has: cgroups, folders, processes, mounts.
func kernelState(t *testing.T, n *node) string {
	t.Helper()
	var b strings.Builder
	groups := 0
	for _, pattern := range []string{"/sys/fs/cgroup/*/" + n.config.CgroupParent + "/*", "/sys/fs/cgroup/*/*/*/" + n.config.CgroupParent + "/*", "/sys/fs/cgroup/" + n.config.CgroupParent + "/*"} {
		names, _ := filepath.Glob(pattern)
		for _, name := range names {
			if st, err := os.Stat(name); err == nil && st.IsDir() {
				groups++
			}
		}
	}
	folders, _ := filepath.Glob(filepath.Join(filepath.Dir(n.config.StateDir), "*", "containers", "*"))
	more, _ := filepath.Glob(filepath.Join(filepath.Dir(n.config.StateDir), "*", "prepared", "*"))
	folders = append(folders, more...)
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprintf(&b, "cgroups %d, folders %d, mounts %d", groups, len(folders), strings.Count(string(mounts), n.config.StateDir))
	return b.String()
}

// TestConnectionsLost drops the driver's connection to the keeper again and
// again, as another one that replaces it does: the container runs on, and Wait
// and all else with it.
func TestConnectionsLost(t *testing.T) {
	n := newNode(t)
	s := n.suite()
	id := s.Launch(t, s.Spec(t, "wait"))
	s.Expect(t, id, "waiting\n")
	type end struct {
		exit sandbox.Exit
		err  error
	}
	waited := make(chan end, 1)
	go func() {
		exit, err := n.Wait(t.Context(), id)
		waited <- end{exit, err}
	}()
	keeper := 0
	for i := range 6 {
		c, err := keeperclient.Dial(t.Context(), n.config.RunDir)
		if err != nil {
			t.Fatal(err)
		}
		if keeper != 0 && c.PID != keeper {
			t.Fatalf("keeper %d replaced %d", c.PID, keeper)
		}
		keeper = c.PID
		select {
		case <-c.Done(): // Wait has connected anew
		case e := <-waited:
			t.Fatalf("after connection %d: %+v, %v", i, e.exit, e.err)
		}
		c.Close()
	}
	if err := n.Signal(t.Context(), id, unix.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if e := <-waited; e.err != nil || e.exit.Code != 7 || e.exit.Lost {
		t.Errorf("%+v, %v", e.exit, e.err)
	}
}
