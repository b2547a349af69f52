package evidence

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"tero.internal/attestation/bundle"
	"tero.internal/attestation/record"
	"tero.internal/attestation/verify"
	"tero.internal/common/fault"
	"tero.internal/common/workload"
)

func TestMeasureGivesWhatTheLogHolds(t *testing.T) {
	eachRegister(t, func(t *testing.T, cfg Config, s *swtpm) {
		l := mustOpen(t, cfg)
		ev, err := l.Measure(t.Context(), launch("web"))
		if err != nil {
			t.Fatal(err)
		}
		if err := l.RecordPolicy(t.Context(), launch("web").Policy); err != nil {
			t.Fatal(err)
		}
		level := workload.L0
		if s != nil {
			level = workload.L1
		}
		if ev.Sequence != 1 || ev.Level != level || l.Level() != level {
			t.Errorf("evidence %+v, level %s", ev, l.Level())
		}
		es, err := l.Records(t.Context(), 1, 1)
		if err != nil || len(es) != 1 || es[0].Digests.SHA256.Digest() != ev.Record || es[0].Launch != launch("web") {
			t.Errorf("records %+v, %v", es, err)
		}
		wantKinds(t, l, "boot", "web", "policy")
		r := mustVerify(t, l)
		if r.Level != level || len(r.Launches) != 1 || r.Launches[0].Measurement != launch("web") || r.Seen.Size != 3 || !r.Fresh {
			t.Errorf("result %+v", r)
		}
	})
}

func TestMeasureRefusesWhatCannotStandInARecord(t *testing.T) {
	l := mustOpen(t, config(t, ""))
	m := launch("web")
	m.ImageRef = "localhost/\"web\""
	if _, err := l.Measure(t.Context(), m); fault.KindOf(err) != fault.Invalid {
		t.Errorf("Measure = %v", err)
	}
	mustMeasure(t, l, "web")
	wantKinds(t, l, "boot", "web")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := l.Measure(ctx, launch("late")); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	_ = l.Close()
	if _, err := l.Measure(t.Context(), launch("late")); fault.KindOf(err) != fault.Unavailable {
		t.Errorf("closed: %v", err)
	}
}

func TestConcurrentLaunches(t *testing.T) {
	eachRegister(t, func(t *testing.T, cfg Config, _ *swtpm) {
		l := mustOpen(t, cfg)
		const n = 200
		seqs := make([]uint64, n)
		var wg sync.WaitGroup
		for i := range n {
			wg.Go(func() {
				ev, err := l.Measure(context.Background(), launch(fmt.Sprintf("w%d", i)))
				if err != nil {
					t.Error(err)
				}
				seqs[i] = ev.Sequence
				if i%50 == 0 {
					if _, err := l.Attest(context.Background(), nil); err != nil {
						t.Error(err)
					}
				}
			})
		}
		wg.Wait()
		slices.Sort(seqs)
		for i, s := range seqs {
			if s != uint64(i)+1 {
				t.Fatalf("sequence numbers have a gap at %d", i)
			}
		}
		if r := mustVerify(t, l); len(r.Launches) != n {
			t.Errorf("%d launches are proven, want %d", len(r.Launches), n)
		}
	})
}

func TestFullDisk(t *testing.T) {
	cfg := config(t, "")
	cfg.StateDir = t.TempDir()
	if err := syscall.Mount("tmpfs", cfg.StateDir, "tmpfs", 0, "size=64k"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(cfg.StateDir, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	l := mustOpen(t, cfg)
	n := 0
	var err error
	for ; err == nil && n < 1000; n++ {
		_, err = l.Measure(t.Context(), launch("web"))
	}
	if fault.KindOf(err) != fault.Exhausted || fault.HintOf(err) == "" || !errors.Is(err, syscall.ENOSPC) || n < 20 {
		t.Fatalf("after %d launches: %v", n, err)
	}
	if r := mustVerify(t, l); len(r.Launches) != n-1 {
		t.Errorf("%d launches are proven, %d were measured", len(r.Launches), n-1)
	}
	_ = l.Close()
	l = mustOpen(t, cfg)
	if r := mustVerify(t, l); len(r.Launches) != n-1 {
		t.Errorf("after a restart %d launches are proven, %d were measured", len(r.Launches), n-1)
	}
	if err := syscall.Mount("tmpfs", cfg.StateDir, "tmpfs", syscall.MS_REMOUNT, "size=1m"); err != nil {
		t.Fatal(err)
	}
	mustMeasure(t, l, "more")
	mustVerify(t, l)
	_ = l.Close() // before the file system goes
}

// The software register's files, and the size of one of its two slots.
const (
	registerFile = "register"
	witnessFile  = "witness.key"
	slotSize     = 512
)

// failing is a register that refuses for a while.
type failing struct {
	driver
	mu   sync.Mutex
	fail error
}

func (f *failing) set(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.fail = err
}

func (f *failing) Extend(ds []record.Digests) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.fail != nil {
		return f.fail
	}
	return f.driver.Extend(ds)
}

func TestRegisterThatFailsForAWhile(t *testing.T) {
	eachRegister(t, func(t *testing.T, cfg Config, _ *swtpm) {
		f := &failing{}
		l, err := open(t.Context(), cfg, func(r driver) driver { f.driver = r; return f })
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = l.Close() })
		f.set(fault.New(fault.Unavailable, "the TPM is away"))
		if _, err := l.Measure(t.Context(), launch("a")); fault.KindOf(err) != fault.Unavailable {
			t.Errorf("Measure = %v", err)
		}
		if _, err := l.Measure(t.Context(), launch("b")); fault.KindOf(err) != fault.Unavailable {
			t.Errorf("Measure = %v", err)
		}
		f.set(nil)
		mustMeasure(t, l, "c")
		wantKinds(t, l, "boot", "a", "abort", "c")
		mustVerify(t, l)
	})
}

func TestTPMThatIsGone(t *testing.T) {
	s := startTPM(t)
	cfg := config(t, s.path)
	l := mustOpen(t, cfg)
	s.stop()
	if _, err := l.Measure(t.Context(), launch("a")); fault.KindOf(err) != fault.Unavailable || fault.HintOf(err) == "" {
		t.Errorf("Measure = %v", err)
	}
	_ = l.Close()
	if _, err := Open(t.Context(), cfg); fault.KindOf(err) != fault.Unavailable || fault.HintOf(err) == "" {
		t.Errorf("Open = %v", err)
	}
	cfg.TPM = "/etc/hostname"
	if _, err := Open(t.Context(), cfg); fault.KindOf(err) != fault.Invalid {
		t.Errorf("a plain file as TPM: %v", err)
	}
}

func TestSecondDaemonIsRefused(t *testing.T) {
	cfg := config(t, "")
	mustOpen(t, cfg)
	if _, err := Open(t.Context(), cfg); fault.KindOf(err) != fault.Exists || fault.HintOf(err) == "" {
		t.Errorf("second Open = %v", err)
	}
}

// TestTampering changes what lies on the disk of a stopped node.
func TestTampering(t *testing.T) {
	tests := map[string]struct {
		tamper func(t *testing.T, dir string)
		// l0 and l1 are what the node says; empty: it goes on as if nothing were.
		l0, l1 string
	}{
		"a byte of a record": {flip(logName, "localhost/b:v1"), "record 2: its SHA-256 digest differs", "record 2: its SHA-256 digest differs"},
		"the log cut":        {cutLog, "records were removed", "records were removed"},
		"the log gone":       {remove(logName), "it was used before", "it was used before"},
		"the log zeroed":     {zeroLog, "it was used before", "it was used before"},
		"the register gone":  {remove(registerFile), "register is lost", ""},
		"the register cut":   {truncate(registerFile), "register is lost", ""},
		"the register flipped": {func(t *testing.T, dir string) {
			corrupt(t, filepath.Join(dir, registerFile), func(b []byte) { b[100] ^= 1; b[slotSize+100] ^= 1 })
		}, "register is lost", ""},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			eachRegister(t, func(t *testing.T, cfg Config, s *swtpm) {
				l := mustOpen(t, cfg)
				mustMeasure(t, l, "a", "b", "c")
				_ = l.Close()
				want := tt.l0
				if s != nil {
					if want = tt.l1; want == "" {
						return
					}
				}
				tt.tamper(t, cfg.StateDir)
				wantDiverged(t, mustOpen(t, cfg), want)
			})
		})
	}
}

func flip(name, at string) func(*testing.T, string) {
	return func(t *testing.T, dir string) {
		corrupt(t, filepath.Join(dir, name), func(b []byte) { b[bytes.Index(b, []byte(at))] ^= 1 })
	}
}

func remove(name string) func(*testing.T, string) {
	return func(t *testing.T, dir string) { mustRemove(t, filepath.Join(dir, name)) }
}

func truncate(name string) func(*testing.T, string) {
	return func(t *testing.T, dir string) {
		if err := os.Truncate(filepath.Join(dir, name), 100); err != nil {
			t.Fatal(err)
		}
	}
}

func cutLog(t *testing.T, dir string) {
	corrupt(t, filepath.Join(dir, logName), func(b []byte) {
		header := len(record.Header())
		_, rest, err := record.Decode(b[header:])
		if err != nil {
			t.Fatal(err)
		}
		clear(rest)
	})
}

func zeroLog(t *testing.T, dir string) {
	corrupt(t, filepath.Join(dir, logName), func(b []byte) { clear(b) })
}

func corrupt(t *testing.T, path string, change func([]byte)) {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	change(b)
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestKeyFiles(t *testing.T) {
	for _, name := range []string{ed25519File, mldsaFile} {
		for what, tt := range map[string]struct {
			tamper func(t *testing.T, dir string)
			kind   fault.Kind
		}{
			"gone":     {remove(name), fault.Corrupt},
			"cut":      {truncate(name), fault.Corrupt},
			"readable": {func(t *testing.T, dir string) { mustChmod(t, filepath.Join(dir, name), 0o640) }, fault.Denied},
			"a link": {func(t *testing.T, dir string) {
				path := filepath.Join(dir, name)
				if err := os.Rename(path, path+".x"); err != nil {
					t.Fatal(err)
				}
				if err := os.Symlink(path+".x", path); err != nil {
					t.Fatal(err)
				}
			}, fault.Denied},
		} {
			t.Run(name+" "+what, func(t *testing.T) {
				cfg := config(t, "")
				l := mustOpen(t, cfg)
				_ = l.Close()
				tt.tamper(t, cfg.StateDir)
				if _, err := Open(t.Context(), cfg); fault.KindOf(err) != tt.kind || fault.HintOf(err) == "" {
					t.Errorf("Open = %v", err)
				}
			})
		}
	}
	t.Run("exchanged", func(t *testing.T) {
		cfg, other := config(t, ""), config(t, "")
		_ = mustOpen(t, cfg).Close()
		_ = mustOpen(t, other).Close()
		if err := os.Rename(filepath.Join(other.StateDir, ed25519File), filepath.Join(cfg.StateDir, ed25519File)); err != nil {
			t.Fatal(err)
		}
		wantDiverged(t, mustOpen(t, cfg), "keys are not those")
	})
	t.Run("modes", func(t *testing.T) {
		cfg := config(t, "")
		mustOpen(t, cfg)
		for _, name := range []string{ed25519File, mldsaFile, registerFile, witnessFile, logName} {
			if fi, err := os.Stat(filepath.Join(cfg.StateDir, name)); err != nil || fi.Mode().Perm() != 0o600 {
				t.Errorf("%s: %v, %v", name, fi, err)
			}
		}
	})
}

func mustChmod(t *testing.T, path string, mode os.FileMode) {
	t.Helper()
	if err := os.Chmod(path, mode); err != nil {
		t.Fatal(err)
	}
}

// TestRollback puts an older state back: what is noticed, and by whom.
func TestRollback(t *testing.T) {
	eachRegister(t, func(t *testing.T, cfg Config, s *swtpm) {
		l := mustOpen(t, cfg)
		mustMeasure(t, l, "a")
		_ = l.Close()
		old := t.TempDir()
		if err := os.CopyFS(old, os.DirFS(cfg.StateDir)); err != nil {
			t.Fatal(err)
		}
		l = mustOpen(t, cfg)
		mustMeasure(t, l, "b")
		r := mustVerify(t, l)
		enrolment := mustEnrol(t, l)
		_ = l.Close()

		restore := func(name string) {
			b, err := os.ReadFile(filepath.Join(old, name))
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(cfg.StateDir, name), b, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		restore(logName) // the log alone: every level notices
		l = mustOpen(t, cfg)
		wantDiverged(t, l, "records were removed")
		_ = l.Close()
		if s != nil {
			return // a TPM cannot be put back
		}
		restore(registerFile) // all of it: L0 cannot know, a verifier that remembers does
		l = mustOpen(t, cfg)
		b, err := l.Attest(t.Context(), nil)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := verify.Verify(b, verify.Trust{Enrolment: enrolment}, nil); err != nil {
			t.Errorf("without memory: %v", err)
		}
		_, err = verify.Verify(b, verify.Trust{Enrolment: enrolment, Seen: &r.Seen}, nil)
		if err == nil || !strings.Contains(err.Error(), "rolled back") {
			t.Errorf("with memory: %v", err)
		}
		mustMeasure(t, l, "other", "more")
		if b, err = l.Attest(t.Context(), nil); err != nil {
			t.Fatal(err)
		}
		_, err = verify.Verify(b, verify.Trust{Enrolment: enrolment, Seen: &r.Seen}, nil)
		if err == nil || !strings.Contains(err.Error(), "rewritten") {
			t.Errorf("forked: %v", err)
		}
	})
}

// forgeRegister gives the software register another value, as one can who knows
// its form: in the slot that is not wiped, two values follow a head of 32 bytes,
// then 64 bytes of ratchet and the checksum.
func forgeRegister(t *testing.T, cfg Config, value record.Register) {
	t.Helper()
	corrupt(t, filepath.Join(cfg.StateDir, registerFile), func(b []byte) {
		slot := b[bytes.Index(b, []byte("tero/v1 register"))/slotSize*slotSize:][:slotSize]
		copy(slot[32:], value.SHA256[:])
		copy(slot[64:], value.SHA384[:])
		sum := sha256.Sum256(slot[:176])
		copy(slot[176:], sum[:])
	})
}

// TestWitnessKeyShowsRewriting plays an attacker who has all of the node's
// files and rewrites a record from before the break-in.
func TestWitnessKeyShowsRewriting(t *testing.T) {
	cfg := config(t, "")
	l := mustOpen(t, cfg)
	witness, err := l.TakeWitnessKey(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := l.TakeWitnessKey(t.Context()); fault.KindOf(err) != fault.NotFound {
		t.Errorf("taken twice: %v", err)
	}
	mustMeasure(t, l, "evil")
	enrolment := mustEnrol(t, l)
	trust := verify.Trust{Enrolment: enrolment, WitnessKey: witness}
	b, err := l.Attest(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	if r, err := verify.Verify(b, trust, nil); err != nil || !r.Witnessed {
		t.Fatalf("honest: %+v, %v", r, err)
	}
	_ = l.Close()

	f, err := openLogFile(filepath.Join(cfg.StateDir, logName))
	if err != nil {
		t.Fatal(err)
	}
	var es []record.Entry
	if err := f.scan(func(e *record.Entry, _ int64) { es = append(es, *e) }); err != nil {
		t.Fatal(err)
	}
	es[1].Launch = launch("good")
	if es[1], err = record.Seal(es[1].Record); err != nil {
		t.Fatal(err)
	}
	f.size = int64(len(record.Header()))
	var value record.Register
	for _, e := range es {
		if err := f.append(e.Append(nil)); err != nil {
			t.Fatal(err)
		}
		value = value.Extend(e.Digests)
	}
	if err := errors.Join(f.cut(), f.f.Close()); err != nil {
		t.Fatal(err)
	}
	forgeRegister(t, cfg, value)
	l = mustOpen(t, cfg)
	wantKinds(t, l, "boot", "good")
	if b, err = l.Attest(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	if _, err := verify.Verify(b, verify.Trust{Enrolment: enrolment}, nil); err != nil {
		t.Errorf("L0 alone cannot tell, and says so in its notes: %v", err)
	}
	if _, err := verify.Verify(b, trust, nil); err == nil || !strings.Contains(err.Error(), "ratchet differs") {
		t.Errorf("with the witness key: %v", err)
	}
}

func TestEvidenceTypeOfAnotherRegister(t *testing.T) {
	cfg := config(t, "")
	l := mustOpen(t, cfg)
	mustMeasure(t, l, "a")
	_ = l.Close()
	s := startTPM(t)
	cfg.TPM = s.path // the operator adds a TPM: the log goes on in it
	l = mustOpen(t, cfg)
	mustMeasure(t, l, "b")
	wantKinds(t, l, "boot", "a", "boot", "b")
	if e := mustEnrol(t, l); e.Type != bundle.TPM || e.TPM == nil || len(e.TPM.EK) == 0 {
		t.Errorf("enrolment %+v", e)
	}
	mustVerify(t, l)
	_ = l.Close()
	cfg.TPM = "" // and takes it away
	wantDiverged(t, mustOpen(t, cfg), "records were removed")
}

func benchmarkMeasure(b *testing.B, cfg Config) {
	l := mustOpen(b, cfg)
	var ds []time.Duration
	for b.Loop() {
		begin := time.Now()
		if _, err := l.Measure(b.Context(), launch("web")); err != nil {
			b.Fatal(err)
		}
		ds = append(ds, time.Since(begin))
	}
	slices.Sort(ds)
	b.ReportMetric(float64(ds[len(ds)/2].Microseconds()), "p50-us")
	b.ReportMetric(float64(ds[len(ds)*99/100].Microseconds()), "p99-us")
}

func BenchmarkMeasureL0(b *testing.B) { benchmarkMeasure(b, config(b, "")) }
func BenchmarkMeasureL1(b *testing.B) { benchmarkMeasure(b, config(b, startTPM(b).path)) }

// BenchmarkFsync is the part of BenchmarkMeasureL0 that the disk takes, once.
func BenchmarkFsync(b *testing.B) {
	f, err := openLogFile(filepath.Join(b.TempDir(), logName))
	if err != nil {
		b.Fatal(err)
	}
	defer f.f.Close()
	e, err := record.Seal(record.Record{Kind: record.Launch, Boot: "b", Launch: launch("web")})
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if err := f.append(e.Append(nil)); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkMeasure64Waiting(b *testing.B) {
	l := mustOpen(b, config(b, ""))
	b.SetParallelism(32)
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if _, err := l.Measure(b.Context(), launch("web")); err != nil {
				b.Error(err)
			}
		}
	})
}

func BenchmarkAttestL1(b *testing.B) {
	l := mustOpen(b, config(b, startTPM(b).path))
	for b.Loop() {
		if _, err := l.Attest(b.Context(), nil); err != nil {
			b.Fatal(err)
		}
	}
}
