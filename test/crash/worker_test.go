package crash

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	runtimev1 "tero.internal/api/runtime/v1"
	"tero.internal/client"
	"tero.internal/common/fault"
)

// verbs are what terod is killed in, each in its turn.
func verbs() []string {
	return []string{"run", "exec", "stop", "rm", "run", "kill", "rm -f", "logs", "wait", "restart"}
}

// fate is a set of states that a container may be in.
type fate int

const (
	gone fate = 1 << iota
	running
	exited
)

func (f fate) String() string {
	var names []string
	for i, name := range []string{"gone", "running", "exited"} {
		if f>>i&1 != 0 {
			names = append(names, name)
		}
	}
	return strings.Join(names, " or ")
}

// killed is the exit code of a container that was killed.
const killed = 137

// box is a container as this test knows it: it counts, echoes its input and
// ends with a code of its own.
type box struct {
	name string
	code int32
	// connected is true when it has an address while it runs.
	connected bool
	may       fate
	// codes are the exit codes it may have once it has exited.
	codes []int32
	id    string
	pid   int
	// up is true once it has answered: from then on it obeys signals.
	up bool
	// exit is its exit code once it has exited.
	exit int32
	// ticks and tocks are how many of either were seen in its log.
	ticks, tocks int
	echoes       int
}

// worker does one thing after the other with containers of its own.
type worker struct {
	h      *harness
	number int
	random *rand.Rand
	made   int
	boxes  []*box
}

// work works until ctx ends or the node does not answer any more. The first
// verb is as told, and begun is closed when it begins.
func (w *worker) work(ctx context.Context, first string, begun chan<- struct{}) {
	if first != "" {
		if err := w.ready(ctx, first); err != nil {
			w.h.t.Errorf("before %q: %v", first, err)
		}
		close(begun)
	}
	for verb := first; ctx.Err() == nil; verb = "" {
		if verb == "" {
			verb = w.choose()
		}
		if err := w.do(ctx, verb); err != nil {
			if ctx.Err() == nil && fault.KindOf(err) != fault.Unavailable {
				w.h.t.Errorf("%s: %v", verb, err)
			}
			return
		}
	}
}

// ready makes the container that a verb needs.
func (w *worker) ready(ctx context.Context, verb string) error {
	needs := running
	switch verb {
	case "run":
		return nil
	case "rm":
		needs = exited
	}
	if w.find(needs) == nil && w.find(running) == nil {
		if err := w.do(ctx, "run"); err != nil {
			return err
		}
	}
	if w.find(needs) == nil {
		return w.do(ctx, "stop")
	}
	return nil
}

// choose gives something that can be done with the containers there are.
func (w *worker) choose() string {
	const most = 3
	can := []string{}
	if len(w.boxes) < most {
		can = append(can, "run", "run")
	}
	if w.find(running) != nil {
		can = append(can, "exec", "exec", "stop", "kill", "rm -f", "logs", "wait")
	}
	if w.find(exited) != nil {
		can = append(can, "rm", "rm")
	}
	return can[w.random.IntN(len(can))]
}

// find gives one of the containers that are in a state for sure.
func (w *worker) find(state fate) *box {
	var those []*box
	for _, b := range w.boxes {
		if b.may == state {
			those = append(those, b)
		}
	}
	if len(those) == 0 {
		return nil
	}
	return those[w.random.IntN(len(those))]
}

// do does one thing. What it may change is noted before, and what it did after
// the node has acknowledged it.
func (w *worker) do(ctx context.Context, verb string) error {
	began := time.Now()
	state := running
	if verb == "rm" {
		state = exited
	}
	b := w.find(state)
	if b == nil && verb != "run" {
		return errors.New("no container for it")
	}
	err := w.act(ctx, verb, b)
	if err == nil {
		w.h.took(verb, time.Since(began))
	}
	return err
}

func (w *worker) act(ctx context.Context, verb string, b *box) error {
	api := w.h.api.Runtime
	switch verb {
	case "run":
		return w.run(ctx)
	case "exec":
		return w.exec(ctx, b)
	case "stop":
		b.may, b.codes = running|exited, []int32{b.code}
		r, err := api.StopContainer(ctx, &runtimev1.StopContainerRequest{Container: b.name, TimeoutSeconds: proto.Int32(60)})
		if err != nil {
			return err
		}
		b.may = exited
		return b.check(r.GetExit())
	case "rm", "rm -f":
		b.may |= gone | exited
		if verb == "rm -f" {
			b.codes = []int32{killed}
		}
		if _, err := api.RemoveContainer(ctx, &runtimev1.RemoveContainerRequest{Container: b.name, Force: verb == "rm -f"}); err != nil {
			return err
		}
		w.boxes = slices.DeleteFunc(w.boxes, func(o *box) bool { return o == b })
		return nil
	case "logs":
		return b.read(ctx, w.h.api)
	case "kill", "wait":
		signal, code := "SIGKILL", int32(killed)
		if verb == "wait" {
			signal, code = "SIGTERM", b.code
		}
		b.may, b.codes = running|exited, []int32{code}
		if _, err := api.KillContainer(ctx, &runtimev1.KillContainerRequest{Container: b.name, Signal: signal}); err != nil {
			return err
		}
		b.may = exited
		r, err := api.WaitContainer(ctx, &runtimev1.WaitContainerRequest{Container: b.name})
		if err != nil {
			return err
		}
		return b.check(r.GetExit())
	}
	return fmt.Errorf("no verb %q", verb)
}

func (w *worker) run(ctx context.Context) error {
	w.made++
	b := &box{name: fmt.Sprintf("c-%d-%d", w.number, w.made), code: int32(1 + w.random.IntN(99)), may: gone | running}
	b.codes = []int32{b.code}
	spec := &runtimev1.ContainerSpec{
		Name: b.name, Image: "subject:v1", Args: []string{"count", fmt.Sprint(b.code)}, OpenStdin: true,
	}
	if b.connected = w.random.IntN(4) != 0; !b.connected {
		spec.Network = "none"
	}
	w.boxes = append(w.boxes, b)
	r, err := w.h.api.Runtime.Run(ctx, &runtimev1.RunRequest{Spec: spec})
	if err != nil {
		return err
	}
	b.may, b.id, b.pid = running, r.GetContainer().GetId(), int(r.GetContainer().GetPid())
	return b.read(ctx, w.h.api)
}

// exec runs a program in the container: one that answers what it is asked, or
// one that would never end, and must when its caller goes.
func (w *worker) exec(ctx context.Context, b *box) error {
	args, want := []string{"/subject", "echo"}, "hello\n"
	endless := w.random.IntN(2) == 0
	if endless {
		args, want = []string{"/subject", "deaf"}, "deaf\n"
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	s, err := w.h.api.Runtime.Exec(ctx)
	if err != nil {
		return err
	}
	for _, m := range []*runtimev1.ExecRequest{
		{Request: &runtimev1.ExecRequest_Start{Start: &runtimev1.ExecStart{Container: b.name, Args: args, OpenStdin: true}}},
		{Request: &runtimev1.ExecRequest_Stdin{Stdin: []byte("hello\n")}},
		{Request: &runtimev1.ExecRequest_CloseStdin{CloseStdin: true}},
	} {
		if err := s.Send(m); err != nil && !errors.Is(err, io.EOF) {
			return err
		}
	}
	var out bytes.Buffer
	for {
		m, err := s.Recv()
		if err != nil {
			return err
		}
		out.Write(m.GetOutput().GetData())
		if endless && out.String() == want {
			return nil
		}
		if exit := m.GetExit(); exit != nil {
			if endless || exit.GetCode() != 0 || out.String() != want {
				return fmt.Errorf("exec of %v in %s: code %d, output %q", args, b.name, exit.GetCode(), out.String())
			}
			return nil
		}
	}
}

// settle compares what the node says of the container, nil for nothing, with
// what it may be, and makes sure of it.
func (b *box) settle(ctx context.Context, t *testing.T, api *client.Client, c *runtimev1.Container) {
	t.Helper()
	is := gone
	switch c.GetState() {
	case runtimev1.State_STATE_RUNNING:
		is = running
	case runtimev1.State_STATE_EXITED:
		is = exited
	case runtimev1.State_STATE_UNSPECIFIED:
	default:
		t.Errorf("%s is %v", b.name, c.GetState())
	}
	b.id, b.pid = c.GetId(), int(c.GetPid())
	exit := c.GetExit()
	if is == running && b.may&exited != 0 {
		// Told to end it was, or perhaps; it may be about to.
		r, err := api.Runtime.StopContainer(ctx, &runtimev1.StopContainerRequest{Container: b.name, TimeoutSeconds: proto.Int32(60)})
		if err != nil {
			t.Errorf("stop %s: %v", b.name, err)
		}
		if b.may&running != 0 {
			b.codes = append(b.codes, b.code)
		}
		is, exit = exited, r.GetExit()
	}
	if is&b.may == 0 {
		t.Errorf("%s must be %v and is %v", b.name, b.may, is)
	}
	b.may = is
	if is == exited {
		if err := b.check(exit); err != nil {
			t.Error(err)
		}
	}
}

// check checks how it ended.
func (b *box) check(e *runtimev1.Exit) error {
	if !slices.Contains(b.codes, e.GetCode()) || e.GetMessage() != "" || e.GetOomKilled() {
		return fmt.Errorf("%s exited with code %d (%s), want %v", b.name, e.GetCode(), e.GetMessage(), b.codes)
	}
	b.exit = e.GetCode()
	return nil
}

// read reads the whole log, and of a container that runs an answer to what it
// is told over its input.
func (b *box) read(ctx context.Context, api *client.Client) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	l := &log{}
	if b.may&running == 0 {
		return b.readLog(ctx, api, l)
	}
	s, err := api.Runtime.Attach(ctx)
	if err != nil {
		return err
	}
	b.echoes++
	answer := fmt.Sprint("echo ", b.echoes)
	for _, m := range []*runtimev1.AttachRequest{
		{Request: &runtimev1.AttachRequest_Start{Start: &runtimev1.AttachStart{Container: b.name, FromBeginning: true}}},
		{Request: &runtimev1.AttachRequest_Stdin{Stdin: []byte(fmt.Sprintln(b.echoes))}},
	} {
		if err := s.Send(m); err != nil && !errors.Is(err, io.EOF) {
			return err
		}
	}
	for {
		m, err := s.Recv()
		if err != nil {
			return fmt.Errorf("waiting for %q after %d ticks: %w", answer, l.ticks, err)
		}
		if m.GetExit() != nil {
			return fmt.Errorf("it exited before it answered: %v", m.GetExit())
		}
		if err := l.add(m.GetOutput()); err != nil {
			return err
		}
		if l.answer == answer {
			b.up = true
			return b.seen(l)
		}
	}
}

func (b *box) readLog(ctx context.Context, api *client.Client, l *log) error {
	s, err := api.Runtime.Logs(ctx, &runtimev1.LogsRequest{Container: b.name, Follow: true})
	if err != nil {
		return err
	}
	for {
		m, err := s.Recv()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		if err := l.add(m.GetOutput()); err != nil {
			return err
		}
	}
	if l.rest[runtimev1.Output_STREAM_STDOUT] != "" {
		return fmt.Errorf("the log ends with %q", l.rest)
	}
	if want := fmt.Sprint("end ", l.ticks); b.exit != killed && l.last != want {
		return fmt.Errorf("the last line is %q, want %q", l.last, want)
	}
	return b.seen(l)
}

// seen compares with what was read before: what was there stays.
func (b *box) seen(l *log) error {
	if l.ticks < b.ticks || l.tocks < b.tocks {
		return fmt.Errorf("its log had %d ticks and %d tocks, and has %d and %d", b.ticks, b.tocks, l.ticks, l.tocks)
	}
	b.ticks, b.tocks = l.ticks, l.tocks
	return nil
}

// log checks output that counts.
type log struct {
	ticks, tocks int
	last, answer string // the last whole line of standard output, and the last "echo"
	rest         map[runtimev1.Output_Stream]string
}

// add takes the next piece of output.
func (l *log) add(o *runtimev1.Output) error {
	if l.rest == nil {
		l.rest = map[runtimev1.Output_Stream]string{}
	}
	text := l.rest[o.GetStream()] + string(o.GetData())
	for {
		line, rest, ok := strings.Cut(text, "\n")
		if !ok {
			l.rest[o.GetStream()] = text
			return nil
		}
		text = rest
		word, number, _ := strings.Cut(line, " ")
		want := &l.ticks
		switch {
		case o.GetStream() == runtimev1.Output_STREAM_STDERR && word == "tock":
			want = &l.tocks
		case o.GetStream() == runtimev1.Output_STREAM_STDERR:
			return fmt.Errorf("line %q on standard error", line)
		default:
			l.last = line
		}
		if word == "echo" {
			l.answer = line
		}
		if word != "tick" && word != "tock" {
			continue
		}
		if number != fmt.Sprint(*want) {
			return fmt.Errorf("line %q, want number %d: the log has a gap", line, *want)
		}
		*want++
	}
}
