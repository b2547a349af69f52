// Package undo keeps compensations for the steps of an operation and runs them
// in reverse when a later step fails.
package undo

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"
)

// Timeout bounds each compensation.
const Timeout = 20 * time.Second

// Stack holds the compensations of the steps done so far. The zero value is
// ready; it is for one goroutine.
type Stack struct{ steps []step }

type step struct {
	name string
	run  func(context.Context) error
}

// Push adds the compensation for a step that has just succeeded.
func (s *Stack) Push(name string, run func(context.Context) error) {
	s.steps = append(s.steps, step{name, run})
}

// Run runs the compensations, last first, and forgets them. It runs all of
// them whatever fails, also when ctx has ended, and joins their errors.
func (s *Stack) Run(ctx context.Context) error {
	var errs []error
	for _, v := range slices.Backward(s.steps) {
		c, cancel := context.WithTimeout(context.WithoutCancel(ctx), Timeout)
		if err := v.run(c); err != nil {
			errs = append(errs, fmt.Errorf("undo %s: %w", v.name, err))
		}
		cancel()
	}
	s.steps = nil
	return errors.Join(errs...)
}

// Keep forgets the compensations: the operation has succeeded.
func (s *Stack) Keep() { s.steps = nil }
