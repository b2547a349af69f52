package evidence

import (
	"errors"

	"tero.internal/attestation/bundle"
	"tero.internal/attestation/record"
)

// register is what cannot be taken back: PCR 13 of a TPM, or its equal in
// software. One goroutine uses it. Its methods take no context, because a TPM
// command cannot be taken back either; each bounds its own time.
type register interface {
	// state reads what the register holds now.
	state() (registerState, error)
	// extend adds digests, in order. After an error it may hold any of them.
	extend(ds []record.Digests) error
	// quote gives the register's own word, bound to extra; nil when it has none.
	quote(extra []byte) (*bundle.Quote, error)
	// enrol adds the register's public keys to e; whole adds those too that
	// only an enrolment needs and that take long to get.
	enrol(e *bundle.Enrolment, whole bool) error
	// Close gives back what it holds open.
	Close() error
}

// registerState is what a register holds.
type registerState struct {
	// boot names the present boot of the machine.
	boot string
	// cycle is the part of boot in which a register that resets is kept; a
	// TPM's reset counter.
	cycle string
	value record.Register
	// oneBank is true for a TPM without a SHA-384 bank.
	oneBank bool
	// aggregate is the ratchet's; zero for a TPM.
	aggregate record.Digest256
}

// resets tells whether registers of a type start anew with each boot.
func resets(kind string) bool { return kind == bundle.TPM }

// errLost is a register that is gone or damaged while its log exists.
var errLost = errors.New("the register is lost")
