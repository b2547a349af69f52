package fault_test

import (
	"errors"
	"fmt"
	"io"
	"testing"

	"tero.internal/common/fault"
)

func TestWrappedFaultKeepsKindHintAndCause(t *testing.T) {
	f := fault.New(fault.Denied, "launch refused: %w", io.EOF).WithHint("sign %s", "it")
	err := fmt.Errorf("run: %w", f)
	if fault.KindOf(err) != fault.Denied || fault.HintOf(err) != "sign it" || !errors.Is(err, io.EOF) {
		t.Errorf("kind %v, hint %q, cause %t", fault.KindOf(err), fault.HintOf(err), errors.Is(err, io.EOF))
	}
	if got := err.Error(); got != "run: launch refused: EOF" {
		t.Errorf("text %q", got)
	}
	outer := fault.New(fault.Invalid, "outer: %w", f)
	if fault.KindOf(outer) != fault.Invalid || fault.HintOf(outer) != "sign it" {
		t.Errorf("outer kind %v, hint %q; want the inner hint", fault.KindOf(outer), fault.HintOf(outer))
	}
}

func TestExitCode(t *testing.T) {
	tests := map[string]struct {
		err  error
		want int
	}{
		"success":  {nil, 0},
		"plain":    {io.EOF, 125},
		"denied":   {fault.New(fault.Denied, "x"), 126},
		"unknown":  {fault.New(fault.Unauthenticated, "x"), 126},
		"notfound": {fault.New(fault.NotFound, "x"), 127},
		"full":     {fault.New(fault.Exhausted, "x"), 125},
	}
	for name, tt := range tests {
		if got := fault.ExitCode(tt.err); got != tt.want {
			t.Errorf("%s: exit code %d, want %d", name, got, tt.want)
		}
	}
}

func TestKindNames(t *testing.T) {
	for k := fault.Internal; k <= fault.Corrupt; k++ {
		if got := fault.ParseKind(k.String()); got != k {
			t.Errorf("ParseKind(%q) = %v, want %v", k.String(), got, k)
		}
	}
	if fault.ParseKind("nonsense") != fault.Internal || fault.Kind(200).String() != "internal" {
		t.Error("unknown kinds are not internal")
	}
}
