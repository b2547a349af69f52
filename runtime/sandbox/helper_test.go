package sandbox_test

import "context"

// cleanup is the context of clean-up, when a test's own has ended.
func cleanup() context.Context { return context.Background() }
