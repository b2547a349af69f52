// Package testenv says what becomes of tests on machines that lack what they need.
package testenv

import (
	"os"
	"testing"
)

// Lacks ends a test for which the machine has not what it needs. A contributor's
// machine skips it; where CI is set, as .ci/run does, it has failed.
func Lacks(tb testing.TB, what any) {
	tb.Helper()
	if os.Getenv("CI") != "" {
		tb.Fatal("must run here, and cannot: ", what)
	}
	tb.Skip(what)
}
