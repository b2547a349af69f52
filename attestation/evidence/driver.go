package evidence

import (
	"tero.internal/attestation/bundle"
	"tero.internal/attestation/internal/register"
	"tero.internal/attestation/record"
)

// driver is a register of one kind.
type driver interface {
	// State reads what the register holds now.
	State() (register.State, error)
	// Extend adds digests, in order. After an error it may hold any of them.
	Extend(ds []record.Digests) error
	// Quote gives the register's own word, bound to extra; nil when it has none.
	Quote(extra []byte) (*bundle.Quote, error)
	// Enrol adds the register's public keys to e; whole adds those too that
	// only an enrolment needs and that take long to get.
	Enrol(e *bundle.Enrolment, whole bool) error
	// Close gives back what it holds open.
	Close() error
}

// openRegister opens the kind of register that the configuration asks for; it
// makes one only for a log that is fresh.
func openRegister(cfg Config, fresh bool) (driver, error) {
	if cfg.TPM != "" {
		return register.OpenTPM(cfg.TPM)
	}
	return register.OpenSoftware(cfg.StateDir, fresh)
}
