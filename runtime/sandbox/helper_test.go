package sandbox_test

import (
	"context"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"tero.internal/runtime/sandbox/sandboxtest"
)

// cleanup is the context of clean-up, when a test's own has ended.
func cleanup() context.Context { return context.Background() }

// mustConfigure gives the configuration of a container that does nothing.
func mustConfigure(tb testing.TB, n *node, s *sandboxtest.Suite) *specs.Spec {
	tb.Helper()
	config, err := n.Configure(s.Spec(tb, "true"), image())
	if err != nil {
		tb.Fatal(err)
	}
	return config
}
