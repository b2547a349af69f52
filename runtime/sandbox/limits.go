package sandbox

import (
	"errors"

	"golang.org/x/sys/unix"

	"tero.internal/common/fault"
)

// explainDisk says when a disk is full.
func explainDisk(err error) error {
	if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) {
		return fault.New(fault.Exhausted, "the disk of the state directory is full: %w", err).
			WithHint("make room, or remove containers and images")
	}
	return err
}
