package abuse

import (
	"fmt"
	"sync"
	"testing"
	"time"

	runtimev1 "tero.internal/api/runtime/v1"
	"tero.internal/test/testnode"
)

const (
	crowd = 500
	// perContainer is the most of TERO's own memory that a container may cost.
	perContainer = 512 << 10
)

// TestCrowd runs 500 containers at once on networks, asks for all of them, kills
// terod under them and takes them up again, and removes them.
func TestCrowd(t *testing.T) {
	s := open(t, "crowd")
	before := memory(t, s.node)
	name := func(i int) string { return fmt.Sprintf("crowd-%d", i) }
	s.meanwhile(t, func() {
		began := time.Now()
		s.eight(func(i int) error {
			_, err := s.api.Runtime.Run(t.Context(), &runtimev1.RunRequest{Spec: &runtimev1.ContainerSpec{Name: name(i), Image: "subject:v1", Args: []string{"idle"}}})
			return err
		})
		t.Logf("%d launches in %v", crowd, time.Since(began).Round(time.Millisecond))
	})
	if t.Failed() {
		return
	}
	pids := s.all(t)
	m := memory(t, s.node)
	grown := (m - before) / crowd
	t.Logf("terod, keeper and prepared sandboxes: %.1f MiB before, %.1f MiB with %d containers: %d kB in all and %d kB more a container",
		mib(before), mib(m), crowd, m/crowd/1024, grown/1024)
	if m/crowd > perContainer {
		t.Errorf("a container takes %d bytes of TERO's memory", m/crowd)
	}

	if err := s.node.Kill9(); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	if err := s.node.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Logf("terod, killed and started again, took them up in %v and has %.1f MiB with its keeper", time.Since(began).Round(time.Millisecond), mib(memory(t, s.node)))
	for name, pid := range s.all(t) {
		if pids[name] != pid {
			t.Errorf("%s was process %d and is %d", name, pids[name], pid)
		}
	}
	began = time.Now()
	s.eight(func(i int) error {
		_, err := s.api.Runtime.RemoveContainer(t.Context(), &runtimev1.RemoveContainerRequest{Container: name(i), Force: true})
		return err
	})
	t.Logf("removed in %v; %.1f MiB after all", time.Since(began).Round(time.Millisecond), mib(memory(t, s.node)))
}

// eight does f for each of the crowd, eight at a time.
func (s *scene) eight(f func(i int) error) {
	s.Helper()
	next := make(chan int)
	var work sync.WaitGroup
	for range 8 {
		work.Go(func() {
			for i := range next {
				if err := f(i); err != nil {
					s.Errorf("%d: %v", i, err)
				}
			}
		})
	}
	for i := range crowd {
		next <- i
	}
	close(next)
	work.Wait()
}

// all gives the process of each container, all of which must run.
func (s *scene) all(t *testing.T) map[string]int32 {
	t.Helper()
	r, err := s.api.Runtime.ListContainers(t.Context(), &runtimev1.ListContainersRequest{All: true})
	if err != nil {
		t.Fatal(err)
	}
	pids := map[string]int32{}
	for _, c := range r.GetContainers() {
		if c.GetState() != runtimev1.State_STATE_RUNNING || c.GetPid() == 0 {
			t.Errorf("%s is %v: %v", c.GetName(), c.GetState(), c.GetExit())
		}
		pids[c.GetName()] = c.GetPid()
	}
	if len(pids) != crowd+1 {
		t.Errorf("there are %d containers, want %d and the neighbour", len(pids), crowd)
	}
	return pids
}

// memory is that of all processes of TERO that there are while containers idle.
func memory(t *testing.T, n *testnode.Node) int64 {
	t.Helper()
	size, err := n.Memory()
	if err != nil {
		t.Fatal(err)
	}
	return size
}

func mib(bytes int64) float64 { return float64(bytes) / (1 << 20) }
