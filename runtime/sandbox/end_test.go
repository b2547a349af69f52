package sandbox_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"tero.internal/common/fault"
	"tero.internal/common/workload"
	"tero.internal/runtime/sandbox"
)

// again creates and starts a container that may have run before.
func again(t *testing.T, n *node, id workload.ID, spec workload.Spec) {
	t.Helper()
	config, err := n.Configure(spec, image())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := n.Create(t.Context(), id, config, image()); err != nil {
		t.Fatal(err)
	}
	if err := n.Start(t.Context(), id, nil); err != nil {
		t.Fatal(err)
	}
	if exit := n.suite().End(t, id); exit.Code != 0 {
		t.Errorf("%+v", exit)
	}
}

func phaseOf(t *testing.T, n *node, id workload.ID) sandbox.Phase {
	t.Helper()
	list, err := n.List(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range list {
		if s.ID == id {
			return s.Phase
		}
	}
	return ""
}

// owner gives the user outside that root of a kept container is.
func ownerOf(t *testing.T, n *node, id workload.ID) uint32 {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Stat(filepath.Join(filepath.Dir(n.LogPath(id)), "layer", "work"), &st); err != nil {
		t.Fatal(err)
	}
	return st.Uid
}

// TestEndKeepsLogAndLayer runs one container again and again.
func TestEndKeepsLogAndLayer(t *testing.T) {
	for name, durable := range map[string]bool{"volatile": false, "durable": true} {
		t.Run(name, func(t *testing.T) {
			n := newNode(t)
			s := n.suite()
			spec := s.Spec(t, "note", "/notes", "run")
			spec.WritableRootfs, spec.User = true, "0:0"
			if durable {
				spec.Restart = workload.Restart{Policy: workload.RestartAlways}
			}
			id := workload.NewID()
			again(t, n, id, spec)
			for range 2 { // it may be called again
				if err := n.End(t.Context(), id); err != nil {
					t.Fatal(err)
				}
			}
			if p := phaseOf(t, n, id); p != sandbox.Ended {
				t.Errorf("phase %q after End", p)
			}
			if _, err := n.Wait(t.Context(), id); fault.KindOf(err) != fault.NotFound {
				t.Errorf("wait after End: %v", err)
			}
			// Its ids are its own all the while, also for a driver that finds it so.
			if err := n.Close(); err != nil {
				t.Fatal(err)
			}
			var err error
			if n.Native, err = sandbox.OpenNative(t.Context(), n.config); err != nil {
				t.Fatal(err)
			}
			s = n.suite()
			other := s.Launch(t, spec)
			s.End(t, other)
			if ownerOf(t, n, other) == ownerOf(t, n, id) {
				t.Error("another container got the user ids of the kept layer")
			}
			again(t, n, id, spec)
			if out := s.Output(t, id); out != "run\nrun\nrun\n" {
				t.Errorf("log over two runs: %q", out)
			}
			// A Create that fails keeps it, too.
			if err := n.End(t.Context(), id); err != nil {
				t.Fatal(err)
			}
			broken := image()
			broken.Layers, broken.Erofs = []string{"/nowhere"}, ""
			config, err := n.Configure(spec, broken)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := n.Create(t.Context(), id, config, broken); err == nil {
				t.Fatal("created from a layer that is not there")
			}
			if p := phaseOf(t, n, id); p != sandbox.Ended {
				t.Errorf("phase %q after a failed Create", p)
			}
			again(t, n, id, spec)
			if out := s.Output(t, id); !strings.HasSuffix(out, "run\nrun\nrun\n") {
				t.Errorf("log over three runs: %q", out)
			}
			if err := n.Destroy(t.Context(), id); err != nil {
				t.Fatal(err)
			}
			if _, err := os.Stat(filepath.Dir(n.LogPath(id))); err == nil {
				t.Error("the folder is left")
			}
		})
	}
}
