package keeper

import (
	"bytes"
	"context"
	"fmt"
	"hash/crc32"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"tero.internal/runtime/internal/crilog"
)

func newOutput(t *testing.T, dir string, maxSize int64, maxFiles int) *output {
	t.Helper()
	folder, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	o := &output{abandon: make(chan struct{}), ending: make(chan struct{})}
	if o.log, err = openLog(folder, maxSize, maxFiles); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		o.log.close()
		_ = folder.Close()
	})
	return o
}

// TestRotate keeps no more than the log's limits say, and no record is torn.
func TestRotate(t *testing.T) {
	const maxSize, maxFiles = 300 << 10, 3
	dir := t.TempDir()
	o := newOutput(t, dir, maxSize, maxFiles)
	piece := bytes.Repeat([]byte("0123456789\n"), pieceSize/11)
	for range 20 {
		o.write(crilog.Stdout, piece)
	}
	o.write(crilog.Stderr, bytes.Repeat([]byte("\n"), pieceSize)) // the most records that a piece can be
	numbers, err := crilog.Numbers(dir, LogFile)
	if err != nil || len(numbers) != maxFiles || numbers[0] == 0 {
		t.Fatalf("files %v, %v", numbers, err)
	}
	for _, n := range numbers {
		b, err := os.ReadFile(filepath.Join(dir, crilog.Name(LogFile, n)))
		if err != nil || len(b) > maxSize {
			t.Errorf("file %d has %d bytes, %v", n, len(b), err)
		}
		for line := range bytes.Lines(b) {
			if _, err := crilog.Parse(line); err != nil {
				t.Fatalf("file %d: %q: %v", n, line, err)
			}
		}
	}
	// Another keeper goes on where this one ended.
	again := newOutput(t, dir, maxSize, maxFiles)
	if again.log.current != numbers[maxFiles-1] || again.log.oldest != numbers[0] || again.log.size == 0 {
		t.Errorf("%+v", again.log)
	}
}

// TestReadersHold floods a log far over its limits while readers that hold it
// and others follow: the first see every byte, the others what they could, in
// order, and are told of what they missed.
func TestReadersHold(t *testing.T) {
	for _, maxFiles := range []int{1, 3} {
		t.Run(fmt.Sprint(maxFiles, " files"), func(t *testing.T) {
			dir := t.TempDir()
			o := newOutput(t, dir, 256<<10, maxFiles)
			done := make(chan struct{})
			var readers, opened sync.WaitGroup
			got := make([]uint32, 3)
			for i := range got {
				opened.Add(1)
				readers.Go(func() {
					options := crilog.Options{Until: done, Keep: true, Opened: opened.Done}
					for r, err := range crilog.Read(t.Context(), filepath.Join(dir, LogFile), options) {
						if err != nil || r.Dropped {
							t.Error(err, r.Dropped)
							return
						}
						got[i] = crc32.Update(got[i], crc32.IEEETable, r.Output)
					}
				})
			}
			readers.Go(func() {
				last := -1
				for r, err := range crilog.Read(t.Context(), filepath.Join(dir, LogFile), crilog.Options{Until: done}) {
					var n int
					if _, scanErr := fmt.Sscanf(string(r.Output), "line %d of", &n); err != nil || scanErr != nil {
						t.Error(err, scanErr)
						return
					}
					if n <= last || n != last+1 && !r.Dropped {
						t.Errorf("%d after %d, dropped %v", n, last, r.Dropped)
					}
					last = n
				}
			})
			opened.Wait()
			var want uint32
			for i := range 60 {
				var piece []byte
				for j := range 1000 {
					piece = fmt.Appendf(piece, "line %d of the flood\n", 1000*i+j)
				}
				want = crc32.Update(want, crc32.IEEETable, piece)
				o.write(crilog.Stdout, piece)
			}
			close(done)
			readers.Wait()
			for i := range got {
				if got[i] != want {
					t.Errorf("reader %d has not seen every byte", i)
				}
			}
			if numbers, err := crilog.Numbers(dir, LogFile); err != nil || len(numbers) > maxFiles {
				t.Errorf("files %v, %v", numbers, err)
			}
		})
	}
}

// TestReaderThatStays does not keep a container that has ended from its exit,
// nor one that is to be forgotten.
func TestReaderThatStays(t *testing.T) {
	for name, end := range map[string]func(*output){
		"ended": func(o *output) { close(o.ending) }, "forgotten": func(o *output) { close(o.abandon) },
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			o := newOutput(t, dir, 256<<10, 1)
			ctx, cancel := context.WithCancel(t.Context())
			reading := make(chan struct{})
			var reader sync.WaitGroup
			reader.Go(func() {
				for _, err := range crilog.Read(ctx, filepath.Join(dir, LogFile), crilog.Options{Until: make(chan struct{}), Keep: true}) {
					if err == nil && ctx.Err() == nil {
						close(reading)
						<-ctx.Done() // takes no more
					}
				}
			})
			var writer sync.WaitGroup
			writer.Go(func() {
				for range 10 {
					o.write(crilog.Stdout, bytes.Repeat([]byte("x\n"), pieceSize/2))
				}
			})
			<-reading
			end(o)
			writer.Wait()
			cancel()
			reader.Wait()
		})
	}
}
