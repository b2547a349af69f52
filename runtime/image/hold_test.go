package image

import (
	"archive/tar"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"tero.internal/common/fault"
	"tero.internal/common/workload"
	"tero.internal/runtime/internal/imagetest"
)

// web is an archive of web:v1.
func web(t *testing.T, content string) []byte {
	t.Helper()
	return imagetest.Archive(t, "web:v1", imagetest.Tar(t, imagetest.Entry("app", tar.TypeReg, content)))
}

func TestLaunchHoldsItsImage(t *testing.T) {
	s := newStore(t)
	s.mustImport(t, web(t, "one"))
	var held [2]workload.Image // of two launches
	for i := range held {
		var err error
		if held[i], err = s.Resolve(t.Context(), "web:v1"); err != nil {
			t.Fatal(err)
		}
	}
	for _, img := range held {
		_, err := s.Remove(t.Context(), "web:v1")
		if fault.KindOf(err) != fault.Conflict || !strings.Contains(err.Error(), "used by a launch") || fault.HintOf(err) == "" {
			t.Errorf("remove during a launch: %v (hint %q)", err, fault.HintOf(err))
		}
		if _, err := os.Lstat(img.Layers[0]); err != nil {
			t.Errorf("a launch lost its layer: %v", err)
		}
		s.Release(img)
	}
	if r, err := s.Remove(t.Context(), "web:v1"); err != nil || !r.Content {
		t.Errorf("remove after the launches: %+v, %v", r, err)
	}
	s.isEmpty(t)
}

func TestLaunchHoldsAnImageThatLosesItsName(t *testing.T) {
	s := newStore(t)
	s.mustImport(t, web(t, "one"))
	img, err := s.Resolve(t.Context(), "web:v1")
	if err != nil {
		t.Fatal(err)
	}
	s.mustImport(t, web(t, "two"))
	if _, err := os.Lstat(img.Layers[0]); err != nil {
		t.Errorf("a launch lost its layer: %v", err)
	}
	s.Release(img)
	if freed, err := s.Prune(t.Context()); err != nil || freed == 0 {
		t.Errorf("after the launch: freed %d, %v", freed, err)
	}
	if _, err := s.Remove(t.Context(), "web:v1"); err != nil {
		t.Error(err)
	}
	s.isEmpty(t)
}

func TestFailedResolveHoldsNothing(t *testing.T) {
	s := newStore(t)
	info := s.mustImport(t, web(t, "one"))
	if err := os.RemoveAll(s.layerPath(info.Layers[0].ChainID)); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Resolve(t.Context(), "web:v1"); fault.KindOf(err) != fault.Corrupt {
		t.Errorf("resolve without its layer: %v", err)
	}
	if _, err := s.Remove(t.Context(), "web:v1"); err != nil {
		t.Error(err)
	}
}

// TestResolveDuringRemoval resolves an image at the time when its removal has
// found that nobody uses it, and is not over.
func TestResolveDuringRemoval(t *testing.T) {
	type result struct {
		img workload.Image
		err error
	}
	resolved := make(chan result, 1)
	var s *Store
	asked := sync.OnceFunc(func() {
		done := make(chan struct{})
		go func() {
			defer close(done)
			img, err := s.Resolve(t.Context(), "web:v1")
			resolved <- result{img, err}
		}()
		select { // it waits for us; a Resolve that does not has time to show it
		case <-done:
		case <-time.After(50 * time.Millisecond):
		}
	})
	removing := false
	s = newStore(t, func(c *Config) {
		c.InUse = func(digest.Digest) []string {
			if removing {
				asked()
			}
			return nil
		}
	})
	s.mustImport(t, web(t, "one"))
	removing = true
	if _, err := s.Remove(t.Context(), "web:v1"); err != nil {
		t.Fatal(err)
	}
	if r := <-resolved; fault.KindOf(r.err) != fault.NotFound {
		t.Errorf("Resolve gave an image that is being removed: %v, %v", r.img.Layers, r.err)
	}
	s.isEmpty(t)
}

// TestLaunchesRaceWithRemoval lets launches that go on to be recorded race with
// image rm: an image that Resolve gave is there until nobody needs it.
func TestLaunchesRaceWithRemoval(t *testing.T) {
	var mu sync.Mutex // guards recorded
	recorded := map[digest.Digest]int{}
	record := func(d digest.Digest, n int) { mu.Lock(); defer mu.Unlock(); recorded[d] += n }
	s := newStore(t, func(c *Config) {
		c.InUse = func(d digest.Digest) []string {
			mu.Lock()
			defer mu.Unlock()
			return make([]string, recorded[d])
		}
	})
	archive := web(t, "one")
	for range 10 {
		s.mustImport(t, archive)
		var wg sync.WaitGroup
		for range 4 {
			wg.Go(func() {
				img, err := s.Resolve(t.Context(), "web:v1")
				if fault.KindOf(err) == fault.NotFound {
					return
				}
				if err != nil {
					t.Error(err)
					return
				}
				record(img.Digest, 1)
				s.Release(img)
				if _, err := os.Lstat(img.Layers[0]); err != nil {
					t.Errorf("a container lost its layer: %v", err)
				}
				record(img.Digest, -1)
			})
		}
		for range 2 {
			wg.Go(func() {
				_, err := s.Remove(t.Context(), "web:v1")
				if k := fault.KindOf(err); err != nil && k != fault.Conflict && k != fault.NotFound {
					t.Error(err)
				}
			})
		}
		wg.Wait()
	}
}
