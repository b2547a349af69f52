package plugin

import (
	"context"
	"time"

	"github.com/tetratelabs/wazero/api"
)

// useKey is the context key of a use.
type useKey struct{}

// use is the account of one call, or of one start of an instance.
type use struct {
	p         *Plugin
	i         *instance
	settings  []byte
	budget    int64 // ticks that may be used
	granted   int64 // ticks that were handed out
	logLeft   int64 // bytes
	deadline  time.Time
	wallClock time.Duration

	logDropped int64
}

// useOf gives the account of the call that a host function belongs to.
func useOf(ctx context.Context, m api.Module) *use {
	u, _ := ctx.Value(useKey{}).(*use) // every call into a guest has one
	u.i.bind(m)
	return u
}

// ticks gives what was used.
func (u *use) ticks() int64 {
	return u.granted - int64(u.i.left.Get()) //nolint:gosec // the global is an i64
}

// refill is what a guest calls when its slice is spent: left is below zero. It
// gives left with a new slice. Panicking is how a host function stops a guest.
func (u *use) refill(ctx context.Context, left int64) int64 {
	if err := ctx.Err(); err != nil {
		panic(err)
	}
	if u.budget-u.granted < -left {
		u.granted = u.budget // the same count on every machine
		u.i.left.Set(0)
		panic(errTicks)
	}
	if !time.Now().Before(u.deadline) {
		panic(errTime)
	}
	grant := min(max(-left, slice), u.budget-u.granted)
	u.granted += grant
	return left + grant
}

// charge takes ticks for what a host function does.
func (u *use) charge(ctx context.Context, ticks int64) {
	left := int64(u.i.left.Get()) - ticks //nolint:gosec // the global is an i64
	if left < 0 {
		left = u.refill(ctx, left)
	}
	u.i.left.Set(uint64(left)) //nolint:gosec // the global is an i64
}

// chargeBytes takes ticks for handling n bytes.
func (u *use) chargeBytes(ctx context.Context, n uint32) { u.charge(ctx, 1+int64(n)/64) }
