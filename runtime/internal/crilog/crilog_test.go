package crilog_test

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"tero.internal/runtime/internal/crilog"
)

func stamp(n int) time.Time { return time.Date(2026, 1, 2, 3, 4, n, 5000, time.UTC) }

func TestAppendAndParse(t *testing.T) {
	long := strings.Repeat("x", crilog.MaxPiece)
	for name, output := range map[string]string{
		"line": "hello\n", "lines": "a\n\nb\n", "piece": "no newline", "line and piece": "a\nb",
		"long": long + "y\n", "exactly long": long + "\n", "binary": "\x00\xff \r\n", "looks like a tag": "P F stdout\n",
	} {
		t.Run(name, func(t *testing.T) {
			log := crilog.Append(nil, stamp(1), crilog.Stderr, []byte(output))
			var got []byte
			for line := range bytes.Lines(log) {
				r, err := crilog.Parse(line)
				if err != nil || r.Stream != crilog.Stderr || !r.At.Equal(stamp(1)) {
					t.Fatalf("parse %q: %+v, %v", line, r, err)
				}
				got = append(got, r.Output...)
			}
			if diff := cmp.Diff(output, string(got)); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte("2026-01-02T15:04:05.123456789Z stdout F a line\n"))
	f.Add([]byte("2026-01-02T15:04:05Z stderr P \n"))
	f.Add([]byte("x y z\n"))
	f.Fuzz(func(t *testing.T, line []byte) {
		r, err := crilog.Parse(line)
		if err != nil {
			return
		}
		again, err := crilog.Parse(crilog.Append(nil, r.At, r.Stream, r.Output))
		if len(r.Output) > 0 && len(r.Output) <= crilog.MaxPiece && !bytes.Contains(r.Output[:len(r.Output)-1], []byte("\n")) &&
			(err != nil || !bytes.Equal(again.Output, r.Output) || again.Stream != r.Stream) {
			t.Errorf("%q: %+v, again %+v, %v", line, r, again, err)
		}
	})
}

func writeLog(t *testing.T, lines ...string) string {
	t.Helper()
	var log []byte
	for i, l := range lines {
		log = crilog.Append(log, stamp(i), crilog.Stdout, []byte(l))
	}
	path := filepath.Join(t.TempDir(), "log")
	if err := os.WriteFile(path, log, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func collect(t *testing.T, path string, o crilog.Options) string {
	t.Helper()
	var all strings.Builder
	for r, err := range crilog.Read(t.Context(), path, o) {
		if err != nil {
			t.Fatal(err)
		}
		all.Write(r.Output)
	}
	return all.String()
}

func TestTailAndSince(t *testing.T) {
	path := writeLog(t, "one\n", "two\n", "th", "ree\n", "four\n", "end")
	for name, c := range map[string]struct {
		o    crilog.Options
		want string
	}{
		"all":      {crilog.Options{}, "one\ntwo\nthree\nfour\nend"},
		"none":     {crilog.Options{Tail: crilog.TailNone}, ""},
		"two":      {crilog.Options{Tail: 2}, "four\nend"},
		"three":    {crilog.Options{Tail: 3}, "three\nfour\nend"},
		"too many": {crilog.Options{Tail: 100}, "one\ntwo\nthree\nfour\nend"},
		"since":    {crilog.Options{Since: stamp(4)}, "four\nend"},
	} {
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff(c.want, collect(t, path, c.o)); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestFollowUntil(t *testing.T) {
	path := writeLog(t, "before\n")
	until := make(chan struct{})
	log, err := os.OpenFile(path, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	var got []string
	for r, err := range crilog.Read(t.Context(), path, crilog.Options{Until: until}) {
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, string(r.Output))
		switch string(r.Output) {
		case "before\n": // half a record first: it must not be delivered or lost
			record := crilog.Append(nil, stamp(1), crilog.Stdout, []byte("during\n"))
			if _, err := log.Write(record[:20]); err != nil {
				t.Fatal(err)
			}
			if _, err := log.Write(record[20:]); err != nil {
				t.Fatal(err)
			}
		case "during\n":
			if _, err := log.Write(crilog.Append(nil, stamp(2), crilog.Stdout, []byte("last"))); err != nil {
				t.Fatal(err)
			}
			close(until)
		}
	}
	if diff := cmp.Diff([]string{"before\n", "during\n", "last"}, got); diff != "" {
		t.Error(diff)
	}
}

func TestFollowEndsWithContext(t *testing.T) {
	path := writeLog(t, "one\n")
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	for _, err := range crilog.Read(ctx, path, crilog.Options{Until: make(chan struct{})}) {
		if err != nil {
			if !errors.Is(err, context.Canceled) {
				t.Error(err)
			}
			return
		}
		cancel()
	}
	t.Error("ended without an error")
}

func TestFollowEndsWithFolder(t *testing.T) {
	path := writeLog(t, "one\n")
	for _, err := range crilog.Read(t.Context(), path, crilog.Options{Until: make(chan struct{})}) {
		if err != nil {
			t.Fatal(err)
		}
		if err := os.RemoveAll(filepath.Dir(path)); err != nil {
			t.Fatal(err)
		}
	}
}

// rotated writes a log of several files, each a list of outputs.
func rotated(t *testing.T, first int, list ...[]string) (path string) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "log")
	n := 0
	for i, outputs := range list {
		var log []byte
		for _, o := range outputs {
			log = crilog.Append(log, stamp(n), crilog.Stdout, []byte(o))
			n++
		}
		name := filepath.Join(filepath.Dir(path), crilog.Name("log", first+i))
		if err := os.WriteFile(name, log, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(name, stamp(n-1), stamp(n-1)); err != nil {
			t.Fatal(err)
		}
	}
	return path
}

// TestFiles reads logs of several files.
func TestFiles(t *testing.T) {
	path := rotated(t, 9, []string{"one\n", "two\n"}, []string{"th"}, []string{"ree\n", "four\n"}, nil, []string{"five\n"})
	for name, c := range map[string]struct {
		o    crilog.Options
		want string
	}{
		"all":               {crilog.Options{}, "one\ntwo\nthree\nfour\nfive\n"},
		"one":               {crilog.Options{Tail: 1}, "five\n"},
		"two":               {crilog.Options{Tail: 2}, "four\nfive\n"},
		"a line in two":     {crilog.Options{Tail: 3}, "three\nfour\nfive\n"},
		"four":              {crilog.Options{Tail: 4}, "two\nthree\nfour\nfive\n"},
		"too many":          {crilog.Options{Tail: 6}, "one\ntwo\nthree\nfour\nfive\n"},
		"since":             {crilog.Options{Since: stamp(3)}, "ree\nfour\nfive\n"},
		"before":            {crilog.Options{Before: stamp(3)}, "one\ntwo\nth"},
		"between":           {crilog.Options{Since: stamp(1), Before: stamp(4)}, "two\nthree\n"},
		"tail and since":    {crilog.Options{Tail: 4, Since: stamp(4)}, "four\nfive\n"},
		"held":              {crilog.Options{Keep: true}, "one\ntwo\nthree\nfour\nfive\n"},
		"held from the end": {crilog.Options{Tail: 3, Keep: true}, "three\nfour\nfive\n"},
	} {
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff(c.want, collect(t, path, c.o)); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// TestLongTail looks back over more than is read at a time.
func TestLongTail(t *testing.T) {
	var outputs []string
	for range 50 {
		outputs = append(outputs, strings.Repeat("x", 10_000)+"\n")
	}
	path := rotated(t, 0, outputs, outputs)
	for _, n := range []int64{1, 7, 49, 50, 51, 99, 100, 101} {
		if got := collect(t, path, crilog.Options{Tail: n}); len(got) != int(min(n, 100))*10_001 {
			t.Errorf("tail of %d: %d bytes", n, len(got))
		}
	}
}

// TestDropped tells that the beginning is missing, and what was removed under
// a reader that holds nothing.
func TestDropped(t *testing.T) {
	path := rotated(t, 3, []string{"one\n"}, []string{"two\n"}, []string{"three\n"})
	folder := filepath.Dir(path)
	var got []string
	for r, err := range crilog.Read(t.Context(), path, crilog.Options{}) {
		if err != nil {
			t.Fatal(err)
		}
		if r.Dropped {
			got = append(got, "...")
		}
		got = append(got, string(r.Output))
		if string(r.Output) == "one\n" {
			for _, n := range []int{3, 4} {
				if err := os.Remove(filepath.Join(folder, crilog.Name("log", n))); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	if diff := cmp.Diff([]string{"...", "one\n", "...", "three\n"}, got); diff != "" {
		t.Error(diff)
	}
	for r, err := range crilog.Read(t.Context(), path, crilog.Options{Tail: 1}) {
		if r.Dropped || err != nil {
			t.Error("a tail misses nothing: ", err)
		}
	}
}

// TestFollowBefore ends the waiting at a time.
func TestFollowBefore(t *testing.T) {
	path := writeLog(t, "one\n")
	n := 0
	for _, err := range crilog.Read(t.Context(), path, crilog.Options{Until: make(chan struct{}), Before: time.Now().Add(20 * time.Millisecond)}) {
		if err != nil {
			t.Fatal(err)
		}
		n++
	}
	if n != 1 {
		t.Errorf("%d records", n)
	}
}

// TestHold holds a file, and no other holder keeps it from being told.
func TestHold(t *testing.T) {
	path := writeLog(t, "one\n")
	open := func() *os.File {
		f, err := os.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = f.Close() })
		return f
	}
	reader, writer := open(), open()
	if err := crilog.Hold(reader); err != nil {
		t.Fatal(err)
	}
	if held, err := crilog.Held(writer); !held || err != nil {
		t.Errorf("held %v, %v", held, err)
	}
	if err := reader.Close(); err != nil {
		t.Fatal(err)
	}
	if held, err := crilog.Held(writer); held || err != nil {
		t.Errorf("held %v, %v", held, err)
	}
	if err := crilog.Hold(open()); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("hold what is being removed: %v", err)
	}
	if err := writer.Close(); err != nil {
		t.Fatal(err)
	}
	removed := open()
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if err := crilog.Hold(removed); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("hold what was removed: %v", err)
	}
}
