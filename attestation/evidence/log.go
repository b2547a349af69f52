// Package evidence keeps the launch log of a node and the register that fixes
// it, and gives evidence of both.
//
// The order of every measurement is: write the record and make it durable,
// extend the register, return. After a crash the log can therefore be ahead of
// the register, never behind:
//
//	register == replay of the log            clean
//	register == replay of all but the tail   redo: record an abort, extend the tail
//	register reset by a reboot (TPM)         record the boot, which starts anew
//	anything else                            diverged: nothing is launched any more
//
// What L0 cannot tell: who holds the whole state directory of an earlier
// moment, register and keys included, can put it back while terod is down. A
// verifier that remembers the size and chain it saw last notices; the node
// itself does not. Against a TPM the same is noticed at once.
package evidence

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"

	"tero.internal/attestation/bundle"
	"tero.internal/attestation/internal/disk"
	"tero.internal/attestation/internal/register"
	"tero.internal/attestation/record"
	"tero.internal/common/atomicfile"
	"tero.internal/common/fault"
	"tero.internal/common/workload"
)

// logName is the log's file in the state directory.
const logName = "launch.log"

// Config says whose log is kept where.
type Config struct {
	// StateDir is this package's own folder; it is made when missing.
	StateDir string
	// NodeName and SPIFFEID name the node.
	NodeName string
	SPIFFEID string
	// TPM is the path of swtpm's unix socket or of /dev/tpmrm0; empty for L0.
	TPM string
	Log *slog.Logger
}

// Log is the launch log of this node. It is safe for concurrent use.
type Log struct {
	cfg       Config
	keys      *keys
	enrolment bundle.Enrolment // its TPM's endorsement key is not filled in

	measure chan *appending
	call    chan func(*owner)
	stop    chan struct{}
	done    chan struct{}
	closing sync.Once

	// mu guards view.
	mu   sync.Mutex
	view view
}

// view is what readers see of the log.
type view struct {
	file *os.File
	// ends[i] is where record i ends in the file.
	ends []int64
	// diverged says why nothing is recorded any more; empty when all is well.
	diverged string
}

// appending is one record on its way into the log.
type appending struct {
	ctx    context.Context //nolint:containedctx // the request travels to the goroutine that owns the log.
	record record.Record
	entry  record.Entry
	done   chan error
}

// Open opens the log, or begins one, and recovers from whatever ended the last
// use of it. A log that does not agree with its register opens, and refuses to
// measure; an error means that there is nothing to open.
func Open(ctx context.Context, cfg Config) (*Log, error) {
	return open(ctx, cfg, func(r driver) driver { return r })
}

// open is Open with a wrapper around the register, for tests that inject faults.
func open(ctx context.Context, cfg Config, wrap func(driver) driver) (_ *Log, err error) {
	if err := os.MkdirAll(cfg.StateDir, 0o700); err != nil {
		return nil, disk.Fault("make the folder of the launch log", err)
	}
	l := &Log{
		cfg: cfg, measure: make(chan *appending, maxBatch), call: make(chan func(*owner)),
		stop: make(chan struct{}), done: make(chan struct{}),
	}
	o := &owner{log: l}
	if o.file, err = openLogFile(filepath.Join(cfg.StateDir, logName)); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			o.close(ctx)
		}
	}()
	if err := atomicfile.Sweep(cfg.StateDir); err != nil {
		return nil, disk.Fault("open the launch log", err)
	}
	damage := o.file.scan(o.replay)
	fresh := o.size == 0 && damage == nil
	if l.keys, err = openKeys(cfg.StateDir, fresh); err != nil {
		return nil, err
	}
	r, lost := openRegister(cfg, fresh)
	switch {
	case lost == nil:
		o.register = wrap(r)
	case errors.Is(lost, register.ErrLost):
		o.diverge(ctx, lost.Error())
	default:
		return nil, lost
	}
	if err = l.fillEnrolment(o.register); err != nil {
		return nil, err
	}
	o.keysDigest = l.enrolment.KeysDigest()
	l.view.file, l.view.ends = o.file.f, o.ends
	if err = o.recover(ctx, damage); err != nil {
		return nil, err
	}
	go o.run(context.WithoutCancel(ctx))
	return l, nil
}

func (l *Log) fillEnrolment(r driver) error {
	l.enrolment = bundle.Enrolment{Version: bundle.Version, Node: l.cfg.NodeName, SPIFFEID: l.cfg.SPIFFEID, Type: l.kind()}
	if err := l.keys.enrol(&l.enrolment); err != nil {
		return err
	}
	if r == nil {
		return nil
	}
	return r.Enrol(&l.enrolment, false)
}

// kind is the evidence type.
func (l *Log) kind() string {
	if l.cfg.TPM != "" {
		return bundle.TPM
	}
	return bundle.Software
}

// Level is what this node may claim: L0 without a TPM and L1 with one. More
// only a verifier can find, from the chain of the endorsement key.
func (l *Log) Level() workload.Level {
	if l.cfg.TPM != "" {
		return workload.L1
	}
	return workload.L0
}

// Measure records a launch and extends the register.
func (l *Log) Measure(ctx context.Context, m workload.Measurement) (workload.Evidence, error) {
	e, err := l.add(ctx, record.Record{Kind: record.Launch, Launch: m})
	if err != nil {
		return workload.Evidence{}, err
	}
	return workload.Evidence{Sequence: e.Sequence, Record: e.Digests.SHA256.Digest(), Level: l.Level()}, nil
}

// RecordPolicy records that another policy set decides from now on.
func (l *Log) RecordPolicy(ctx context.Context, policy digest.Digest) error {
	_, err := l.add(ctx, record.Record{Kind: record.Policy, Policy: policy})
	return err
}

// errClosed is a log that is shut down.
func errClosed() error {
	return fault.New(fault.Unavailable, "the launch log is closed: the node stops")
}

// add hands a record to the goroutine that owns the log. Once taken, its fate
// is waited for, as a durable record cannot be taken back.
func (l *Log) add(ctx context.Context, r record.Record) (record.Entry, error) {
	a := &appending{ctx: ctx, record: r, done: make(chan error, 1)}
	select {
	case l.measure <- a:
	case <-ctx.Done():
		return record.Entry{}, ctx.Err()
	case <-l.stop:
		return record.Entry{}, errClosed()
	}
	select {
	case err := <-a.done:
		return a.entry, err
	case <-l.done:
	}
	select { // the owner may have answered just before it ended
	case err := <-a.done:
		return a.entry, err
	default:
		return record.Entry{}, errClosed()
	}
}

// Attest gives evidence of the whole log, bound to the verifier's nonce. With
// an empty nonce the node draws one.
func (l *Log) Attest(ctx context.Context, nonce []byte) ([]byte, error) {
	if len(nonce) == 0 {
		nonce = make([]byte, 32)
		_, _ = rand.Read(nonce) // crypto/rand.Read never fails (Go 1.24)
	}
	if len(nonce) < bundle.MinNonce || len(nonce) > bundle.MaxNonce {
		return nil, fault.New(fault.Invalid, "the nonce has %d bytes, not %d to %d", len(nonce), bundle.MinNonce, bundle.MaxNonce)
	}
	var b *bundle.Bundle
	var size uint64
	err := l.do(ctx, func(o *owner) (err error) {
		b, err = o.attest(ctx, nonce)
		size = o.size
		return err
	})
	if err != nil {
		return nil, err
	}
	if b.Records, err = l.read(0, size); err != nil {
		return nil, err
	}
	return b.Encode()
}

// do runs f on the goroutine that owns the log, and waits.
func (l *Log) do(ctx context.Context, f func(*owner) error) error {
	result := make(chan error, 1)
	select {
	case l.call <- func(o *owner) { result <- f(o) }:
		return <-result
	case <-ctx.Done():
		return ctx.Err()
	case <-l.done:
		return errClosed()
	}
}

// Enrolment gives the public material that a verifier needs.
func (l *Log) Enrolment(ctx context.Context) (*bundle.Enrolment, error) {
	e := l.enrolment
	err := l.do(ctx, func(o *owner) error {
		if o.register == nil {
			return nil
		}
		return o.register.Enrol(&e, true)
	})
	if err != nil {
		return nil, err
	}
	return &e, nil
}

// TakeWitnessKey gives the first key of the ratchet, once, and erases it here.
func (l *Log) TakeWitnessKey(ctx context.Context) ([]byte, error) {
	var key []byte
	err := l.do(ctx, func(*owner) (err error) {
		key, err = register.TakeWitnessKey(l.cfg.StateDir)
		return err
	})
	return key, err
}

// State gives how many records there are, and why nothing is recorded any
// more; that is empty when all is well.
func (l *Log) State() (size uint64, diverged string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return uint64(len(l.view.ends)), l.view.diverged
}

// Records gives up to limit records from number from on.
func (l *Log) Records(_ context.Context, from uint64, limit int) ([]record.Entry, error) {
	size, _ := l.State()
	if from >= size || limit <= 0 {
		return nil, nil
	}
	return l.read(from, min(size, from+uint64(limit)))
}

// read reads the records from number from to before number to. They are
// durable and never change, so that no lock is held.
func (l *Log) read(from, to uint64) ([]record.Entry, error) {
	if from >= to {
		return nil, nil
	}
	l.mu.Lock()
	file, ends := l.view.file, l.view.ends
	l.mu.Unlock()
	begin := int64(len(record.Header()))
	if from > 0 {
		begin = ends[from-1]
	}
	data := make([]byte, ends[to-1]-begin)
	if _, err := file.ReadAt(data, begin); err != nil {
		return nil, fmt.Errorf("read the launch log: %w", err)
	}
	entries := make([]record.Entry, 0, to-from)
	for n := from; n < to; n++ {
		e, rest, err := record.Decode(data)
		if err != nil {
			return nil, fault.New(fault.Corrupt, "record %d of the launch log changed on disk: %w", n, err).
				WithHint("somebody else wrote to %s: keep the folder for examination", filepath.Join(l.cfg.StateDir, logName))
		}
		entries, data = append(entries, e), rest
	}
	return entries, nil
}

// Close stops recording and waits for what is on its way.
func (l *Log) Close() error {
	l.closing.Do(func() { close(l.stop) })
	<-l.done
	return nil
}

// head gives the head that is signed.
func (o *owner) head(nonce []byte, st register.State) bundle.Head {
	h := bundle.Head{
		Boot: o.boot, Chain: o.chain.String(), Node: o.log.cfg.NodeName, Nonce: hex.EncodeToString(nonce),
		SHA256: o.value.SHA256.String(), SHA384: o.value.SHA384.String(), Size: o.size,
		SPIFFEID: o.log.cfg.SPIFFEID, Time: time.Now().UTC().Format(record.TimeFormat), Type: o.log.kind(),
	}
	if !register.Resets(h.Type) {
		h.Aggregate = st.Aggregate.String()
	}
	return h
}
