package workload

import "fmt"

// Level is an assurance level: what the root of trust behind a piece of
// evidence is worth. It is always printed and never upgraded by TERO itself.
type Level uint8

// The assurance levels, weakest first.
const (
	// L0 is a software key: tamper-evident, not tamper-proof.
	L0 Level = iota
	// L1 is a virtual TPM: trust the host that runs it.
	L1
	// L2 is a TPM 2.0 with a vendor's endorsement key: node root cannot rewrite history.
	L2
	// L3 is SEV-SNP or TDX: the host is outside the trust boundary.
	L3
)

// String gives "L0" to "L3".
func (l Level) String() string { return fmt.Sprintf("L%d", uint8(l)) }

// Describe gives the level with what it is worth, for people.
func (l Level) Describe() string {
	switch l {
	case L0:
		return "L0 (software key: tamper-evident, not tamper-proof)"
	case L1:
		return "L1 (virtual TPM: as good as the host that runs it)"
	case L2:
		return "L2 (TPM 2.0)"
	case L3:
		return "L3 (confidential computing)"
	}
	return l.String()
}

// ParseLevel reads "L0" to "L3".
func ParseLevel(s string) (Level, error) {
	for l := L0; l <= L3; l++ {
		if s == l.String() {
			return l, nil
		}
	}
	return L0, fmt.Errorf("assurance level %q is not one of L0, L1, L2, L3", s)
}

// MarshalText writes "L0" to "L3".
func (l Level) MarshalText() ([]byte, error) { return []byte(l.String()), nil }

// UnmarshalText reads "L0" to "L3".
func (l *Level) UnmarshalText(b []byte) error {
	p, err := ParseLevel(string(b))
	if err != nil {
		return err
	}
	*l = p
	return nil
}
