package undo_test

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"tero.internal/common/undo"
)

func TestRunReversesAndOutlivesTheContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	var got []string
	var s undo.Stack
	for _, n := range []string{"a", "b", "c"} {
		s.Push(n, func(ctx context.Context) error {
			if ctx.Err() != nil {
				t.Errorf("%s: context has ended: %v", n, ctx.Err())
			}
			got = append(got, n)
			if n == "b" {
				return errors.New("b failed")
			}
			return nil
		})
	}
	err := s.Run(ctx)
	if err == nil || !strings.Contains(err.Error(), "undo b: b failed") {
		t.Errorf("Run error = %v, want it to name step b", err)
	}
	if diff := cmp.Diff([]string{"c", "b", "a"}, got); diff != "" {
		t.Errorf("order (-want +got):\n%s", diff)
	}
	got = nil
	if err := s.Run(ctx); err != nil || got != nil {
		t.Errorf("second Run = %v, ran %v; want nothing", err, got)
	}
}

func TestKeepForgets(t *testing.T) {
	var s undo.Stack
	s.Push("a", func(context.Context) error { t.Error("ran after Keep"); return nil })
	s.Keep()
	if err := s.Run(t.Context()); err != nil {
		t.Error(err)
	}
}
