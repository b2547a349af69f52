// Package disk gives the errors of the disk that holds the node's evidence.
package disk

import (
	"errors"

	"golang.org/x/sys/unix"

	"tero.internal/common/fault"
)

// Fault gives an error about the disk its kind and a hint; what says what failed.
func Fault(what string, err error) error {
	if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) {
		return fault.New(fault.Exhausted, "%s: %w", what, err).
			WithHint("the state directory's disk is full: free some space; nothing is launched that cannot be recorded")
	}
	return fault.New(fault.Internal, "%s: %w", what, err)
}
