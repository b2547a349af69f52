package evidence

import (
	"context"
	"fmt"
	"log/slog"

	"tero.internal/attestation/internal/disk"
	"tero.internal/attestation/internal/register"
	"tero.internal/attestation/record"
)

// recover finds out, when the log is opened, how its last use ended. damage is
// what is wrong with the first record that cannot be read, or nil.
func (o *owner) recover(ctx context.Context, damage error) error {
	if o.diverged != "" {
		return nil
	}
	st, err := o.register.State()
	if err != nil {
		return err
	}
	if o.size > 0 && o.first.Register == o.log.kind() && o.first.Keys != o.keysDigest &&
		(st.Boot == o.boot || !register.Resets(o.log.kind())) {
		o.diverge(ctx, "the node's keys are not those that the log was begun with")
		return nil
	}
	if damage != nil && !o.within(st) {
		o.diverge(ctx, damage.Error())
		return nil
	}
	if damage != nil {
		// The register never heard of it, so nothing was launched on it.
		o.log.cfg.Log.WarnContext(ctx, "a record that a crash tore is dropped", slog.String("found", damage.Error()))
	}
	if err := o.settle(ctx, st); err != nil && o.diverged == "" {
		return err
	}
	return nil
}

// within tells whether a damaged tail can be what a crash left: the register
// never heard of it. A register that a reboot reset cannot say; then the tail
// must at least be no longer than one write is.
func (o *owner) within(st register.State) bool {
	if o.rebooted(st) {
		return o.file.space-o.file.size <= maxBatch*record.MaxSize+growth
	}
	_, found := o.pending(st)
	return found
}

// rebooted tells whether the register was reset since the log's newest boot.
func (o *owner) rebooted(st register.State) bool {
	return register.Resets(o.log.kind()) && st.Boot != o.boot && st.Holds(record.Register{})
}

// pending gives the records that the register does not hold yet. found is
// false when the register's value is none that the log went through lately.
func (o *owner) pending(st register.State) (tail []step, found bool) {
	if st.Holds(o.value) {
		return nil, true
	}
	for i := len(o.tail) - 1; i >= max(0, len(o.tail)-maxTail); i-- {
		if st.Holds(o.tail[i].before) {
			return o.tail[i:], true
		}
	}
	return nil, false
}

// settle brings log and register together, or finds that they diverged.
func (o *owner) settle(ctx context.Context, st register.State) error {
	sameBoot := st.Boot == o.boot
	if o.size == 0 || o.rebooted(st) {
		if !st.Holds(record.Register{}) {
			o.diverge(ctx, "the log is empty, but the register is not: it was used before")
			return o.refusal()
		}
		if err := o.file.cut(); err != nil {
			return disk.Fault("trim the launch log", err)
		}
		return o.note(ctx, o.bootRecord(record.Boot, st))
	}
	tail, found := o.pending(st)
	resumed := !sameBoot && register.Resets(o.log.kind())
	if !found || resumed && !sameCycle(o.boot, st.Cycle) {
		o.diverge(ctx, fmt.Sprintf("the register holds %s, the %d records of the log give %s: records were removed or changed, or somebody else extended it",
			st.Value.SHA256, o.size, o.value.SHA256))
		return o.refusal()
	}
	if err := o.file.cut(); err != nil {
		return disk.Fault("trim the launch log", err)
	}
	if err := o.redo(ctx, tail); err != nil {
		return err
	}
	o.unsettled = false
	switch {
	case resumed:
		return o.note(ctx, o.bootRecord(record.Resume, st))
	case !sameBoot:
		return o.note(ctx, o.bootRecord(record.Boot, st))
	}
	return nil
}

// sameCycle tells whether boot lies in cycle.
func sameCycle(boot, cycle string) bool {
	return cycle != "" && len(boot) > len(cycle) && boot[:len(cycle)+1] == cycle+"."
}

// redo extends the records that a crash kept from the register. A launch among
// them was never executed, as Measure did not return: an abort record says so.
// It is written first, so that a crash in here finds it and writes no second.
func (o *owner) redo(ctx context.Context, tail []step) error {
	if len(tail) == 0 {
		return nil
	}
	digests := make([]record.Digests, 0, len(tail)+1)
	var launches []uint64
	for _, s := range tail {
		digests = append(digests, s.digests)
		if s.kind == record.Launch {
			launches = append(launches, s.seq)
		}
	}
	if len(launches) > 0 && tail[len(tail)-1].kind != record.Abort {
		e, err := o.seal(record.Record{
			Kind: record.Abort, From: launches[0], To: launches[len(launches)-1], Reason: "the node stopped before the register was extended",
		}, o.size)
		if err != nil {
			return err
		}
		if err := o.write([]record.Entry{e}); err != nil {
			return err
		}
		digests = append(digests, e.Digests)
	}
	o.log.cfg.Log.WarnContext(ctx, "records that the register did not hold are extended", slog.Int("records", len(digests)))
	return o.extendDigests(ctx, digests)
}

// bootRecord begins the records of a boot.
func (o *owner) bootRecord(kind record.Kind, st register.State) record.Record {
	return record.Record{
		Kind: kind, Boot: st.Boot, Chain: o.chain, Keys: o.keysDigest,
		Node: o.log.cfg.NodeName, Register: o.log.kind(),
	}
}

// note records something of the log's own.
func (o *owner) note(ctx context.Context, r record.Record) error {
	e, err := o.seal(r, o.size)
	if err != nil {
		return err
	}
	if err := o.write([]record.Entry{e}); err != nil {
		return err
	}
	return o.extend(ctx, []record.Entry{e})
}
