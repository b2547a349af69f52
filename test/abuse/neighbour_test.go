// Package abuse runs containers that do their worst, and crowds of them, and
// looks whether they are held to what they may, whether their neighbours go on,
// and whether the node says what happened.
package abuse

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	nodev1 "tero.internal/api/node/v1"
	runtimev1 "tero.internal/api/runtime/v1"
	"tero.internal/client"
	"tero.internal/test/nodetest"
	"tero.internal/test/testnode"
)

// slowest is the longest that a neighbour may take to answer, whatever happens:
// no measure of speed, but the difference between slow and stuck.
const slowest = 5 * time.Second

// scene is a node with a container that must not suffer, and what happened there.
type scene struct {
	*testing.T
	node *testnode.Node
	api  *client.Client

	mu     sync.Mutex // guards what follows
	events []*nodev1.WatchEventsResponse
	took   []time.Duration
	failed error
}

// open starts a node with a neighbour that is asked all the time.
func open(t *testing.T, name string) *scene {
	t.Helper()
	s := &scene{T: t, node: nodetest.Start(t, name)}
	s.api = nodetest.Client(t, s.node)
	ctx, stop := context.WithCancel(t.Context())
	var work sync.WaitGroup
	t.Cleanup(func() {
		stop()
		work.Wait()
	})
	events, err := s.api.Node.WatchEvents(ctx, &nodev1.WatchEventsRequest{})
	if err != nil {
		t.Fatal(err)
	}
	work.Go(func() {
		for {
			e, err := events.Recv()
			if err != nil {
				return
			}
			s.mu.Lock()
			s.events = append(s.events, e)
			s.mu.Unlock()
		}
	})
	s.run(&runtimev1.ContainerSpec{Name: "neighbour", Args: []string{"echo"}, OpenStdin: true})
	talk, err := s.api.Runtime.Attach(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if err := talk.Send(&runtimev1.AttachRequest{Request: &runtimev1.AttachRequest_Start{
		Start: &runtimev1.AttachStart{Container: "neighbour", FromBeginning: true},
	}}); err != nil {
		t.Fatal(err)
	}
	work.Go(func() {
		if err := s.ask(ctx, talk); err != nil && ctx.Err() == nil {
			s.mu.Lock()
			s.failed = err
			s.mu.Unlock()
		}
	})
	return s
}

// ask sends the neighbour a line every now and then and notes how long the
// answer takes.
func (s *scene) ask(ctx context.Context, talk runtimev1.RuntimeService_AttachClient) error {
	every := time.NewTicker(20 * time.Millisecond)
	defer every.Stop()
	for n := 0; ; n++ {
		line := fmt.Sprintln("ping", n)
		began := time.Now()
		if err := talk.Send(&runtimev1.AttachRequest{Request: &runtimev1.AttachRequest_Stdin{Stdin: []byte(line)}}); err != nil && !errors.Is(err, io.EOF) {
			return err
		}
		for got := ""; got != line; {
			m, err := talk.Recv()
			if err != nil {
				return fmt.Errorf("the neighbour was asked %q: %w", line, err)
			}
			if m.GetOutput() == nil || !strings.HasPrefix(line, got+string(m.GetOutput().GetData())) {
				return fmt.Errorf("the neighbour answers %v to %q", m, line)
			}
			got += string(m.GetOutput().GetData())
		}
		s.mu.Lock()
		s.took = append(s.took, time.Since(began))
		s.mu.Unlock()
		select {
		case <-every.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// meanwhile does f, and fails when the neighbour did not answer in the meantime.
func (s *scene) meanwhile(t *testing.T, f func()) {
	t.Helper()
	s.mu.Lock()
	before := len(s.took)
	s.mu.Unlock()
	f()
	// An answer that comes after all this shows that it is not stuck.
	var took []time.Duration
	if err := testnode.WaitFor(t.Context(), func() (bool, string) {
		s.mu.Lock()
		defer s.mu.Unlock()
		took = slices.Clone(s.took[before:])
		return len(took) >= 3 || s.failed != nil, fmt.Sprintf("the neighbour gave %d answers", len(took))
	}); err != nil {
		t.Error(err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.failed != nil {
		t.Fatal(s.failed)
	}
	if len(took) == 0 {
		return
	}
	slices.Sort(took)
	longest := took[len(took)-1]
	t.Logf("the neighbour answered %d times, p50 %v, max %v", len(took), took[len(took)/2].Round(time.Microsecond), longest.Round(time.Microsecond))
	if longest > slowest {
		t.Errorf("the neighbour took %v to answer", longest)
	}
}

// answers waits until the neighbour has answered that often.
func (s *scene) answers(t *testing.T, times int) {
	t.Helper()
	s.mu.Lock()
	want := len(s.took) + times
	s.mu.Unlock()
	if err := testnode.WaitFor(t.Context(), func() (bool, string) {
		s.mu.Lock()
		defer s.mu.Unlock()
		return len(s.took) >= want || s.failed != nil, fmt.Sprintf("the neighbour is %d answers short of %d", want-len(s.took), times)
	}); err != nil {
		t.Error(err)
	}
}

// run launches a container of the subject.
func (s *scene) run(spec *runtimev1.ContainerSpec) {
	s.Helper()
	spec.Image = "subject:v1"
	if _, err := s.api.Runtime.Run(s.Context(), &runtimev1.RunRequest{Spec: spec}); err != nil {
		s.Fatalf("run %s: %v", spec.GetName(), err)
	}
}

// says waits until the container has written a line that begins so.
func (s *scene) says(t *testing.T, name, begin string) string {
	t.Helper()
	var said string
	if err := testnode.WaitFor(t.Context(), func() (bool, string) {
		r := s.node.Tero(t.Context(), "logs", name)
		for line := range strings.Lines(r.Stdout) {
			if strings.HasPrefix(line, begin) {
				said = strings.TrimSpace(line)
				return true, ""
			}
		}
		return false, fmt.Sprintf("%s never said %q: %s%s", name, begin, r.Stdout, r.Stderr)
	}); err != nil {
		t.Fatal(err)
	}
	return said
}

// ends waits for the container's exit.
func (s *scene) ends(t *testing.T, name string) *runtimev1.Exit {
	t.Helper()
	r, err := s.api.Runtime.WaitContainer(t.Context(), &runtimev1.WaitContainerRequest{Container: name})
	if err != nil {
		t.Fatal(err)
	}
	return r.GetExit()
}

// remove removes the container by force.
func (s *scene) remove(t *testing.T, name string) {
	t.Helper()
	if _, err := s.api.Runtime.RemoveContainer(t.Context(), &runtimev1.RemoveContainerRequest{Container: name, Force: true}); err != nil {
		t.Error(err)
	}
}

// event waits for an event about the container.
func (s *scene) event(t *testing.T, kind, name string, attributes map[string]string) {
	t.Helper()
	if err := testnode.WaitFor(t.Context(), func() (bool, string) {
		s.mu.Lock()
		defer s.mu.Unlock()
		return slices.ContainsFunc(s.events, func(e *nodev1.WatchEventsResponse) bool {
			if e.GetType() != kind || e.GetName() != name {
				return false
			}
			for k, v := range attributes {
				if e.GetAttributes()[k] != v {
					return false
				}
			}
			return true
		}), fmt.Sprintf("no event %s of %s with %v; there were %v", kind, name, attributes, s.events)
	}); err != nil {
		t.Error(err)
	}
}
