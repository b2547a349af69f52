// Package crash kills terod -9 again and again while it works, and looks each
// time whether anything that was acknowledged is lost, or anything is left that
// belongs to nobody.
package crash

import (
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	nodev1 "tero.internal/api/node/v1"
	runtimev1 "tero.internal/api/runtime/v1"
	"tero.internal/client"
	"tero.internal/test/nodetest"
	"tero.internal/test/testnode"
)

// A failure names its seed; kills with the same seed make the same choices, as
// far as the machine plays along.
var (
	seedFlag = flag.Uint64("crash.seed", 0, "what the random choices follow from; the clock when 0")
	kills    = flag.Int("crash.kills", 200, "how many times terod is killed")
)

const (
	workers = 3
	// drainEvery is how many kills pass between two looks at everything that
	// the node holds, for which all containers are removed.
	drainEvery = 25
)

// harness is the node under test and what is known about its containers.
type harness struct {
	t      *testing.T
	node   *testnode.Node
	api    *client.Client
	random *rand.Rand
	all    []*worker
	kill   int // number of the kill that goes on
	empty  snapshot

	mu sync.Mutex // guards typical
	// typical is how long each verb takes of late.
	typical map[string]time.Duration
}

// TestKilledAtAnyPoint kills terod at random moments of launches, execs, stops,
// kills, removals, of reading logs, waiting, and of starting itself, under load.
// Afterwards every container that was acknowledged is there, in the right state,
// with its own exit code, its streams open and its log whole, and nothing else is.
func TestKilledAtAnyPoint(t *testing.T) {
	seed := *seedFlag
	if seed == 0 {
		seed = uint64(time.Now().UnixNano())
	}
	t.Logf("again with: go test ./test/crash -crash.seed=%d -crash.kills=%d", seed, *kills)
	n := nodetest.Start(t, "crash", "--pool=0")
	h := &harness{
		t: t, node: n, random: rand.New(rand.NewPCG(seed, 0)),
		typical: map[string]time.Duration{},
	}
	h.dial()
	t.Cleanup(func() { _ = h.api.Close() })
	for i := range workers {
		h.all = append(h.all, &worker{h: h, number: i, random: rand.New(rand.NewPCG(seed, uint64(i)+1))})
	}
	// The first container makes what stays for the next ones; then the node is as
	// it must be whenever it has no containers.
	if err := h.all[0].do(t.Context(), "run"); err != nil {
		t.Fatal(err)
	}
	h.drain()
	h.empty = look(t, n)
	count := map[string]int{}
	for h.kill = range *kills {
		verb := verbs()[h.kill%len(verbs())]
		count[verb]++
		h.killDuring(verb)
		h.verify(verb)
		if h.kill%drainEvery == drainEvery-1 || h.kill == *kills-1 {
			h.drain()
			h.compare()
		}
		if t.Failed() {
			t.Fatalf("after kill %d of %d, in %q; the node's last log:\n%s", h.kill, *kills, verb, n.Log())
		}
	}
	t.Logf("killed during %v; the verbs took %v of late", count, h.typical)
}

// killDuring loads the node from all sides, kills it at a random moment after
// one worker has begun the verb, and starts it again.
func (h *harness) killDuring(verb string) {
	h.t.Helper()
	if verb == "restart" {
		h.killTwice()
		return
	}
	ctx, cancel := context.WithCancel(h.t.Context())
	begun := make(chan struct{})
	var work sync.WaitGroup
	for i, w := range h.all {
		first := ""
		if i == h.kill%workers {
			first = verb
		}
		work.Go(func() { w.work(ctx, first, begun) })
	}
	select {
	case <-begun:
	case <-time.After(time.Minute):
		h.t.Errorf("nobody came to %q", verb)
	}
	h.pause(h.moment(verb))
	if err := h.node.Kill9(); err != nil {
		h.t.Fatal(err)
	}
	cancel()
	work.Wait()
	h.start()
}

// killTwice kills the node that nobody bothers, then once more while it starts.
func (h *harness) killTwice() {
	if err := h.node.Kill9(); err != nil {
		h.t.Fatal(err)
	}
	h.whileDead()
	if err := h.node.Spawn(); err != nil {
		h.t.Fatal(err)
	}
	h.pause(h.moment("restart"))
	if err := h.node.Kill9(); err != nil {
		h.t.Fatal(err)
	}
	h.start()
}

// start starts the node again; in between containers may end.
func (h *harness) start() {
	h.t.Helper()
	h.whileDead()
	began := time.Now()
	if err := h.node.Start(h.t.Context()); err != nil {
		h.t.Fatalf("kill %d: the node does not start again: %v", h.kill, err)
	}
	h.took("restart", time.Since(began))
	h.dial()
}

// dial makes the connection anew: the one before may not have noticed yet that
// the terod behind it is dead.
func (h *harness) dial() {
	h.t.Helper()
	if h.api != nil {
		_ = h.api.Close() // broken, as a rule
	}
	var err error
	if h.api, err = client.Dial(client.Options{Socket: h.node.Socket()}); err != nil {
		h.t.Fatal(err)
	}
}

// whileDead ends one container in two cases of three, while no daemon is there to see it.
func (h *harness) whileDead() {
	w := h.all[h.random.IntN(workers)]
	if h.random.IntN(3) == 0 {
		return
	}
	for _, b := range w.boxes {
		if b.may == running && b.up && b.pid != 0 && syscall.Kill(b.pid, syscall.SIGTERM) == nil {
			b.may = exited
			return
		}
	}
}

// moment is when to kill, counted from the begin of the verb: some time before
// it is usually done, or a little after.
func (h *harness) moment(verb string) time.Duration {
	h.mu.Lock()
	defer h.mu.Unlock()
	longest := h.typical[verb] * 5 / 4
	return time.Duration(h.random.Int64N(int64(max(longest, 5*time.Millisecond))))
}

func (h *harness) pause(d time.Duration) {
	select {
	case <-time.After(d):
	case <-h.t.Context().Done():
	}
}

// took notes how long a verb took.
func (h *harness) took(verb string, d time.Duration) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if old := h.typical[verb]; old != 0 {
		d = (3*old + d) / 4
	}
	h.typical[verb] = d
}

// verify compares what the node says about its containers with what it must.
func (h *harness) verify(verb string) {
	h.t.Helper()
	r, err := h.api.Runtime.ListContainers(h.t.Context(), &runtimev1.ListContainersRequest{All: true})
	if err != nil {
		h.t.Fatalf("kill %d: %v", h.kill, err)
	}
	found := map[string]*runtimev1.Container{}
	for _, c := range r.GetContainers() {
		found[c.GetName()] = c
	}
	for _, w := range h.all {
		for _, b := range w.boxes {
			b.settle(h.t.Context(), h.t, h.api, found[b.name])
			delete(found, b.name)
		}
		w.boxes = slices.DeleteFunc(w.boxes, func(b *box) bool { return b.may == gone })
	}
	for name := range found {
		h.t.Errorf("container %s is there, and nobody launched it", name)
	}
	var reading sync.WaitGroup
	for _, w := range h.all {
		reading.Go(func() {
			for _, b := range w.boxes {
				if err := b.read(h.t.Context(), h.api); err != nil {
					h.t.Errorf("%s: %v", b.name, err)
				}
			}
		})
	}
	reading.Wait()
	h.held()
	if h.t.Failed() {
		h.t.Errorf("kill %d, in %q", h.kill, verb)
	}
}

// drain removes all containers.
func (h *harness) drain() {
	h.t.Helper()
	for _, w := range h.all {
		for _, b := range w.boxes {
			if _, err := h.api.Runtime.RemoveContainer(h.t.Context(), &runtimev1.RemoveContainerRequest{Container: b.name, Force: true}); err != nil {
				h.t.Errorf("rm -f %s: %v", b.name, err)
			}
		}
		w.boxes = nil
	}
}

// compare compares the node, which has no containers, with how it was before
// the first one, and looks whether its launch log is sound.
func (h *harness) compare() {
	h.t.Helper()
	status, err := h.api.Node.Status(h.t.Context(), &nodev1.StatusRequest{})
	if err != nil || status.GetLaunchLogFault() != "" {
		h.t.Errorf("after kill %d: the launch log: %v, %v", h.kill, status.GetLaunchLogFault(), err)
	}
	if err := testnode.WaitFor(h.t.Context(), func() (bool, string) {
		diff := h.empty.diff(look(h.t, h.node))
		return diff == "", fmt.Sprintf("after kill %d, without containers (-before +now):\n%s", h.kill, diff)
	}); err != nil {
		h.t.Error(err)
	}
}
