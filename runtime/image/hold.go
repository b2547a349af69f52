package image

import (
	"strings"

	"github.com/opencontainers/go-digest"

	"tero.internal/common/fault"
	"tero.internal/common/workload"
)

// Release ends the hold of one Resolve: from then on the image stays only for
// its names and for the containers whose records name it.
func (s *Store) Release(img workload.Image) {
	s.heldMu.Lock()
	defer s.heldMu.Unlock()
	if s.held[img.Digest]--; s.held[img.Digest] <= 0 {
		delete(s.held, img.Digest)
	}
}

// hold keeps an image until Release. The caller has dropping for reading since
// before it found the image.
func (s *Store) hold(d digest.Digest) {
	s.heldMu.Lock()
	defer s.heldMu.Unlock()
	s.held[d]++
}

// users tells who needs an image. It asks for launches first: a launch ends its
// hold after its container's record names the image, so that in this order it
// is seen in one of the two.
func (s *Store) users(d digest.Digest) (launch bool, containers []string) {
	s.heldMu.Lock()
	launch = s.held[d] > 0
	s.heldMu.Unlock()
	return launch, s.inUse(d)
}

func (s *Store) isUsed(d digest.Digest) bool {
	launch, containers := s.users(d)
	return launch || len(containers) > 0
}

// mayGo is nil for an image that nobody needs, otherwise a fault that says who does.
func (s *Store) mayGo(reference string, d digest.Digest) error {
	launch, containers := s.users(d)
	switch {
	case len(containers) > 0:
		return fault.New(fault.Conflict, "image %s is used by %s", reference, strings.Join(containers, ", ")).
			WithHint("remove the container first, with: tero rm %s", containers[0])
	case launch:
		return fault.New(fault.Conflict, "image %s is used by a launch that is under way", reference).
			WithHint("try again when the launch has ended")
	}
	return nil
}
