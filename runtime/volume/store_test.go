package volume

import (
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"tero.internal/common/fault"
	"tero.internal/common/workload"
	"tero.internal/runtime/internal/idmap"
	"tero.internal/runtime/state"
)

const (
	one workload.ID = "11111111111111111111111111111111"
	two workload.ID = "22222222222222222222222222222222"
)

func open(t *testing.T, dir string) *Store {
	t.Helper()
	s, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func names(s *Store) []string {
	var list []string
	for _, v := range s.List() {
		list = append(list, v.Name)
	}
	return list
}

func TestLife(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	if _, err := s.Create("b", "", map[string]string{"k": "v"}); err != nil {
		t.Fatal(err)
	}
	path, _, err := s.Use(t.Context(), "a", one, Owner{UID: 5, GID: 6, Mode: 0o1770})
	if err != nil {
		t.Fatal(err)
	}
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil || st.Uid != 5 || st.Gid != 6 || st.Mode&0o7777 != 0o1770 {
		t.Errorf("%+v, %v", st, err)
	}
	if err := os.WriteFile(filepath.Join(path, "file"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	_, undo, err := s.Use(t.Context(), "a", two, Owner{})
	if err != nil {
		t.Fatal(err)
	}
	if _, again, err := s.Use(t.Context(), "a", one, Owner{}); err != nil {
		t.Fatal(err)
	} else {
		again() // it had it before, so it keeps it
	}
	undo()
	if v, err := s.Find("a"); err != nil || !cmp.Equal(v.Containers, []workload.ID{one}) {
		t.Errorf("%+v, %v", v, err)
	}
	for name, c := range map[string]struct {
		err  error
		want fault.Kind
	}{
		"make again":     {second(s.Create("b", Local, nil)), fault.Exists},
		"driver":         {second(s.Create("c", "nfs", nil)), fault.Unsupported},
		"name":           {second(s.Create("../c", "", nil)), fault.Invalid},
		"hidden name":    {second(s.Create(".new-x", "", nil)), fault.Invalid},
		"remove used":    {s.Remove("a"), fault.Conflict},
		"remove nothing": {s.Remove("nothing"), fault.NotFound},
		"find nothing":   {second(s.Find("nothing")), fault.NotFound},
	} {
		if fault.KindOf(c.err) != c.want {
			t.Errorf("%s: %v", name, c.err)
		}
	}

	again := open(t, dir) // as after a restart
	if diff := cmp.Diff([]string{"a", "b"}, names(again)); diff != "" {
		t.Error(diff)
	}
	if v, err := again.Find("b"); err != nil || v.Labels["k"] != "v" || v.Driver != Local || v.Created.IsZero() {
		t.Errorf("%+v, %v", v, err)
	}
	again.Restore([]state.Container{recorded(one, "a"), recorded(two, "a")})
	again.Release(one)
	if v, err := again.Find("a"); err != nil || !cmp.Equal(v.Containers, []workload.ID{two}) {
		t.Errorf("%+v, %v", v, err)
	}
	if removed, err := again.Prune(map[string]string{"k": "other"}); err != nil || len(removed) != 0 {
		t.Errorf("%v, %v", removed, err)
	}
	if removed, err := again.Prune(nil); err != nil || !cmp.Equal(removed, []string{"b"}) {
		t.Errorf("%v, %v", removed, err)
	}
	again.Release(two)
	if err := again.Remove("a"); err != nil {
		t.Fatal(err)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 0 {
		t.Errorf("%v, %v", left, err)
	}
}

// recorded is a container that has a volume mounted.
func recorded(id workload.ID, name string) state.Container {
	return state.Container{ID: id, Spec: workload.Spec{Mounts: []workload.Mount{
		{Type: workload.MountTmpfs, Target: "/t"}, {Type: workload.MountVolume, Source: name, Target: "/v"},
	}}}
}

func second[T any](_ T, err error) error { return err }

// TestAfterCrash finds what a crash at each step leaves.
func TestAfterCrash(t *testing.T) {
	for name, c := range map[string]struct {
		left string // a path that is there
		want []string
	}{
		"a folder only":      {".new-1/data", []string{"whole"}},
		"with its record":    {".new-1/" + recordFile, []string{"whole"}},
		"moved away":         {".gone-1/old/data/file", []string{"whole"}},
		"nothing moved away": {".gone-1", []string{"whole"}},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			if _, err := open(t, dir).Create("whole", "", nil); err != nil {
				t.Fatal(err)
			}
			if err := os.MkdirAll(filepath.Join(dir, c.left), 0o700); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(c.want, names(open(t, dir))); diff != "" {
				t.Error(diff)
			}
			if left, err := os.ReadDir(dir); err != nil || len(left) != 1 {
				t.Errorf("%v, %v", left, err)
			}
		})
	}
}

func TestDamagedRecord(t *testing.T) {
	dir := t.TempDir()
	if _, err := open(t, dir).Create("a", "", nil); err != nil {
		t.Fatal(err)
	}
	for _, content := range []string{"", "{", `{"name":"b"}`} {
		if err := os.WriteFile(filepath.Join(dir, "a", recordFile), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := Open(dir); fault.KindOf(err) != fault.Corrupt || fault.HintOf(err) == "" {
			t.Errorf("%q: %v", content, err)
		}
	}
}

// TestHammer makes, uses and removes volumes at the same time: whoever holds
// one must find its folder there.
func TestHammer(t *testing.T) {
	s := open(t, t.TempDir())
	var all sync.WaitGroup
	for i := range 8 {
		id := workload.NewID()
		all.Go(func() {
			for range 30 {
				if i%2 == 0 {
					if err := s.Remove("a"); err != nil && fault.KindOf(err) == fault.Internal {
						t.Error(err)
					}
					continue
				}
				path, _, err := s.Use(t.Context(), "a", id, Owner{Mode: 0o755})
				if err != nil {
					t.Error(err)
					return
				}
				if err := os.WriteFile(filepath.Join(path, string(id)), nil, 0o600); err != nil {
					t.Error(err)
				}
				s.Release(id)
			}
		})
	}
	all.Wait()
}

// TestGive gives a volume to a container and takes it back, without following links.
func TestGive(t *testing.T) {
	s := open(t, t.TempDir())
	outside := filepath.Join(t.TempDir(), "outside")
	if err := os.WriteFile(outside, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	path, _, err := s.Use(t.Context(), "a", one, Owner{Mode: 0o755})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Join(path, "dir"), 0o755); err != nil {
		t.Fatal(err)
	}
	for name, owner := range map[string]int{"root": 0, "dir/user": 1000, "stranger": 1_000_000} {
		if err := os.WriteFile(filepath.Join(path, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Lchown(filepath.Join(path, name), owner, owner); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink(outside, filepath.Join(path, "link")); err != nil {
		t.Fatal(err)
	}
	first, next := idmap.Slot(3).HostID(), idmap.Slot(9).HostID()
	for _, c := range []struct {
		to   uint32
		want []uint32
	}{{first, []uint32{first, first, first + 1000, first + nobody}}, {next, []uint32{next, next, next + 1000, next + nobody}}, {0, []uint32{0, 0, 1000, nobody}}} {
		if err := s.Give(t.Context(), "a", one, c.to); err != nil {
			t.Fatal(err)
		}
		var got []uint32
		for _, name := range []string{"", "root", "dir/user", "stranger"} {
			var st unix.Stat_t
			if err := unix.Stat(filepath.Join(path, name), &st); err != nil || st.Uid != st.Gid {
				t.Fatal(st, err)
			}
			got = append(got, st.Uid)
		}
		if diff := cmp.Diff(c.want, got); diff != "" {
			t.Error(diff)
		}
	}
	var st unix.Stat_t
	if err := unix.Stat(outside, &st); err != nil || st.Uid != 0 {
		t.Errorf("a link was followed: %+v, %v", st, err)
	}
	s.Restore([]state.Container{recorded(two, "a")})
	if err := s.Give(t.Context(), "a", one, first); fault.KindOf(err) != fault.Conflict || !strings.Contains(err.Error(), two.Short()) {
		t.Error(err)
	}
}
