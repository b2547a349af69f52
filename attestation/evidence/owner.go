package evidence

import (
	"context"
	"crypto/sha256"
	"log/slog"
	"path/filepath"
	"time"

	"tero.internal/attestation/bundle"
	"tero.internal/attestation/internal/register"
	"tero.internal/attestation/record"
	"tero.internal/common/fault"
)

// maxBatch is how many records share one write and one fsync at most, and so
// how far the log can be ahead of the register after a crash.
const maxBatch = 64

// owner is the one user of the log's file and of the register. Open works with
// it first, then the goroutine that run is.
type owner struct {
	log        *Log
	file       *logFile
	register   driver
	keysDigest record.Digest256

	// What the log says: how many records, where they end, the chain over all,
	// the value that the register must have, and the newest boot's records.
	size  uint64
	ends  []int64
	chain record.Digest256
	value record.Register
	boot  string
	first record.Entry // the newest boot or resume record
	// tail are the newest records, with the register's value before each.
	tail []step

	// unsettled is true when the register may not hold what the log says.
	unsettled bool
	diverged  string
}

// step is one record and the register's value before it.
type step struct {
	before  record.Register
	kind    record.Kind
	seq     uint64
	digests record.Digests
}

// maxTail bounds the tail: a batch, and what recovery itself writes.
const maxTail = maxBatch + 8

// replay takes a record of the log into account; it ends at end in the file.
func (o *owner) replay(e *record.Entry, end int64) {
	if e.Kind == record.Boot || e.Kind == record.Resume {
		o.boot, o.first = e.Boot, *e
	}
	if e.Kind == record.Boot && register.Resets(e.Register) {
		o.value = record.Register{}
		o.tail = o.tail[:0]
	}
	if len(o.tail) >= 2*maxTail {
		o.tail = append(o.tail[:0], o.tail[len(o.tail)-maxTail:]...)
	}
	o.tail = append(o.tail, step{before: o.value, kind: e.Kind, seq: o.size, digests: e.Digests})
	o.value = o.value.Extend(e.Digests)
	o.chain = sha256.Sum256(append(o.chain[:], e.Digests.SHA256[:]...))
	o.size++
	o.ends = append(o.ends, end)
}

// run serves requests until Close. Records that wait together share a write.
func (o *owner) run(ctx context.Context) {
	defer close(o.log.done)
	defer o.close(ctx)
	for {
		select {
		case a := <-o.log.measure:
			o.commit(ctx, o.collect(a))
		case f := <-o.log.call:
			f(o)
		case <-o.log.stop:
			for {
				select {
				case a := <-o.log.measure:
					o.commit(ctx, o.collect(a))
				default:
					return
				}
			}
		}
	}
}

// collect takes the records that wait with a.
func (o *owner) collect(a *appending) []*appending {
	batch := []*appending{a}
	for len(batch) < maxBatch {
		select {
		case b := <-o.log.measure:
			batch = append(batch, b)
		default:
			return batch
		}
	}
	return batch
}

// commit records a batch and answers each of it.
func (o *owner) commit(ctx context.Context, batch []*appending) {
	err := o.ready(ctx)
	var taken []*appending
	var entries []record.Entry
	for _, a := range batch {
		fail := err
		if fail == nil {
			fail = a.ctx.Err()
		}
		if fail == nil {
			a.entry, fail = o.seal(a.record, o.size+uint64(len(entries)))
		}
		if fail != nil {
			a.done <- fail
			continue
		}
		taken, entries = append(taken, a), append(entries, a.entry)
	}
	if len(taken) == 0 {
		return
	}
	err = o.write(entries)
	if err == nil {
		err = o.extend(ctx, entries)
	}
	for _, a := range taken {
		a.done <- err
	}
}

// seal completes a record with what the log knows and encodes it.
func (o *owner) seal(r record.Record, seq uint64) (record.Entry, error) {
	r.Sequence, r.Time = seq, time.Now()
	if r.Boot == "" {
		r.Boot = o.boot
	}
	e, err := record.Seal(r)
	if err != nil {
		return e, fault.New(fault.Invalid, "the launch cannot be recorded: %w", err)
	}
	return e, nil
}

// write makes records durable.
func (o *owner) write(entries []record.Entry) error {
	var b []byte
	if o.file.size == 0 {
		b = record.Header()
	}
	ends := make([]int64, len(entries))
	for i := range entries {
		b = entries[i].Append(b)
		ends[i] = o.file.size + int64(len(b))
	}
	if err := o.file.append(b); err != nil {
		return err
	}
	o.unsettled = true
	for i := range entries {
		o.replay(&entries[i], ends[i])
	}
	o.log.mu.Lock()
	o.log.view.ends = o.ends
	o.log.mu.Unlock()
	return nil
}

// extend brings the register to where the log is, and reads it back: what a
// caller is told must be what the register holds.
func (o *owner) extend(ctx context.Context, entries []record.Entry) error {
	ds := make([]record.Digests, len(entries))
	for i := range entries {
		ds[i] = entries[i].Digests
	}
	return o.extendDigests(ctx, ds)
}

func (o *owner) extendDigests(ctx context.Context, ds []record.Digests) error {
	if err := o.register.Extend(ds); err != nil {
		return err
	}
	st, err := o.register.State()
	if err != nil {
		return err
	}
	if !st.Holds(o.value) {
		o.diverge(ctx, "somebody else extended the register while a launch was recorded")
		return o.refusal()
	}
	o.unsettled = false
	return nil
}

// ready tells whether a record may be written now: the register holds what the
// log says, in the boot that it says, or can be brought there.
func (o *owner) ready(ctx context.Context) error {
	if o.diverged != "" {
		return o.refusal()
	}
	st, err := o.register.State()
	if err != nil {
		return err
	}
	if o.unsettled || st.Boot != o.boot || !st.Holds(o.value) {
		return o.settle(ctx, st)
	}
	return nil
}

// attest signs the head and has the register quoted.
func (o *owner) attest(ctx context.Context, nonce []byte) (*bundle.Bundle, error) {
	if err := o.ready(ctx); err != nil {
		return nil, err
	}
	st, err := o.register.State()
	if err != nil {
		return nil, err
	}
	h := o.head(nonce, st)
	b := &bundle.Bundle{Type: h.Type}
	if b.Head, err = h.Text(); err != nil {
		return nil, err
	}
	if err := o.log.keys.sign(b); err != nil {
		return nil, err
	}
	extra := bundle.Binding(nonce, o.log.enrolment.Ed25519, o.size, b.Head)
	if b.Quote, err = o.register.Quote(extra[:]); err != nil {
		return nil, err
	}
	return b, nil
}

// diverge gives up the log for good: launching goes on only where the log and
// the register tell the same story.
func (o *owner) diverge(ctx context.Context, why string) {
	o.diverged = why
	o.log.mu.Lock()
	o.log.view.diverged = why
	o.log.mu.Unlock()
	o.log.cfg.Log.ErrorContext(ctx, "launch log diverged from its register", slog.String("reason", why))
}

// refusal is what everybody hears after a divergence.
func (o *owner) refusal() error {
	f := fault.New(fault.Corrupt, "this node's launch log and its register have diverged, so nothing is launched: %s", o.diverged)
	dir := filepath.Clean(o.log.cfg.StateDir)
	if register.Resets(o.log.kind()) {
		return f.WithHint("somebody may have tampered: keep %s for examination. A reboot resets PCR 13; if the log itself is damaged, move the folder away too and enrol the node anew", dir)
	}
	return f.WithHint("somebody may have tampered: keep %s for examination. To go on, move the folder away and enrol the node anew", dir)
}

// close gives back the register and the file.
func (o *owner) close(ctx context.Context) {
	if o.register != nil {
		if err := o.register.Close(); err != nil {
			o.log.cfg.Log.WarnContext(ctx, "close the register", slog.String("error", err.Error()))
		}
	}
	if err := o.file.f.Close(); err != nil {
		o.log.cfg.Log.WarnContext(ctx, "close the launch log", slog.String("error", err.Error()))
	}
}
