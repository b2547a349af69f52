package abuse

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	runtimev1 "tero.internal/api/runtime/v1"
	"tero.internal/common/fault"
	"tero.internal/test/testnode"
)

// TestAbuse lets one container after the other misbehave beside a neighbour.
func TestAbuse(t *testing.T) {
	s := open(t, "abuse")
	t.Run("fork bomb", func(t *testing.T) { s.meanwhile(t, func() { s.forkBomb(t) }) })
	t.Run("memory bomb", func(t *testing.T) { s.meanwhile(t, func() { s.memoryBomb(t) }) })
	t.Run("descriptors", func(t *testing.T) { s.meanwhile(t, func() { s.manyFiles(t) }) })
	t.Run("flood", func(t *testing.T) { s.meanwhile(t, func() { s.flood(t) }) })
	t.Run("deaf", func(t *testing.T) { s.meanwhile(t, func() { s.deaf(t) }) })
	t.Run("stuck", func(t *testing.T) { s.meanwhile(t, func() { s.stuck(t) }) })
	t.Run("environment", func(t *testing.T) { s.meanwhile(t, func() { s.environment(t) }) })
}

// forkBomb makes as many processes as it may, and tries on.
func (s *scene) forkBomb(t *testing.T) {
	const limit = 100
	s.run(&runtimev1.ContainerSpec{Name: "forks", Args: []string{"forks"}, Pids: limit})
	s.says(t, "forks", "held:")
	s.answers(t, 50)
	tasks := tasks(t, s.node)
	t.Logf("%d tasks of %d", tasks, limit)
	if tasks != limit {
		t.Errorf("there are %d tasks, %d are allowed and tried for", tasks, limit)
	}
	s.remove(t, "forks")
	s.event(t, "container.exited", "forks", map[string]string{"code": "137"})
	s.event(t, "container.removed", "forks", nil)
}

// memoryBomb takes more memory than it may.
func (s *scene) memoryBomb(t *testing.T) {
	s.answers(t, 10)
	s.run(&runtimev1.ContainerSpec{Name: "memory", Args: []string{"memory"}, MemoryBytes: 64 << 20})
	if exit := s.ends(t, "memory"); !exit.GetOomKilled() || exit.GetCode() != 137 {
		t.Errorf("%v", exit)
	}
	s.event(t, "container.exited", "memory", map[string]string{"oom_killed": "true", "code": "137"})
	s.remove(t, "memory")
}

// manyFiles opens as many files as it may.
func (s *scene) manyFiles(t *testing.T) {
	s.run(&runtimev1.ContainerSpec{Name: "files", Args: []string{"files"}})
	t.Log(s.says(t, "files", "held: too many open files"))
	s.answers(t, 50)
	s.remove(t, "files")
}

// flood writes a gigabyte as fast as it is taken.
func (s *scene) flood(t *testing.T) {
	const size, most = 1 << 30, 64 << 20
	keeper := s.node.Keepers()[0]
	began := time.Now()
	s.run(&runtimev1.ContainerSpec{Name: "flood", Args: []string{"flood", strconv.Itoa(size)}})
	done := make(chan *runtimev1.Exit, 1)
	go func() { done <- s.ends(t, "flood") }()
	var largest int64
	look := time.NewTicker(50 * time.Millisecond)
	defer look.Stop()
	for exit := (*runtimev1.Exit)(nil); exit == nil; {
		select {
		case <-look.C:
			largest = max(largest, pss(t, keeper))
		case exit = <-done:
			if exit.GetCode() != 0 {
				t.Errorf("%v", exit)
			}
		}
	}
	t.Logf("%d MiB in %v; the keeper had %.1f MiB at most", size>>20, time.Since(began).Round(time.Millisecond), float64(largest)/(1<<20))
	if largest > most {
		t.Errorf("the keeper took %d bytes", largest)
	}
	if last := s.node.Tero(t.Context(), "logs", "--tail", "1", "flood"); last.Stdout != fmt.Sprintf("%063d\n", size/64-1) {
		t.Errorf("the last line is %q (%s)", last.Stdout, last.Stderr)
	}
	s.event(t, "container.exited", "flood", map[string]string{"code": "0"})
	s.remove(t, "flood")
}

// deaf ignores its stop signal: it is killed when its time is over.
func (s *scene) deaf(t *testing.T) {
	s.run(&runtimev1.ContainerSpec{Name: "deaf", Args: []string{"deaf"}})
	s.says(t, "deaf", "deaf")
	began := time.Now()
	r, err := s.api.Runtime.StopContainer(t.Context(), &runtimev1.StopContainerRequest{Container: "deaf", TimeoutSeconds: proto.Int32(1)})
	if err != nil {
		t.Fatal(err)
	}
	if took := time.Since(began); took < time.Second || r.GetExit().GetCode() != 137 || r.GetExit().GetOomKilled() {
		t.Errorf("after %v: %v", took, r.GetExit())
	}
	s.event(t, "container.exited", "deaf", map[string]string{"code": "137", "oom_killed": "false"})
	s.remove(t, "deaf")
}

// stuck is a container whose process the kernel does not let go, as one that
// waits for a dead disk: here it is frozen, which keeps SIGKILL waiting too.
func (s *scene) stuck(t *testing.T) {
	s.run(&runtimev1.ContainerSpec{Name: "stuck", Args: []string{"idle"}})
	c, err := s.api.Runtime.InspectContainer(t.Context(), &runtimev1.InspectContainerRequest{Container: "stuck"})
	if err != nil || c.GetContainer().GetPid() == 0 {
		t.Fatalf("%v, %v", c, err)
	}
	thaw := freeze(t, int(c.GetContainer().GetPid()))
	r := s.node.Tero(t.Context(), "stop", "--time", "1", "stuck")
	if r.Code == 0 || !strings.Contains(r.Stderr, "the kernel does not let its process go") || !strings.Contains(r.Stderr, "hint: ") {
		t.Errorf("stop: code %d: %s", r.Code, r.Stderr)
	}
	s.event(t, "container.stuck", "stuck", nil)
	thaw()
	if exit := s.ends(t, "stuck"); exit.GetCode() != 137 {
		t.Errorf("%v", exit)
	}
	s.remove(t, "stuck")
}

// freeze freezes a process in a cgroup v1 of its own until the function is called.
func freeze(t *testing.T, pid int) (thaw func()) {
	t.Helper()
	dir := "/sys/fs/cgroup/freezer/tero-test-abuse"
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	write := func(file, value string) {
		if err := os.WriteFile(filepath.Join(dir, file), []byte(value), 0); err != nil {
			t.Error(err)
		}
	}
	t.Cleanup(func() {
		if err := testnode.WaitFor(context.WithoutCancel(t.Context()), func() (bool, string) {
			err := os.Remove(dir)
			return err == nil, fmt.Sprint(err)
		}); err != nil {
			t.Error(err)
		}
	})
	write("cgroup.procs", strconv.Itoa(pid))
	write("freezer.state", "FROZEN")
	return func() { write("freezer.state", "THAWED") }
}

// environment gives environments up to far more than the kernel takes, over the
// API and by the command, and wants each to work or to be told.
func (s *scene) environment(t *testing.T) {
	const entry = 100_000
	env := func(total, entry int) []string {
		var env []string
		for n := 0; n < total; n += entry {
			env = append(env, fmt.Sprintf("V%d=%s", n, strings.Repeat("x", entry)))
		}
		return env
	}
	for _, c := range []struct {
		name  string
		env   []string
		wants string // of the error; it works when empty
	}{
		{"1-mib", env(1<<20, entry), ""},
		{"1-mib-of-short-ones", env(1<<20, 100), ""},
		{"2-mib", env(2<<20, entry), "environment of \"/subject\" are too long"},
		{"one-of-2-mib", env(2<<20, 2<<20), "has 2097155 bytes; the kernel takes 131071 in one"},
		{"8-mib", env(8<<20, entry), "bytes is too large between node and client"},
	} {
		_, err := s.api.Runtime.Run(t.Context(), &runtimev1.RunRequest{Spec: &runtimev1.ContainerSpec{
			Name: c.name, Image: "subject:v1", Args: []string{"env"}, Env: c.env,
		}})
		if c.wants != "" {
			if err == nil || !strings.Contains(err.Error(), c.wants) || fault.KindOf(err) != fault.Invalid || fault.HintOf(err) == "" {
				t.Errorf("%s: %v (hint %q), want %q", c.name, err, fault.HintOf(err), c.wants)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		// PATH and HOME are the only others.
		if said := s.says(t, c.name, ""); !strings.HasPrefix(said, fmt.Sprint(len(c.env)+2, " ")) {
			t.Errorf("%s: %d entries were given, it has %s", c.name, len(c.env), said)
		}
		s.remove(t, c.name)
	}
	args := []string{"run", "--rm"}
	for _, e := range env(1<<20, entry) {
		args = append(args, "--env", e)
	}
	if r := s.node.Tero(t.Context(), append(args, "subject:v1", "env")...); r.Code != 0 || !strings.HasPrefix(r.Stdout, "13 ") {
		t.Errorf("tero run with 1 MiB of environment: code %d, %q %q", r.Code, r.Stdout, r.Stderr)
	}
}

// tasks counts the processes and threads of the container that has most of them.
func tasks(t *testing.T, n *testnode.Node) int {
	t.Helper()
	parents, err := n.Cgroups()
	if err != nil {
		t.Fatal(err)
	}
	most := 0
	for _, parent := range parents {
		files, err := filepath.Glob(filepath.Join(parent, "*", "pids.current"))
		if err != nil {
			t.Fatal(err)
		}
		for _, file := range files {
			b, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			count, err := strconv.Atoi(strings.TrimSpace(string(b)))
			if err != nil {
				t.Fatal(err)
			}
			most = max(most, count)
		}
	}
	return most
}

// pss is a process's share of memory, in bytes.
func pss(t *testing.T, pid int) int64 {
	t.Helper()
	size, err := testnode.PSS(pid)
	if err != nil {
		t.Fatal(err)
	}
	return size
}
