package plugin

import (
	"context"
	"errors"
	"fmt"

	"github.com/tetratelabs/wazero/sys"
)

// The codes of failures, stable for programs.
const (
	CodeTicks    = "plugin.ticks"    // used more ticks than the manifest allows
	CodeTime     = "plugin.time"     // took longer than the wall clock allows
	CodeTrap     = "plugin.trap"     // trapped: the guest is faulty
	CodeExit     = "plugin.exit"     // ended itself
	CodeAnswer   = "plugin.answer"   // answered what makes no sense
	CodeMutation = "plugin.mutation" // changed what it may not, or to what is not valid
	CodeBusy     = "plugin.busy"     // more calls than instances for too long
	CodeStart    = "plugin.start"    // an instance did not start
	CodeClosed   = "plugin.closed"   // was stopped
)

// Failure is a call that gave no answer.
type Failure struct {
	// Code is one of the Code constants.
	Code string
	// Reason is for people.
	Reason string
	Cause  error
}

// Error gives code and reason.
func (f *Failure) Error() string { return f.Code + ": " + f.Reason }

// Unwrap gives the cause.
func (f *Failure) Unwrap() error { return f.Cause }

// The ways in which the host stops a guest.
var (
	errTicks = errors.New("out of ticks")
	errTime  = errors.New("out of time")
)

// failure tells in the caller's words why a call with u ended in err.
func (u *use) failure(err error) error {
	var f *Failure
	var exit *sys.ExitError
	switch {
	case errors.As(err, &f):
		return f
	case errors.Is(err, errTicks):
		return &Failure{CodeTicks, fmt.Sprintf("stopped after %d ticks, all that one call may use", u.budget), err}
	case errors.Is(err, errTime):
		return &Failure{CodeTime, fmt.Sprintf("stopped after %v", u.wallClock), err}
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return err
	case errors.As(err, &exit):
		return &Failure{CodeExit, fmt.Sprintf("ended itself with exit code %d", exit.ExitCode()), err}
	}
	return &Failure{CodeTrap, "trapped", err}
}
