package session

import (
	"errors"
	"fmt"
	"io"

	"tero.internal/cmd/tero/internal/message"
	"tero.internal/common/fault"
)

// Exit is a command that ended with the workload's own exit code, or one that
// has said already what was wrong.
type Exit struct{ Code int }

// Error gives the code, for logs of tests only: the CLI prints nothing for it.
func (e Exit) Error() string { return fmt.Sprintf("exit code %d", e.Code) }

// Code gives the exit code that err stands for; see docs/cli.md.
func Code(err error) int {
	if e, ok := errors.AsType[Exit](err); ok {
		return e.Code
	}
	return fault.ExitCode(err)
}

// ReportError prints err and its hint on standard error.
func (s *Session) ReportError(err error) {
	if _, ok := errors.AsType[Exit](err); ok || err == nil {
		return
	}
	_, _ = io.WriteString(s.Stderr, message.Failure(err.Error(), fault.HintOf(err), s.Colour(s.Stderr)))
}
