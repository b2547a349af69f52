package sandbox_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"tero.internal/common/fault"
	"tero.internal/common/workload"
	"tero.internal/runtime/sandbox"
	"tero.internal/runtime/sandbox/sandboxtest"
)

// TestParallel launches and destroys from many goroutines: every container must
// be whole, and its ids its own.
func TestParallel(t *testing.T) {
	for name, pool := range map[string]int{"no pool": 0, "pool": 3} {
		t.Run(name, func(t *testing.T) { parallel(t, newNodeWithPool(t, pool)) })
	}
}

func parallel(t *testing.T, n *node) {
	s := n.suite()
	before := kernelState(t, n)
	var wg sync.WaitGroup
	for w := range 8 {
		wg.Go(func() {
			for i := range 4 {
				id := workload.NewID()
				config, err := n.Configure(s.Spec(t, "echo", fmt.Sprint(w, i)), image())
				if err != nil {
					t.Error(err)
					return
				}
				if _, err := n.Create(t.Context(), id, config, image()); err != nil {
					t.Error(err)
					return
				}
				if err := n.Start(t.Context(), id, nil); err != nil {
					t.Error(err)
					return
				}
				exit, err := n.Wait(t.Context(), id)
				if out := s.Output(t, id); err != nil || exit.Code != 0 || out != fmt.Sprintln(w, i) {
					t.Errorf("%+v, %v, %q", exit, err, out)
				}
				if err := n.Destroy(t.Context(), id); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	if n.config.Pool > 0 { // which changes at any moment; the end of the node checks it
		return
	}
	if after := kernelState(t, n); after != before {
		t.Errorf("before %s\nafter %s", before, after)
	}
}

// TestFullDisk floods the log of a container on a disk that is too small, then
// makes room: the container waits meanwhile, and nothing is lost.
func TestFullDisk(t *testing.T) {
	disk, memory := tmpfs(t, "1m"), tmpfs(t, "1m")
	n := openNode(t, sandbox.Config{
		StateDir: filepath.Join(disk, "state"), RunDir: filepath.Join(memory, "run"), InitPath: built.init,
		CgroupParent: "tero-test-" + workload.NewID().Short(), Log: slog.New(slog.DiscardHandler),
	})
	s := n.suite()
	id := s.Launch(t, s.Spec(t, "flood", "50000"))
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	var st unix.Statfs_t
	for {
		if err := unix.Statfs(disk, &st); err != nil {
			t.Fatal(err)
		}
		if st.Bfree == 0 {
			break
		}
		if ctx.Err() != nil {
			t.Fatalf("%d blocks are still free", st.Bfree)
		}
	}
	filler := filepath.Join(memory, "filler")
	if err := os.WriteFile(filler, make([]byte, 2<<20), 0o600); !errors.Is(err, unix.ENOSPC) {
		t.Fatalf("fill the file system of RunDir: %v", err)
	}
	if _, err := n.Create(t.Context(), workload.NewID(), mustConfigure(t, n, s), image()); fault.KindOf(err) != fault.Exhausted || fault.HintOf(err) == "" {
		t.Errorf("create on a full disk: %v", err)
	}
	if err := os.Remove(filler); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("", disk, "", unix.MS_REMOUNT, "size=64m"); err != nil {
		t.Fatal(err)
	}
	if exit := s.End(t, id); exit.Code != 0 {
		t.Errorf("%+v", exit)
	}
	out := s.Output(t, id)
	if lines := strings.Count(out, "\n"); lines != 50000 || !strings.HasSuffix(out, "line 000049999\n") {
		t.Errorf("%d lines, ending %q", lines, out[max(0, len(out)-40):])
	}
}

// TestMissingInterpreter names what a command needs and the image lacks.
func TestMissingInterpreter(t *testing.T) {
	n := newNode(t)
	layer := t.TempDir()
	if err := os.Chmod(layer, 0o755); err != nil {
		t.Fatal(err)
	}
	for name, content := range map[string]string{"script": "#!/bin/missing -x\n", "data": "neither ELF nor script\n"} {
		if err := os.WriteFile(filepath.Join(layer, name), []byte(content), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(layer, "plain"), []byte("x"), 0o644); err != nil {
		t.Fatal(err)
	}
	img := image()
	img.Layers, img.Erofs = append([]string{layer}, img.Layers...), ""
	s := &sandboxtest.Suite{Driver: n.Native, Image: img}
	for command, want := range map[string]struct {
		kind fault.Kind
		text string
	}{
		"/script": {fault.NotFound, `needs "/bin/missing"`}, "/data": {fault.Invalid, "not in a format"}, "/plain": {fault.Invalid, "not executable"},
	} {
		spec := s.Spec(t)
		spec.Args = []string{command}
		_, err := s.TryLaunch(t, spec)
		if fault.KindOf(err) != want.kind || err == nil || !strings.Contains(err.Error(), want.text) || fault.HintOf(err) == "" {
			t.Errorf("%s: %v (hint %q)", command, err, fault.HintOf(err))
		}
	}
}
