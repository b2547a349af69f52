package sandbox_test

import (
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"tero.internal/common/fault"
	"tero.internal/common/workload"
)

// TestPause pauses a container that writes without end, and looks at its log.
func TestPause(t *testing.T) {
	n := newNode(t)
	s := n.suite()
	id := s.Launch(t, s.Spec(t, "ticks", "1000000", "1ms"))
	s.Expect(t, id, "tick 3\n")
	paused := func(want bool) {
		t.Helper()
		if got, err := n.Paused(t.Context(), id); err != nil || got != want {
			t.Errorf("paused %v, %v; want %v", got, err, want)
		}
	}
	paused(false)
	for range 2 {
		if err := n.Pause(t.Context(), id); err != nil {
			t.Fatal(err)
		}
	}
	paused(true)
	pid, err := n.PID(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	status := func() string {
		b, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "schedstat"))
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	before := status()
	// A process that goes on would have written by now.
	other := s.Launch(t, s.Spec(t, "ticks", "20", "5ms"))
	s.End(t, other)
	if after := status(); after != before {
		t.Errorf("a paused process ran: %s, then %s", before, after)
	}
	for range 2 {
		if err := n.Unpause(t.Context(), id); err != nil {
			t.Fatal(err)
		}
	}
	paused(false)
	s.Expect(t, id, "tick 200\n")
	// SIGKILL ends a paused one at once.
	if err := n.Pause(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	if err := n.Signal(t.Context(), id, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if exit := s.End(t, id); exit.Code != 137 {
		t.Errorf("%+v", exit)
	}
	if err := n.Pause(t.Context(), workload.NewID()); fault.KindOf(err) != fault.NotFound {
		t.Errorf("pause of nothing: %v", err)
	}
}

// TestDestroyEndsAPausedContainer needs no thaw: cgroup v2 lets SIGKILL through.
func TestDestroyEndsAPausedContainer(t *testing.T) {
	n := newNode(t)
	s := n.suite()
	id := s.Launch(t, s.Spec(t, "hold"))
	s.Expect(t, id, "holding\n")
	if err := n.Pause(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	if err := n.Destroy(t.Context(), id); err != nil {
		t.Fatal(err)
	}
}

// TestUpdate changes the limits of a running container.
func TestUpdate(t *testing.T) {
	n := newNode(t)
	s := n.suite()
	spec := s.Spec(t, "hold")
	spec.Resources = workload.Resources{MilliCPU: 500, MemoryBytes: 64 << 20, Pids: 50}
	id := s.Launch(t, spec)
	s.Expect(t, id, "holding\n")
	limits := func() (v []string) {
		for _, pattern := range []string{"pids.max", "cpu.cfs_quota_us", "cpu.max", "memory.limit_in_bytes", "memory.max"} {
			v = append(v, groupFiles(t, n, id, pattern)...)
		}
		return v
	}
	first := strings.Join(limits(), ", ")
	for name, step := range map[string]struct {
		r    workload.Resources
		kind fault.Kind
		want string
	}{
		"less than is in use": {workload.Resources{MilliCPU: 700, MemoryBytes: 4096, Pids: 51}, fault.Conflict, first},
		"too little CPU":      {workload.Resources{MilliCPU: 1, MemoryBytes: 64 << 20, Pids: 50}, fault.Invalid, first},
	} {
		if err := n.Update(t.Context(), id, step.r); fault.KindOf(err) != step.kind {
			t.Errorf("%s: %v", name, err)
		}
		if got := strings.Join(limits(), ", "); got != step.want {
			t.Errorf("%s: limits %s, want %s", name, got, step.want)
		}
	}
	for _, r := range []workload.Resources{{MilliCPU: 1500, MemoryBytes: 128 << 20, Pids: 60}, {MilliCPU: 250, MemoryBytes: 32 << 20, Pids: 40}} {
		if err := n.Update(t.Context(), id, r); err != nil {
			t.Fatal(err)
		}
		got := strings.Join(limits(), ", ")
		for _, want := range []string{strconv.Itoa(int(r.Pids)), strconv.Itoa(int(r.MilliCPU) * 100), strconv.Itoa(int(r.MemoryBytes))} {
			if !strings.Contains(got, want) {
				t.Errorf("limits %s lack %s", got, want)
			}
		}
	}
	if err := n.Update(t.Context(), workload.NewID(), workload.Resources{}); fault.KindOf(err) != fault.NotFound {
		t.Errorf("update of nothing: %v", err)
	}
}

// groupFiles reads a file of a container's cgroups, in every hierarchy that has it.
func groupFiles(t *testing.T, n *node, id workload.ID, name string) (values []string) {
	t.Helper()
	var record struct{ Cgroup struct{ Dirs []string } }
	b, err := os.ReadFile(filepath.Join(n.config.RunDir, "containers", string(id), "record.json"))
	if err == nil {
		err = json.Unmarshal(b, &record)
	}
	if err != nil {
		t.Fatal(err)
	}
	for _, dir := range record.Cgroup.Dirs {
		b, err := os.ReadFile(filepath.Join(dir, name))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		values = append(values, strings.TrimSpace(string(b)))
	}
	return values
}

// TestUnkillable shows what stop must live with: a process that no SIGKILL ends,
// as one that waits for a dead disk. v1's freezer makes one.
func TestUnkillable(t *testing.T) {
	freezer := t.TempDir() // mounted here, for a host may have v2 only
	if err := unix.Mount("cgroup", freezer, "cgroup", 0, "freezer"); err != nil {
		t.Fatal("mount the freezer of cgroup v1: ", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(freezer, 0); err != nil {
			t.Error(err)
		}
	})
	n := newNode(t)
	s := n.suite()
	id := s.Launch(t, s.Spec(t, "hold"))
	s.Expect(t, id, "holding\n")
	group := filepath.Join(freezer, n.config.CgroupParent)
	if err := os.Mkdir(group, 0o755); err != nil {
		t.Fatal(err)
	}
	thaw := func() {
		if err := os.WriteFile(filepath.Join(group, "freezer.state"), []byte("THAWED"), 0); err != nil {
			t.Error(err)
		}
	}
	t.Cleanup(func() {
		if err := os.Remove(group); err != nil {
			t.Error(err)
		}
	})
	pid, err := n.PID(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	for _, w := range [][2]string{{"cgroup.procs", strconv.Itoa(pid)}, {"freezer.state", "FROZEN"}} {
		if err := os.WriteFile(filepath.Join(group, w[0]), []byte(w[1]), 0); err != nil {
			t.Fatal(err)
		}
	}
	if err := n.Signal(t.Context(), id, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	for i, act := range []func(context.Context, workload.ID) error{
		func(ctx context.Context, id workload.ID) error { _, err := n.Wait(ctx, id); return err }, n.End, n.Destroy,
	} {
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		if err := act(ctx, id); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("act %d: %v", i, err)
		}
		cancel()
	}
	thaw()
	if err := n.Destroy(t.Context(), id); err != nil {
		t.Error(err)
	}
}
