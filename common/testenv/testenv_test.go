package testenv_test

import (
	"strings"
	"testing"

	"tero.internal/common/testenv"
)

// recorder notes how a test ended.
type recorder struct {
	testing.TB
	ended string
}

func (*recorder) Helper()        {}
func (r *recorder) Fatal(...any) { r.ended += "failed " }
func (r *recorder) Skip(...any)  { r.ended += "skipped " }

func TestLacks(t *testing.T) {
	for ci, want := range map[string]string{"": "skipped ", "true": "failed "} {
		t.Setenv("CI", ci)
		var r recorder
		testenv.Lacks(&r, "a kernel")
		if !strings.HasPrefix(r.ended, want) { // what a real test's Fatal does not return to, follows
			t.Errorf("CI=%q: %q", ci, r.ended)
		}
	}
}
