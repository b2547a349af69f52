package state_test

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"tero.internal/common/fault"
	"tero.internal/common/workload"
	"tero.internal/runtime/state"
)

func open(t *testing.T, dir string) *state.Store {
	t.Helper()
	s, err := state.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

func container(name string) state.Container {
	return state.Container{
		ID: workload.NewID(), Phase: state.Creating, Created: time.Unix(1, 0).UTC(),
		Spec: workload.Spec{Name: name, Image: "web", Network: "default"},
	}
}

func TestRecordsOutliveTheStore(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	web, gone := container("web"), container("gone")
	for _, c := range []state.Container{web, gone} {
		if err := s.Add(c); err != nil {
			t.Fatal(err)
		}
	}
	want, err := s.Update(web.ID, func(c *state.Container) {
		c.Phase, c.Exit = state.Exited, &state.Exit{Code: 7, At: time.Unix(2, 0).UTC()}
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Remove(gone.ID); err != nil {
		t.Fatal(err)
	}
	// No Close: kill -9 does not call it.
	if diff := cmp.Diff([]state.Container{want}, open(t, dir).List()); diff != "" {
		t.Errorf("after reopening (-want +got):\n%s", diff)
	}
}

func TestFind(t *testing.T) {
	s := open(t, t.TempDir())
	a, b := container("web"), container("client")
	a.ID, b.ID = "aa11"+a.ID[4:], "aa22"+b.ID[4:]
	for _, c := range []state.Container{a, b} {
		if err := s.Add(c); err != nil {
			t.Fatal(err)
		}
	}
	tests := []struct {
		key  string
		want workload.ID
		kind fault.Kind
	}{
		{key: "web", want: a.ID},
		{key: string(b.ID), want: b.ID},
		{key: "aa2", want: b.ID},
		{key: "aa", kind: fault.Invalid},
		{key: "bb", kind: fault.NotFound},
		{key: "", kind: fault.Invalid},
	}
	for _, tt := range tests {
		t.Run(tt.key, func(t *testing.T) {
			got, err := s.Find(tt.key)
			if got.ID != tt.want || (err != nil && fault.KindOf(err) != tt.kind) || (err == nil) != (tt.want != "") {
				t.Errorf("Find = %s, %v", got.ID, err)
			}
		})
	}
	if err := s.Add(container("web")); fault.KindOf(err) != fault.Exists {
		t.Errorf("second web: %v, want exists", err)
	}
}

// TestNamesOfThoseThatLeave are free at once: who has been told of the exit need
// not wait for the removal.
func TestNamesOfThoseThatLeave(t *testing.T) {
	for name, change := range map[string]func(*state.Container){
		"as asked": func(c *state.Container) { c.Asked.AutoRemove = true },
		"removed":  func(c *state.Container) { c.Removing = true },
	} {
		t.Run(name, func(t *testing.T) {
			s := open(t, t.TempDir())
			old, next := container("job"), container("job")
			if err := s.Add(old); err != nil {
				t.Fatal(err)
			}
			if _, err := s.Update(old.ID, change); err != nil {
				t.Fatal(err)
			}
			if err := s.Add(next); fault.KindOf(err) != fault.Exists {
				t.Errorf("while it runs: %v, want exists", err)
			}
			if _, err := s.Update(old.ID, func(c *state.Container) { c.Phase = state.Exited }); err != nil {
				t.Fatal(err)
			}
			if got, err := s.Find("job"); err != nil || got.ID != old.ID {
				t.Errorf("Find = %s, %v, want the one that is leaving", got.ID, err)
			}
			if err := s.Add(next); err != nil {
				t.Fatal(err)
			}
			for range 20 { // in whatever order a map gives them
				if got, err := s.Find("job"); err != nil || got.ID != next.ID {
					t.Fatalf("Find = %s, %v, want the new one", got.ID, err)
				}
			}
			if err := s.Add(container("job")); fault.KindOf(err) != fault.Exists {
				t.Errorf("a third one: %v, want exists", err)
			}
		})
	}
}

func TestAnIDWinsOverANameOfItsForm(t *testing.T) {
	s := open(t, t.TempDir())
	victim := container("web")
	for _, c := range []state.Container{victim, container(string(victim.ID))} {
		if err := s.Add(c); err != nil {
			t.Fatal(err)
		}
	}
	for range 50 { // in whatever order a map gives them
		if got, err := s.Find(string(victim.ID)); err != nil || got.ID != victim.ID {
			t.Fatalf("Find = %s, %v, want %s", got.Spec.Name, err, victim.Spec.Name)
		}
	}
}

func TestTornLastLineIsDroppedAndDamageIsNamed(t *testing.T) {
	dir := t.TempDir()
	if err := open(t, dir).Add(container("web")); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "containers.jsonl")
	good, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for cut := range good { // a crash at any byte of the write
		if err := os.WriteFile(path, append(slices.Clip(good), good[:cut]...), 0o600); err != nil {
			t.Fatal(err)
		}
		if got := len(open(t, dir).List()); got != 1 {
			t.Fatalf("cut at %d: %d containers, want 1", cut, got)
		}
	}
	if err := os.WriteFile(path, append([]byte("{\"put\":\n"), good...), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err = state.Open(dir)
	if fault.KindOf(err) != fault.Corrupt || !strings.Contains(err.Error(), "line 1") {
		t.Errorf("damaged line: %v, want corrupt naming line 1", err)
	}
}

func TestFullDiskLosesNothing(t *testing.T) {
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=64k"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = syscall.Unmount(dir, syscall.MNT_DETACH) })
	s := open(t, dir)
	var added int
	var err error
	for ; err == nil; added++ {
		c := container("c" + strings.Repeat("0", added%10) + "-" + string(workload.NewID()[:8]))
		c.Spec.Labels = map[string]string{"filler": strings.Repeat("x", 3000)}
		err = s.Add(c)
	}
	added--
	if fault.KindOf(err) != fault.Exhausted || fault.HintOf(err) == "" {
		t.Fatalf("full disk: %v, want exhausted with a hint", err)
	}
	if got := len(s.List()); got != added {
		t.Errorf("%d containers in memory, want %d", got, added)
	}
	// The journal holds whole lines only: what was added is all there.
	b, err := os.ReadFile(filepath.Join(dir, "containers.jsonl"))
	if err != nil {
		t.Fatal(err)
	}
	if got := strings.Count(string(b), "\n"); got != added || !strings.HasSuffix(string(b), "\n") {
		t.Errorf("%d lines in the journal, want %d", got, added)
	}
}

// TestCompactionThatFailsLosesNothing lets the journal grow until it is written
// anew, at a moment when no file can be made or opened.
func TestCompactionThatFailsLosesNothing(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	web := container("web")
	if err := s.Add(web); err != nil {
		t.Fatal(err)
	}
	// A folder of that name keeps atomicfile's rename from succeeding.
	path := filepath.Join(dir, "containers.jsonl")
	moved := filepath.Join(dir, "moved")
	if err := os.Rename(path, moved); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Join(path, "x"), 0o700); err != nil {
		t.Fatal(err)
	}
	grow := func() {
		for i := range 2100 {
			c := container("c")
			if err := s.Add(c); err != nil {
				t.Fatalf("add %d: %v", i, err)
			}
			if err := s.Remove(c.ID); err != nil {
				t.Fatalf("remove %d: %v, though the container is forgotten", i, err)
			}
		}
	}
	grow()
	if err := os.RemoveAll(path); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(moved, path); err != nil {
		t.Fatal(err)
	}
	grow()
	grow()
	if st, err := os.Stat(path); err != nil || st.Size() > 2<<20 {
		t.Errorf("the journal was not compacted later: %v, %v", st, err)
	}
	if _, err := s.Update(web.ID, func(c *state.Container) { c.Phase = state.Running }); err != nil {
		t.Fatal(err)
	}
	if got := open(t, dir).List(); len(got) != 1 || got[0].Phase != state.Running {
		t.Errorf("after reopening: %+v", got)
	}
}
