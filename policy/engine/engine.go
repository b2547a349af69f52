// Package engine decides: who may call the API, and what may be launched. It
// holds one policy set at a time, replaces it in one step, and keeps a record
// of its decisions that says why.
package engine

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/opencontainers/go-digest"

	"tero.internal/common/eventbus"
	"tero.internal/common/fault"
	"tero.internal/common/workload"
	"tero.internal/policy/bundle"
	"tero.internal/policy/internal/cedarx"
	"tero.internal/policy/internal/ring"
)

// Config says where the engine finds and keeps things. All but Bus are needed.
type Config struct {
	// Dir is the policy folder; it need not exist.
	Dir string
	// StateDir is where decisions are kept.
	StateDir string
	// Bus hears policy.changed, policy.refused and policy.audited; it may be nil.
	Bus *eventbus.Bus
	Log *slog.Logger
}

// The space that decisions take on disk. Launches and calls have a ring each,
// so that a flood of refused calls cannot push out why a launch was refused.
const (
	launchRing = 16 << 20
	callRing   = 8 << 20
)

// Engine decides. It is safe for use by many goroutines.
type Engine struct {
	dir     string
	bus     *eventbus.Bus
	log     *slog.Logger
	schema  *cedarx.Schema
	actions map[string][]string

	now      atomic.Pointer[active]
	change   sync.Mutex // held while the set is replaced
	launches *ring.Ring
	calls    *ring.Ring
}

// Open loads the policy folder. A faulty folder is an error: a node whose
// policies cannot be read decides nothing.
func Open(ctx context.Context, c Config) (*Engine, error) {
	schema, err := bundle.Schema()
	if err != nil {
		return nil, err
	}
	e := &Engine{dir: c.Dir, bus: c.Bus, log: c.Log, schema: schema, actions: schema.Actions()}
	if err := bundle.RemoveLeftovers(c.Dir); err != nil {
		return nil, err
	}
	a, err := e.read()
	if err != nil {
		return nil, err
	}
	e.now.Store(a)
	if e.launches, err = ring.Open(c.StateDir, "launches", launchRing); err != nil {
		return nil, err
	}
	if e.calls, err = ring.Open(c.StateDir, "calls", callRing); err != nil {
		return nil, errors.Join(err, e.launches.Close())
	}
	if n := e.launches.Skipped() + e.calls.Skipped(); n > 0 {
		e.log.WarnContext(ctx, "damaged decision records left out", slog.Int("records", n), slog.String("dir", c.StateDir))
	}
	if locksOut(a) {
		e.log.WarnContext(ctx, "the policies do not let root change them through the API", slog.String("dir", c.Dir))
	}
	e.log.InfoContext(ctx, "policies loaded", slog.String("digest", a.set.Digest.String()),
		slog.Int("policies", len(a.set.Policies())), slog.Bool("built_in", a.set.BuiltIn))
	return e, nil
}

// Close makes the records durable and ends the engine.
func (e *Engine) Close() error { return errors.Join(e.launches.Close(), e.calls.Close()) }

// read gives the set that the folder holds now.
func (e *Engine) read() (*active, error) {
	files, err := bundle.ReadDir(e.dir)
	if err != nil {
		return nil, fault.New(fault.Invalid, "%w", err)
	}
	a, err := compile(files)
	if invalid, ok := errors.AsType[*InvalidError](err); ok {
		return nil, fault.New(fault.Invalid, "policy folder %s: %w", e.dir, invalid).
			WithHint("correct the files, or move them out of the folder (an empty one means the built-in policies), and try again")
	}
	return a, err
}

// InvalidError is a set that cannot be used, with everything that is wrong.
type InvalidError struct{ Problems []bundle.Problem }

// Error gives the problems, one a line, the first twenty.
func (e *InvalidError) Error() string {
	var lines []string
	for i, p := range e.Problems {
		if i == 20 {
			lines = append(lines, fmt.Sprintf("and %d more problems", len(e.Problems)-i))
			break
		}
		lines = append(lines, p.String())
	}
	return strings.Join(lines, "\n")
}

func compile(files []bundle.File) (*active, error) {
	set, problems, err := bundle.Parse(files)
	if err != nil {
		return nil, err
	}
	if len(problems) > 0 {
		return nil, &InvalidError{problems}
	}
	return newActive(set)
}

// locksOut tells whether root could not repair the set through the API.
func locksOut(a *active) bool {
	r, err := callRequest(workload.Principal{Local: true}, "policyWrite", "PolicySet", policySetName, a.set.Entities())
	return err != nil || !a.decide(r).allowed
}

// Reload reads the folder again. On an error the set that was in force stays.
func (e *Engine) Reload(ctx context.Context) error {
	e.change.Lock()
	defer e.change.Unlock()
	a, err := e.read()
	if err != nil {
		return err
	}
	if a.set.Digest != e.now.Load().set.Digest {
		e.swap(ctx, a)
	}
	return nil
}

func (e *Engine) swap(ctx context.Context, a *active) {
	before := e.now.Swap(a)
	e.log.InfoContext(ctx, "policies changed", slog.String("digest", a.set.Digest.String()),
		slog.String("before", before.set.Digest.String()), slog.Int("policies", len(a.set.Policies())))
	e.publish(eventbus.Event{
		Type: "policy.changed", Message: fmt.Sprintf("policy set replaced: %d policies, %s", len(a.set.Policies()), a.set.Digest),
		Attributes: map[string]string{"digest": a.set.Digest.String(), "before": before.set.Digest.String()},
	})
}

func (e *Engine) publish(ev eventbus.Event) {
	if e.bus != nil {
		e.bus.Publish(ev)
	}
}

// Current gives the set in force and when it came into force.
func (e *Engine) Current() (*bundle.Set, time.Time) {
	a := e.now.Load()
	return a.set, a.loaded
}

// Check tells what is wrong with files; nothing if they could be applied.
func (e *Engine) Check(files []bundle.File) (*bundle.Set, []bundle.Problem, error) {
	a, err := compile(files)
	if invalid, ok := errors.AsType[*InvalidError](err); ok {
		return nil, invalid.Problems, nil
	}
	if err != nil {
		return nil, nil, err
	}
	if locksOut(a) {
		return nil, []bundle.Problem{{File: "policy set", Message: `no policy lets root on the local socket do policyWrite, so that nobody could repair the set through the API: ` +
			`keep the policy root-api of the built-in set, or put the files into the policy folder by hand`}}, nil
	}
	return a.set, nil, nil
}

// Apply makes files the whole content of the policy folder and the set in
// force, after all checks. expected, when not empty, must be the digest of the
// set in force, so that two operators do not undo each other's work unseen.
func (e *Engine) Apply(ctx context.Context, files []bundle.File, expected digest.Digest) (before digest.Digest, err error) {
	e.change.Lock()
	defer e.change.Unlock()
	before = e.now.Load().set.Digest
	if expected != "" && expected != before {
		return before, fault.New(fault.Conflict, "the policy set in force is %s, not %s", before, expected).
			WithHint("look at the present set with tero policy ls, then apply again")
	}
	set, problems, err := e.Check(files)
	if err != nil {
		return before, err
	}
	if len(problems) > 0 {
		return before, fault.New(fault.Invalid, "the policies were not applied: %w", &InvalidError{problems}).
			WithHint("the set in force is unchanged; tero policy check tells what is wrong")
	}
	a, err := newActive(set)
	if err != nil {
		return before, err
	}
	if err := bundle.WriteDir(e.dir, files); err != nil {
		return before, fault.New(fault.Internal, "the policies were not applied: %w", err)
	}
	e.swap(ctx, a)
	return before, nil
}

// newID names a decision.
func newID() string {
	var b [8]byte
	_, _ = rand.Read(b[:]) // crypto/rand.Read never fails (Go 1.24)
	return hex.EncodeToString(b[:])
}

// keep writes a decision to a ring.
func keep(r *ring.Ring, d *Decision) error {
	b, err := d.encode()
	if err != nil {
		return err
	}
	return r.Append(d.ID, mark(d.Allowed), b)
}

func mark(allowed bool) byte {
	if allowed {
		return '+'
	}
	return '-'
}
