// Package doctor says what the kernel and the machine offer to TERO, and what
// they lack. Whatever can be tried is tried, in temporary folders and throw-away
// namespaces, because a version number or a file in /proc promises more than a
// locked-down host keeps. Nothing is left behind, and nothing fails: a probe
// that cannot run says so.
package doctor

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// Status is the outcome of a check.
type Status string

// The outcomes.
const (
	// OK is there and works.
	OK Status = "ok"
	// Warn is something that TERO works without, less well or less safely.
	Warn Status = "warn"
	// Missing is something that a feature cannot work without.
	Missing Status = "missing"
)

// Check is one thing that was looked at.
type Check struct {
	// Area groups checks: kernel, cgroup, network, trust, isolation, host.
	Area string `json:"area"`
	Name string `json:"name"`
	// Status is ok, warn or missing.
	Status Status `json:"status"`
	// Found is what is there, in words.
	Found string `json:"found"`
	// Needs is what TERO wants it for.
	Needs string `json:"needs"`
	// Hint is what to do about it; empty when there is nothing to do.
	Hint string `json:"hint,omitempty"`
}

// check starts a Check; the methods below finish it.
func check(area, name, needs string) Check { return Check{Area: area, Name: name, Needs: needs} }

func (c Check) ok(format string, args ...any) Check {
	c.Status, c.Found = OK, fmt.Sprintf(format, args...)
	return c
}

func (c Check) warn(hint, format string, args ...any) Check {
	c.Status, c.Hint, c.Found = Warn, hint, fmt.Sprintf(format, args...)
	return c
}

func (c Check) missing(hint, format string, args ...any) Check {
	c.Status, c.Hint, c.Found = Missing, hint, fmt.Sprintf(format, args...)
	return c
}

// try finishes a check by whether an attempt gave an error.
func (c Check) try(err error, found, hint string) Check {
	if err != nil {
		return c.missing(hint, "%s", reason(err))
	}
	return c.ok("%s", found)
}

// reason says an error in words of its kind, without the names of calls.
func reason(err error) string {
	switch {
	case errors.Is(err, unix.ENOSYS), errors.Is(err, unix.ENODEV), errors.Is(err, unix.EOPNOTSUPP), errors.Is(err, unix.EAFNOSUPPORT), errors.Is(err, unix.EPROTONOSUPPORT):
		return "the kernel does not have it"
	case errors.Is(err, unix.EPERM), errors.Is(err, unix.EACCES):
		return "not permitted"
	case errors.Is(err, os.ErrNotExist):
		return "not there"
	}
	return err.Error()
}

// Run makes all checks. It takes some tens of milliseconds and stops early when
// ctx ends; what was found by then is returned.
func Run(ctx context.Context) []Check {
	var out []Check
	for _, probe := range []func(context.Context) []Check{
		hostChecks, kernelChecks, processChecks, cgroupChecks, networkChecks, trustChecks, storageChecks,
	} {
		if ctx.Err() != nil {
			return out
		}
		out = append(out, probe(ctx)...)
	}
	return append(out, isolationChecks(out)...)
}

// Worst gives the most serious status among the checks.
func Worst(checks []Check) Status {
	has := func(s Status) bool {
		return slices.ContainsFunc(checks, func(c Check) bool { return c.Status == s })
	}
	switch {
	case has(Missing):
		return Missing
	case has(Warn):
		return Warn
	}
	return OK
}

// readTrimmed gives a small file of /proc or /sys without the final newline, or "".
func readTrimmed(path string) string {
	b, err := os.ReadFile(path) //nolint:gosec // constant paths of /proc and /sys
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b))
}
