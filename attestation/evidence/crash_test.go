package evidence

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"tero.internal/attestation/internal/register"
	"tero.internal/attestation/record"
	"tero.internal/common/fault"
)

// killer kills its own process at a point of the measurement.
type killer struct {
	driver
	at    string
	after int
}

func (k *killer) Extend(ds []record.Digests) error {
	k.after--
	if k.after < 0 && k.at == "before" {
		_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
		select {}
	}
	err := k.driver.Extend(ds)
	if k.after < 0 && k.at == "after" {
		_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
		select {}
	}
	return err
}

// TestCrashChild is the process that is killed; it does nothing by itself.
func TestCrashChild(t *testing.T) {
	dir := os.Getenv("TERO_CRASH_DIR")
	if dir == "" {
		return
	}
	cfg := config(t, os.Getenv("TERO_CRASH_TPM"))
	cfg.StateDir = dir
	l, err := open(t.Context(), cfg, func(r driver) driver {
		return &killer{driver: r, at: os.Getenv("TERO_CRASH_AT"), after: 0}
	})
	if err != nil {
		t.Fatal(err)
	}
	_, _ = l.Measure(t.Context(), launch("crashed"))
	t.Fatal("the child was not killed")
}

// crash has a child die at a point of its first extend.
func crash(t *testing.T, cfg Config, at string) {
	t.Helper()
	cmd := exec.Command(os.Args[0], "-test.run=^TestCrashChild$")
	cmd.Env = append(os.Environ(), "TERO_CRASH_DIR="+cfg.StateDir, "TERO_CRASH_TPM="+cfg.TPM, "TERO_CRASH_AT="+at)
	out, _ := cmd.CombinedOutput()
	if ws, ok := cmd.ProcessState.Sys().(syscall.WaitStatus); !ok || ws.Signal() != syscall.SIGKILL {
		t.Fatalf("the child ended by itself: %s", out)
	}
}

func wantKinds(t *testing.T, l *Log, want ...string) {
	t.Helper()
	if diff := cmp.Diff(want, kinds(t, l)); diff != "" {
		t.Errorf("records (-want +got):\n%s", diff)
	}
}

func wantDiverged(t *testing.T, l *Log, reason string) {
	t.Helper()
	_, err := l.Measure(context.Background(), launch("late"))
	if fault.KindOf(err) != fault.Corrupt || !strings.Contains(err.Error(), reason) || fault.HintOf(err) == "" {
		t.Errorf("Measure = %v (hint %q), want a refusal that says %q", err, fault.HintOf(err), reason)
	}
	if _, why := l.State(); !strings.Contains(why, reason) {
		t.Errorf("State says %q, want %q", why, reason)
	}
	if _, err := l.Attest(context.Background(), nil); err == nil {
		t.Error("a log that diverged attests")
	}
}

// Case 1 of trust.md: a clean restart.
func TestCleanRestart(t *testing.T) {
	eachRegister(t, func(t *testing.T, cfg Config, _ *swtpm) {
		l := mustOpen(t, cfg)
		mustMeasure(t, l, "a", "b")
		_ = l.Close()
		l = mustOpen(t, cfg)
		mustMeasure(t, l, "c")
		wantKinds(t, l, "boot", "a", "b", "c")
		mustVerify(t, l)
	})
}

// Cases 2 and 5: killed between fsync and extend; redone once, never twice.
func TestKilledBetweenRecordAndExtend(t *testing.T) {
	eachRegister(t, func(t *testing.T, cfg Config, _ *swtpm) {
		l := mustOpen(t, cfg)
		mustMeasure(t, l, "a")
		_ = l.Close()
		crash(t, cfg, "before")
		crash(t, cfg, "before") // and again, while it recovers
		for range 2 {
			l = mustOpen(t, cfg)
			wantKinds(t, l, "boot", "a", "crashed", "abort")
			_ = l.Close()
		}
		l = mustOpen(t, cfg)
		mustMeasure(t, l, "b")
		r := mustVerify(t, l)
		var got []bool
		for _, la := range r.Launches {
			got = append(got, la.Aborted)
		}
		if diff := cmp.Diff([]bool{false, true, false}, got); diff != "" {
			t.Errorf("aborted launches (-want +got):\n%s", diff)
		}
	})
}

func TestKilledAfterExtend(t *testing.T) {
	eachRegister(t, func(t *testing.T, cfg Config, _ *swtpm) {
		l := mustOpen(t, cfg)
		mustMeasure(t, l, "a")
		_ = l.Close()
		crash(t, cfg, "after")
		l = mustOpen(t, cfg)
		wantKinds(t, l, "boot", "a", "crashed")
		mustVerify(t, l)
	})
}

func TestKilledAtTheVeryFirstRecord(t *testing.T) {
	eachRegister(t, func(t *testing.T, cfg Config, _ *swtpm) {
		crash(t, cfg, "before")
		l := mustOpen(t, cfg)
		mustMeasure(t, l, "a")
		wantKinds(t, l, "boot", "a")
		mustVerify(t, l)
	})
}

// Case 3: somebody else extends the register.
func TestForeignExtendFailsClosed(t *testing.T) {
	s := startTPM(t)
	cfg := config(t, s.path)
	l := mustOpen(t, cfg)
	mustMeasure(t, l, "a")
	s.extend("rogue")
	wantDiverged(t, l, "somebody else extended it")
	_ = l.Close()
	l = mustOpen(t, cfg)
	wantDiverged(t, l, "somebody else extended it")
	_ = l.Close()
	s.reboot()
	l = mustOpen(t, cfg)
	mustMeasure(t, l, "b")
	wantKinds(t, l, "boot", "a", "boot", "b")
	mustVerify(t, l)
}

func TestRegisterThatWasUsedBeforeFailsClosed(t *testing.T) {
	s := startTPM(t)
	s.extend("rogue")
	wantDiverged(t, mustOpen(t, config(t, s.path)), "it was used before")
	l := mustOpen(t, config(t, ""))
	_ = l.Close()
	mustRemove(t, filepath.Join(l.cfg.StateDir, logName))
	wantDiverged(t, mustOpen(t, l.cfg), "it was used before")
}

// Case 4: a reboot resets the TPM; the records of before stay fixed by the chain.
func TestReboot(t *testing.T) {
	s := startTPM(t)
	cfg := config(t, s.path)
	l := mustOpen(t, cfg)
	mustMeasure(t, l, "a", "b")
	_ = l.Close()
	s.reboot()
	crash(t, cfg, "before") // dies while it records the boot
	l = mustOpen(t, cfg)
	mustMeasure(t, l, "c")
	wantKinds(t, l, "boot", "a", "b", "boot", "c")
	r := mustVerify(t, l)
	if r.Launches[0].Current || r.Launches[1].Current || !r.Launches[2].Current {
		t.Errorf("launches of the present boot: %+v", r.Launches)
	}
	s.reboot() // under a running daemon
	mustMeasure(t, l, "d")
	wantKinds(t, l, "boot", "a", "b", "boot", "c", "boot", "d")
	mustVerify(t, l)
}

// A suspend to memory moves the TPM's restart counter and keeps its PCRs.
func TestSuspend(t *testing.T) {
	s := startTPM(t)
	cfg := config(t, s.path)
	l := mustOpen(t, cfg)
	mustMeasure(t, l, "a")
	s.suspend() // under a running daemon
	mustMeasure(t, l, "b")
	wantKinds(t, l, "boot", "a", "resume", "b")
	if r := mustVerify(t, l); !r.Launches[0].Current {
		t.Error("a launch before the suspend is not of this boot")
	}
	_ = l.Close()
	s.suspend()
	crash(t, cfg, "before")
	l = mustOpen(t, cfg)
	wantKinds(t, l, "boot", "a", "resume", "b", "resume")
	mustVerify(t, l)
	s.suspend()
	s.extend("rogue")
	wantDiverged(t, l, "somebody else extended it")
}

// otherBoot is a register in a boot of the machine that never was.
type otherBoot struct{ driver }

func (r otherBoot) State() (register.State, error) {
	st, err := r.driver.State()
	st.Boot = "00000000-0000-4000-8000-000000000000"
	return st, err
}

// A machine without TPM that reboots keeps its register; another boot id tells.
func TestRebootAtL0(t *testing.T) {
	cfg := config(t, "")
	l := mustOpen(t, cfg)
	mustMeasure(t, l, "a")
	_ = l.Close()
	l, err := open(t.Context(), cfg, func(r driver) driver {
		return otherBoot{r}
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	mustMeasure(t, l, "b")
	wantKinds(t, l, "boot", "a", "boot", "b")
	mustVerify(t, l)
}

// What a crash tears is dropped, whatever it looks like.
func TestTornTail(t *testing.T) {
	e, err := record.Seal(record.Record{Kind: record.Policy, Sequence: 2, Boot: "b", Policy: launch("x").Policy})
	if err != nil {
		t.Fatal(err)
	}
	whole := e.Append(nil)
	for name, tail := range map[string][]byte{
		"half":          whole[:len(whole)/2],
		"head":          whole[:3],
		"body not head": append(make([]byte, 64), whole[64:]...),
		"body zero":     append(whole[:len(whole)-20:len(whole)-20], make([]byte, 20)...),
	} {
		t.Run(name, func(t *testing.T) {
			eachRegister(t, func(t *testing.T, cfg Config, s *swtpm) {
				l := mustOpen(t, cfg)
				mustMeasure(t, l, "a")
				end := l.view.ends[1]
				_ = l.Close()
				f, err := os.OpenFile(filepath.Join(cfg.StateDir, logName), os.O_RDWR, 0)
				if err != nil {
					t.Fatal(err)
				}
				if _, err := f.WriteAt(tail, end); err != nil {
					t.Fatal(err)
				}
				f.Close()
				if s != nil && name == "half" {
					s.reboot()
				}
				l = mustOpen(t, cfg)
				mustMeasure(t, l, "b")
				mustVerify(t, l)
				_ = l.Close()
				mustVerify(t, mustOpen(t, cfg))
			})
		})
	}
}

func mustRemove(t *testing.T, path string) {
	t.Helper()
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
}
