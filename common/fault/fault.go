// Package fault is how errors cross TERO's borders: each carries a kind that
// maps to gRPC, HTTP, CNI and exit codes, a message that is safe and useful to
// the person who asked, a hint for what to do next, and the cause for the log.
package fault

import (
	"errors"
	"fmt"
)

// Kind says what a caller can do about an error.
type Kind uint8

// The kinds. Internal is the kind of every error that is not a fault.
const (
	// Internal is TERO's own failure.
	Internal Kind = iota
	// Invalid is a request that can never succeed as it is.
	Invalid
	// NotFound is a thing that does not exist.
	NotFound
	// Exists is a name or lock that is taken.
	Exists
	// Denied is a refusal by policy, plugin or authorisation.
	Denied
	// Unauthenticated is a caller who did not prove who it is.
	Unauthenticated
	// Conflict is a request that the present state forbids.
	Conflict
	// Exhausted is a resource that ran out: disk, addresses, limits.
	Exhausted
	// Unavailable is worth a retry later.
	Unavailable
	// Unsupported is what this machine or version cannot do.
	Unsupported
	// Corrupt is stored or received data that fails its check.
	Corrupt
)

var kindNames = [...]string{"internal", "invalid", "not_found", "exists", "denied", "unauthenticated", "conflict", "exhausted", "unavailable", "unsupported", "corrupt"}

// String gives the stable name of the kind, as it appears in JSON output.
func (k Kind) String() string {
	if int(k) < len(kindNames) {
		return kindNames[k]
	}
	return "internal"
}

// ParseKind is the inverse of String; an unknown name is Internal.
func ParseKind(s string) Kind {
	for i, n := range kindNames {
		if n == s {
			return Kind(i)
		}
	}
	return Internal
}

// Error is a fault. Its text is Message; Cause is for logs and errors.Is.
type Error struct {
	Kind Kind
	// Message says what was wrong and where, in words for users.
	Message string
	// Hint says what to do next; it may be empty.
	Hint string
	// Cause is the error behind it; it may be nil.
	Cause error
}

// New makes a fault. A %w in format becomes its cause.
func New(kind Kind, format string, args ...any) *Error {
	err := fmt.Errorf(format, args...)
	return &Error{Kind: kind, Message: err.Error(), Cause: errors.Unwrap(err)}
}

// WithHint gives e with a hint.
func (e *Error) WithHint(format string, args ...any) *Error {
	c := *e
	c.Hint = fmt.Sprintf(format, args...)
	return &c
}

// Error gives the message.
func (e *Error) Error() string { return e.Message }

// Unwrap gives the cause.
func (e *Error) Unwrap() error { return e.Cause }

// KindOf gives the kind of the first fault in err's chain, else Internal.
func KindOf(err error) Kind {
	if e, ok := errors.AsType[*Error](err); ok {
		return e.Kind
	}
	return Internal
}

// HintOf gives the first hint in err's chain, or "".
func HintOf(err error) string {
	for err != nil {
		var e *Error
		if !errors.As(err, &e) {
			return ""
		}
		if e.Hint != "" {
			return e.Hint
		}
		err = e.Cause
	}
	return ""
}

// The exit codes of TERO's commands; any other is the workload's own.
const (
	ExitFailure  = 125
	ExitDenied   = 126
	ExitNotFound = 127
)

// ExitCode gives the exit code of a command that ended with err; 0 for nil.
func ExitCode(err error) int {
	if err == nil {
		return 0
	}
	switch KindOf(err) {
	case Denied, Unauthenticated:
		return ExitDenied
	case NotFound:
		return ExitNotFound
	default:
		return ExitFailure
	}
}
