// Package health runs the health check of one container again and again, and
// tells what comes of it.
//
//	starting --a check succeeds------------------------> healthy
//	   |                                                  |    ^
//	   | Retries failures in a row,       Retries failures|    |a check succeeds
//	   | those of the start period aside         in a row v    |
//	   +------------------------------------------------> unhealthy
package health

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"tero.internal/common/workload"
)

// Status is what the checks so far say of a container.
type Status string

// The statuses; a container without a health check has the empty one.
const (
	Starting  Status = "starting"
	Healthy   Status = "healthy"
	Unhealthy Status = "unhealthy"
)

// What is kept of the checks.
const (
	// Kept is how many checks are remembered.
	Kept = 5
	// MaxOutput bounds what is kept of one check's output, in bytes.
	MaxOutput = 4096
)

// Check is one run of the command.
type Check struct {
	Start, End time.Time
	// Code is the command's exit code, or CodeFailed.
	Code int
	// Output is what the command wrote, the first MaxOutput bytes, or why it could
	// not be run, or not to its end.
	Output string
}

// CodeFailed is the code of a check that was not run, or not to its end.
const CodeFailed = -1

// State is how a container's checks stand.
type State struct {
	Status Status
	// Failing counts the failures in a row.
	Failing int
	// Log has the last checks, oldest first.
	Log []Check
}

// ErrSkip is for a Probe that cannot tell anything just now, because the
// container is paused: it is as if the check had not been due.
var ErrSkip = errors.New("no check now")

// Probe runs a command in the container. Its error is why it could not be run,
// or not to its end before ctx ended, which bounds it.
type Probe func(ctx context.Context, command []string) (code int, output []byte, err error)

// Monitor checks one run of a container. All exported fields must be set before Run.
type Monitor struct {
	Config workload.Health
	Probe  Probe
	// Started is when the container was, and Before the status it had when another
	// process watched it, or "".
	Started time.Time
	Before  Status
	// Changed is told each new status, with the check that made it.
	Changed func(ctx context.Context, status Status, check Check)

	mu    sync.Mutex // guards state
	state State
}

// State gives how the checks stand.
func (m *Monitor) State() State {
	m.mu.Lock()
	defer m.mu.Unlock()
	s := m.state
	if s.Status == "" {
		s.Status = m.first()
	}
	s.Log = slices.Clone(s.Log)
	return s
}

func (m *Monitor) first() Status {
	if m.Before != "" {
		return m.Before
	}
	return Starting
}

// Run checks until ctx ends.
func (m *Monitor) Run(ctx context.Context) {
	m.mu.Lock()
	m.state.Status = m.first()
	m.mu.Unlock()
	for {
		select {
		case <-ctx.Done():
			return
		case <-time.After(m.interval()):
		}
		check, err := m.check(ctx)
		if ctx.Err() != nil {
			return // the container has ended: that says nothing of its health
		}
		if errors.Is(err, ErrSkip) {
			continue
		}
		if status, changed := m.judge(check); changed {
			m.Changed(ctx, status, check)
		}
	}
}

// interval gives the time to the next check: the shorter one of a container that
// is starting up.
func (m *Monitor) interval() time.Duration {
	if m.starting(time.Now()) && m.Config.StartInterval < m.Config.Interval {
		return m.Config.StartInterval
	}
	return m.Config.Interval
}

// starting tells whether failures do not count yet.
func (m *Monitor) starting(now time.Time) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.state.Status == Starting && now.Before(m.Started.Add(m.Config.StartPeriod))
}

func (m *Monitor) check(ctx context.Context) (Check, error) {
	bounded, cancel := context.WithTimeout(ctx, m.Config.Timeout)
	defer cancel()
	c := Check{Start: time.Now().UTC()}
	code, output, err := m.Probe(bounded, m.Config.Command)
	c.End, c.Code = time.Now().UTC(), code
	// A cut through the middle of a character, and all else that is not text, must
	// not break whoever reads it.
	c.Output = strings.ToValidUTF8(string(output[:min(len(output), MaxOutput)]), "\uFFFD")
	switch {
	case errors.Is(err, ErrSkip):
		return c, err
	case errors.Is(err, context.DeadlineExceeded):
		c.Code, c.Output = CodeFailed, fmt.Sprintf("the check did not end in %v\n%s", m.Config.Timeout, c.Output)
	case err != nil:
		c.Code, c.Output = CodeFailed, err.Error()
	}
	return c, nil
}

// judge adds a check, and tells the status after it.
func (m *Monitor) judge(c Check) (status Status, changed bool) {
	forgiven := m.starting(c.Start)
	m.mu.Lock()
	defer m.mu.Unlock()
	s := &m.state
	s.Log = append(s.Log, c)
	s.Log = slices.Clone(s.Log[max(0, len(s.Log)-Kept):])
	before := s.Status
	switch {
	case c.Code == 0:
		s.Failing, s.Status = 0, Healthy
	case forgiven:
	default:
		if s.Failing++; s.Failing >= m.Config.Retries {
			s.Status = Unhealthy
		}
	}
	return s.Status, s.Status != before
}
