package mark_test

import (
	"testing"

	"tero.internal/network-manager/internal/mark"
)

func TestNumbersAreNeverGivenTwice(t *testing.T) {
	m := mark.New()
	a := m.Take("a")
	if again := m.Take("a"); again != a || a < mark.First {
		t.Errorf("a has %d and %d", a, again)
	}
	m.Drop("a")
	m.Drop("a")
	m.Drop("nobody")
	if b := m.Take("b"); b == a {
		t.Error("b got what a had")
	}
	if err := m.Restore("c", 0x2000); err != nil {
		t.Error(err)
	}
	if err := m.Restore("c", 0x2001); err == nil {
		t.Error("c has two numbers")
	}
	if d := m.Take("d"); d != 0x2001 {
		t.Errorf("d has %#x", d)
	}
}
