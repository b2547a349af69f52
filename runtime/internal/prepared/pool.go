package prepared

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"tero.internal/runtime/internal/setup"
)

// Pool holds prepared sandboxes of one shape: most containers of a node have
// the same. It is filled by one goroutine, while nobody waits for it.
type Pool struct {
	maker   *Maker
	log     *slog.Logger
	size    int
	filling sync.WaitGroup
	cancel  context.CancelFunc
	wake    chan struct{} // has room for one

	mu    sync.Mutex // guards what follows
	shape *setup.Shape
	ready []*Sandbox
	// misfits is how many launches in a row had another shape.
	misfits int
}

// maxMisfits is how many launches in a row make the pool change its shape.
const maxMisfits = 4

// refillRetry is how long the pool is left alone after preparing failed, and
// refillPause how long after a sandbox was taken: whoever took it has a launch
// under way that needs the machine more.
const (
	refillRetry = time.Second
	refillPause = 15 * time.Millisecond
)

// Open gives a pool of size sandboxes of a shape, which is filled at once.
func Open(m *Maker, size int, shape *setup.Shape, log *slog.Logger) *Pool {
	ctx, cancel := context.WithCancel(context.Background())
	p := &Pool{maker: m, log: log, size: size, cancel: cancel, wake: make(chan struct{}, 1), shape: shape}
	if size > 0 {
		p.wakeUp()
	}
	p.filling.Go(func() { p.fill(ctx) })
	return p
}

// Close ends the filling; what is prepared stays. It may be called again.
func (p *Pool) Close() {
	p.cancel()
	p.filling.Wait()
}

// Empty ends the filling and discards what is prepared.
func (p *Pool) Empty(ctx context.Context) error {
	p.Close()
	p.mu.Lock()
	ready := p.ready
	p.ready = nil
	p.mu.Unlock()
	var errs []error
	for _, r := range ready {
		errs = append(errs, p.maker.Discard(ctx, r))
	}
	return errors.Join(errs...)
}

// Take gives a prepared sandbox of a shape, from the pool or made for the caller.
func (p *Pool) Take(ctx context.Context, shape *setup.Shape) (*Sandbox, error) {
	keeper, err := p.maker.Keeper.PID(ctx)
	if err != nil {
		return nil, err
	}
	if r := p.take(shape, keeper); r != nil {
		return r, nil
	}
	return p.maker.Make(ctx, shape, nil)
}

func (p *Pool) take(shape *setup.Shape, keeper int) *Sandbox {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.size == 0 {
		return nil
	}
	defer p.wakeUp()
	if p.shape == nil || !p.shape.Fits(shape) {
		if p.misfits++; p.shape == nil || p.misfits > maxMisfits {
			p.shape, p.misfits = shape, 0
		}
		return nil
	}
	p.misfits = 0
	for i, r := range p.ready {
		if r.shape == p.shape && r.alive(keeper) {
			p.ready = append(p.ready[:i:i], p.ready[i+1:]...)
			return r
		}
	}
	return nil
}

func (p *Pool) wakeUp() {
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

// fill keeps the pool full until ctx ends.
func (p *Pool) fill(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-p.wake:
		}
		if !p.rest(ctx) {
			return
		}
		for ctx.Err() == nil {
			more, err := p.step(ctx)
			if err != nil {
				p.log.WarnContext(ctx, "sandbox not prepared ahead of time", slog.String("error", err.Error()))
				select {
				case <-ctx.Done():
				case <-time.After(refillRetry):
				}
				break // and wait for the next launch
			}
			if !more {
				break
			}
		}
	}
}

// rest leaves the machine to who took a sandbox, unless there is none left; it
// is false when ctx has ended.
func (p *Pool) rest(ctx context.Context) bool {
	p.mu.Lock()
	left := len(p.ready)
	p.mu.Unlock()
	if left == 0 {
		return true
	}
	select {
	case <-ctx.Done():
		return false
	case <-time.After(refillPause):
		return true
	}
}

// step discards what is of no use any more, or prepares one more; more is false
// when there is nothing left to do.
func (p *Pool) step(ctx context.Context) (more bool, err error) {
	keeper, err := p.maker.Keeper.PID(ctx)
	if err != nil {
		return false, err
	}
	p.mu.Lock()
	shape := p.shape
	for i, r := range p.ready {
		if r.shape != shape || !r.alive(keeper) {
			p.ready = append(p.ready[:i:i], p.ready[i+1:]...)
			p.mu.Unlock()
			return true, p.maker.Discard(ctx, r)
		}
	}
	full := shape == nil || len(p.ready) >= p.size
	p.mu.Unlock()
	if full {
		return false, nil
	}
	r, err := p.maker.Make(ctx, shape, nil)
	if err != nil {
		return false, err
	}
	p.mu.Lock()
	p.ready = append(p.ready, r)
	p.mu.Unlock()
	return true, nil
}
