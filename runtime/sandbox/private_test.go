package sandbox_test

import (
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"tero.internal/common/fault"
	"tero.internal/common/workload"
)

// TestStateIsPrivate: what is kept of containers is for root alone. Each folder
// that others could enter lies in one that they cannot.
func TestStateIsPrivate(t *testing.T) {
	n := newNode(t)
	s := n.suite()
	spec := s.Spec(t, "hold")
	spec.WritableRootfs = true
	s.Expect(t, s.Launch(t, spec), "holding")
	for _, dir := range []string{n.config.StateDir, n.config.RunDir} {
		looked := 0
		err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			looked++
			st, err := os.Stat(path)
			if err != nil {
				return err
			}
			if d.IsDir() && st.Mode().Perm()&0o077 == 0 {
				return fs.SkipDir
			}
			t.Errorf("%s is %v", path, st.Mode())
			return nil
		})
		if err != nil || looked == 0 {
			t.Errorf("%s: %d looked at, %v", dir, looked, err)
		}
	}
}

// TestNothingIsCopiedIntoMounts: tmpcopyup, which other runtimes do by paths, is refused.
func TestNothingIsCopiedIntoMounts(t *testing.T) {
	n := newNode(t)
	s := n.suite()
	config, err := n.Configure(s.Spec(t, "true"), s.Image)
	if err != nil {
		t.Fatal(err)
	}
	config.Mounts = append(config.Mounts, specs.Mount{Destination: "/mnt", Type: "tmpfs", Source: "tmpfs", Options: []string{"tmpcopyup"}})
	id := workload.NewID()
	if _, err = n.Create(t.Context(), id, config, s.Image); err == nil {
		err = n.Start(t.Context(), id, nil)
	}
	if kind := fault.KindOf(err); kind != fault.Invalid || fault.HintOf(err) == "" {
		t.Errorf("%v (%v)", err, kind)
	}
}
