package ring

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

func open(t *testing.T, dir string, max int64) *Ring {
	t.Helper()
	r, err := Open(dir, "r", max)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = r.Close() })
	return r
}

func appendAll(t *testing.T, r *Ring, from, to int) {
	t.Helper()
	for i := from; i < to; i++ {
		if err := r.Append(fmt.Sprintf("id%04d", i), "+-"[i%2], fmt.Appendf(nil, `{"n":%d}`, i)); err != nil {
			t.Fatal(err)
		}
	}
}

func want(t *testing.T, r *Ring, id, payload string) {
	t.Helper()
	if b, err := r.Get(id); err != nil || string(b) != payload {
		t.Errorf("%s: %q, %v; want %q", id, b, err, payload)
	}
}

func TestSurvivesReopening(t *testing.T) {
	dir := t.TempDir()
	r := open(t, dir, 1<<20)
	appendAll(t, r, 0, 5)
	// Not closed: what a killed process leaves.
	r = open(t, dir, 1<<20)
	want(t, r, "id0003", `{"n":3}`)
	appendAll(t, r, 5, 6)
	want(t, r, "id0005", `{"n":5}`)
	list, err := r.Newest(3, 0)
	if err != nil || len(list) != 3 || string(list[0]) != `{"n":5}` || string(list[2]) != `{"n":3}` {
		t.Errorf("%q, %v", list, err)
	}
	list, err = r.Newest(10, '-')
	if err != nil || len(list) != 3 || string(list[0]) != `{"n":5}` || string(list[2]) != `{"n":1}` {
		t.Errorf("%q, %v", list, err)
	}
}

func TestIDs(t *testing.T) {
	r := open(t, t.TempDir(), 1<<20)
	appendAll(t, r, 0, 12)
	want(t, r, "id0011", `{"n":11}`)
	if _, err := r.Get("id00"); !errors.Is(err, ErrAmbiguous) {
		t.Error(err)
	}
	if _, err := r.Get("zz"); !errors.Is(err, ErrNotFound) {
		t.Error(err)
	}
	if err := r.Append("abcdef", '+', []byte("x")); err != nil {
		t.Fatal(err)
	}
	want(t, r, "abc", "x")
}

func TestStaysBounded(t *testing.T) {
	dir := t.TempDir()
	r := open(t, dir, 4096)
	appendAll(t, r, 0, 1000)
	var size int64
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 2 {
		t.Fatalf("%v, %v", entries, err)
	}
	for _, e := range entries {
		info, err := e.Info()
		if err != nil {
			t.Fatal(err)
		}
		size += info.Size()
	}
	if size > 4096 || size < 2048 {
		t.Errorf("%d bytes on disk", size)
	}
	want(t, r, "id0999", `{"n":999}`)
	if _, err := r.Get("id0000"); !errors.Is(err, ErrNotFound) {
		t.Errorf("the oldest is still there: %v", err)
	}
	before, err := r.Newest(10_000, 0)
	if err != nil || len(before) < 50 {
		t.Fatalf("%d records, %v", len(before), err)
	}
	again := open(t, dir, 4096)
	after, err := again.Newest(10_000, 0)
	if err != nil || len(after) != len(before) || string(after[len(after)-1]) != string(before[len(before)-1]) {
		t.Errorf("%d records after reopening, %d before, %v", len(after), len(before), err)
	}
}

// TestTornAndDamaged cuts the file at each length and flips each byte: whole
// records are kept, damaged ones are never given.
func TestTornAndDamaged(t *testing.T) {
	dir := t.TempDir()
	r := open(t, dir, 1<<20)
	appendAll(t, r, 0, 3)
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "r.log")
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	line := len(whole) / 3
	for cut := range len(whole) + 1 {
		if err := os.WriteFile(path, whole[:cut], 0o600); err != nil {
			t.Fatal(err)
		}
		r := open(t, dir, 1<<20)
		list, err := r.Newest(10, 0)
		if err != nil || len(list) != cut/line || r.Skipped() != 0 {
			t.Fatalf("cut at %d: %q, %v", cut, list, err)
		}
		appendAll(t, r, 7, 8)
		want(t, r, "id0007", `{"n":7}`)
		again := open(t, dir, 1<<20)
		want(t, again, "id0007", `{"n":7}`)
	}
	for i := range whole {
		b := append([]byte{}, whole...)
		b[i] ^= 1
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		list, err := open(t, dir, 1<<20).Newest(10, 0)
		if err != nil || len(list) > 3 {
			t.Fatal(list, err)
		}
		for _, p := range list {
			if s := string(p); s != `{"n":0}` && s != `{"n":1}` && s != `{"n":2}` {
				t.Fatalf("byte %d flipped: a damaged record was given: %q", i, s)
			}
		}
	}
}

func TestImproperRecords(t *testing.T) {
	r := open(t, t.TempDir(), 1<<20)
	for _, c := range []struct{ id, payload string }{{"a b", "x"}, {"a", "x\ny"}, {"", "x"}, {"a", strings.Repeat("x", maxLine)}} {
		if err := r.Append(c.id, '+', []byte(c.payload)); err == nil {
			t.Errorf("%q was taken", c.id)
		}
	}
	if list, err := r.Newest(1, 0); err != nil || len(list) != 0 {
		t.Errorf("%q, %v", list, err)
	}
}

func TestClosed(t *testing.T) {
	r := open(t, t.TempDir(), 1<<20)
	appendAll(t, r, 0, 1)
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	if err := r.Append("x", '+', []byte("x")); !errors.Is(err, os.ErrClosed) {
		t.Error(err)
	}
	if _, err := r.Get("id0000"); !errors.Is(err, os.ErrClosed) {
		t.Error(err)
	}
}

func TestConcurrent(t *testing.T) {
	r := open(t, t.TempDir(), 8<<10)
	var wg sync.WaitGroup
	for w := range 4 {
		wg.Go(func() {
			for i := range 200 {
				id := fmt.Sprintf("w%dn%d", w, i)
				if err := r.Append(id, '+', []byte(id)); err != nil {
					t.Error(err)
				}
				if b, err := r.Get(id); err == nil && string(b) != id {
					t.Errorf("%s: %q", id, b)
				}
				if _, err := r.Newest(5, 0); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
}

func FuzzLoad(f *testing.F) {
	f.Add([]byte("00000000 + id x\n"))
	f.Add([]byte("\n\n  \n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, "r.log"), data, 0o600); err != nil {
			t.Fatal(err)
		}
		r := open(t, dir, 1<<20)
		if _, err := r.Newest(1000, 0); err != nil {
			t.Fatal(err)
		}
		if err := r.Append("new", '+', []byte("p")); err != nil {
			t.Fatal(err)
		}
		want(t, r, "new", "p")
	})
}
