package session

import (
	"errors"
	"fmt"
	"strings"

	"tero.internal/cmd/tero/internal/render"
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
	mark, hint, end := "", "", ""
	if s.Colour(s.Stderr) {
		mark, hint, end = "\x1b[1;31m", "\x1b[36m", "\x1b[0m"
	}
	lines := strings.Split(strings.TrimRight(err.Error(), "\n"), "\n")
	for i, l := range lines {
		if i == 0 {
			fmt.Fprintf(s.Stderr, "tero: %serror:%s %s\n", mark, end, render.Clean(l))
			continue
		}
		fmt.Fprintf(s.Stderr, "  %s\n", render.Clean(strings.ReplaceAll(l, "\t", "  ")))
	}
	if h := fault.HintOf(err); h != "" {
		fmt.Fprintf(s.Stderr, "tero: %shint:%s %s\n", hint, end, render.Clean(h))
	}
}
