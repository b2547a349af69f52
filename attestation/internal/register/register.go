// Package register is what fixes the launch log and cannot be taken back: PCR 13
// of a TPM, or its equal in software. There is one driver for each type of
// evidence. One goroutine uses a register. Methods take no context, because a
// TPM command cannot be taken back either; each bounds its own time.
package register

import (
	"errors"

	"tero.internal/attestation/bundle"
	"tero.internal/attestation/record"
)

// State is what a register holds.
type State struct {
	// Boot names the present boot of the machine.
	Boot string
	// Cycle is the part of Boot in which a register that resets is kept; a
	// TPM's reset counter.
	Cycle string
	Value record.Register
	// OneBank is true for a TPM without a SHA-384 bank.
	OneBank bool
	// Aggregate is the ratchet's; zero for a TPM.
	Aggregate record.Digest256
}

// Holds tells whether the register's banks hold v.
func (s *State) Holds(v record.Register) bool {
	return s.Value.SHA256 == v.SHA256 && (s.OneBank || s.Value.SHA384 == v.SHA384)
}

// Resets tells whether registers of a type start anew with each boot.
func Resets(kind string) bool { return kind == bundle.TPM }

// ErrLost is a register that is gone or damaged while its log exists.
var ErrLost = errors.New("the register is lost")
