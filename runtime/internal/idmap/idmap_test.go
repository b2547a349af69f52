package idmap

import (
	"sync"
	"testing"
)

func TestAllocator(t *testing.T) {
	a := New()
	if err := a.Mark(1); err != nil {
		t.Fatal(err)
	}
	for _, bad := range []Slot{1, -1, Slots} {
		if a.Mark(bad) == nil {
			t.Errorf("range %d was taken", bad)
		}
	}
	for _, want := range []Slot{0, 2, 3} {
		if got, ok := a.Claim(); !ok || got != want {
			t.Errorf("claimed %d, want %d", got, want)
		}
	}
	a.Release(2)
	if got, ok := a.Claim(); !ok || got != 2 {
		t.Errorf("claimed %d", got)
	}
}

func TestRanges(t *testing.T) {
	if first, last := Slot(0).HostID(), Slot(Slots-1).HostID()+Size-1; first != 1879048192 || last != 2147352575 {
		t.Errorf("ranges %d to %d", first, last)
	}
}

func TestExhausted(t *testing.T) {
	a := New()
	var wg sync.WaitGroup
	var mu sync.Mutex
	seen := map[Slot]bool{}
	for range 8 {
		wg.Go(func() {
			for {
				s, ok := a.Claim()
				if !ok {
					return
				}
				mu.Lock()
				if seen[s] {
					t.Errorf("range %d given twice", s)
				}
				seen[s] = true
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	if len(seen) != Slots {
		t.Errorf("%d ranges", len(seen))
	}
}
