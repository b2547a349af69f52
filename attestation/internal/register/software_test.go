package register

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"tero.internal/attestation/record"
	"tero.internal/common/fault"
)

func open(t *testing.T, dir string, fresh bool) *Software {
	t.Helper()
	s, err := OpenSoftware(dir, fresh)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

func extend(t *testing.T, s *Software, texts ...string) {
	t.Helper()
	var ds []record.Digests
	for _, text := range texts {
		ds = append(ds, record.Sum([]byte(text)))
	}
	if err := s.Extend(ds); err != nil {
		t.Fatal(err)
	}
}

func state(t *testing.T, s *Software) State {
	t.Helper()
	st, err := s.State()
	if err != nil {
		t.Fatal(err)
	}
	return st
}

func TestSoftwareKeepsItsValue(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir, true)
	if st := state(t, s); st.Boot == "" || !st.Holds(record.Register{}) {
		t.Errorf("a new register holds %+v", st)
	}
	extend(t, s, "a")
	extend(t, s, "b", "c")
	want := state(t, s)
	var value record.Register
	for _, text := range []string{"a", "b", "c"} {
		value = value.Extend(record.Sum([]byte(text)))
	}
	if !want.Holds(value) {
		t.Errorf("it holds %v, want %v", want.Value, value)
	}
	if got := state(t, open(t, dir, false)); got != want {
		t.Errorf("opened again it holds %+v, want %+v", got, want)
	}
}

func TestLostRegistersAreTold(t *testing.T) {
	for name, damage := range map[string]func(path string) error{
		"gone":    os.Remove,
		"cut":     func(path string) error { return os.Truncate(path, 100) },
		"flipped": func(path string) error { return change(path, func(b []byte) { b[100] ^= 1; b[slotSize+100] ^= 1 }) },
		"zeroed":  func(path string) error { return change(path, func(b []byte) { clear(b) }) },
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			extend(t, open(t, dir, true), "a")
			if err := damage(filepath.Join(dir, registerFile)); err != nil {
				t.Fatal(err)
			}
			if _, err := OpenSoftware(dir, false); !errors.Is(err, ErrLost) {
				t.Errorf("error %v, want ErrLost", err)
			}
		})
	}
}

func change(path string, how func([]byte)) error {
	b, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	how(b)
	return os.WriteFile(path, b, 0o600)
}

// TestTornSlot has a crash tear the newer of two slots: the older one counts.
func TestTornSlot(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir, true)
	extend(t, s, "a")
	want, older := state(t, s), s.slot.encode()
	extend(t, s, "b")
	err := change(filepath.Join(dir, registerFile), func(b []byte) {
		newer := int(s.slot.generation % 2)
		b[newer*slotSize+150] ^= 1
		copy(b[(1-newer)*slotSize:], older) // the crash came before it was wiped
	})
	if err != nil {
		t.Fatal(err)
	}
	if got := state(t, open(t, dir, false)); got != want {
		t.Errorf("it holds %+v, want %+v", got, want)
	}
}

func TestWitnessKeyIsGivenOnce(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir, true)
	key, err := TakeWitnessKey(dir)
	if err != nil || !bytes.Equal(key, s.slot.ratchet.Key[:]) {
		t.Fatalf("key %x, %v; want the ratchet's first", key, err)
	}
	if _, err := TakeWitnessKey(dir); fault.KindOf(err) != fault.NotFound {
		t.Errorf("taken twice: %v", err)
	}
}

func TestOldRatchetKeysAreWiped(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir, true)
	if _, err := TakeWitnessKey(dir); err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{"a", "b", "c"} {
		before, err := os.ReadFile(filepath.Join(dir, registerFile))
		if err != nil {
			t.Fatal(err)
		}
		extend(t, s, text)
		after, err := os.ReadFile(filepath.Join(dir, registerFile))
		if err != nil {
			t.Fatal(err)
		}
		slots := 0
		for i := range 2 {
			s, ok := decodeSlot(before[i*slotSize:][:slotSize])
			if !ok {
				continue
			}
			if slots++; bytes.Contains(after, s.ratchet.Key[:]) {
				t.Error("an old key is still there")
			}
		}
		if slots != 1 {
			t.Errorf("%d slots hold keys", slots)
		}
	}
}

func FuzzSlot(f *testing.F) {
	s := slot{generation: 1, count: 2}
	f.Add(s.encode())
	f.Fuzz(func(t *testing.T, b []byte) {
		if s, ok := decodeSlot(b); ok && !bytes.Equal(s.encode(), b) {
			t.Error("a slot has two forms")
		}
	})
}
