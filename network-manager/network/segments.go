package network

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"tero.internal/common/fault"
	"tero.internal/network-manager/internal/nft"
	"tero.internal/network-manager/segment"
)

// SegmentInfo is a segment with the number of entries that it makes now.
type SegmentInfo struct {
	segment.Segment
	Entries int
}

// ApplySegments puts the segments of a file in force, all or none; those of the
// same name are replaced.
func (m *Manager) ApplySegments(_ context.Context, file string, content []byte) ([]SegmentInfo, error) {
	parsed, err := segment.Parse(file, content)
	if err != nil {
		return nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	next := slices.Clone(m.segments)
	for _, s := range parsed {
		if m.networks[s.Network] == nil {
			return nil, fault.New(fault.NotFound, "%s: segment %q is about network %q, which does not exist", s.Source, s.Name, s.Network)
		}
		next = slices.DeleteFunc(next, func(old segment.Segment) bool { return old.Name == s.Name })
		next = append(next, s)
	}
	if err := m.setSegments(next); err != nil {
		return nil, err
	}
	out := make([]SegmentInfo, 0, len(parsed))
	for _, s := range parsed {
		out = append(out, m.segmentInfo(s))
		m.publish("segment.applied", nil, fmt.Sprintf("segment %s is in force on network %s", s.Name, s.Network), map[string]string{"segment": s.Name, "network": s.Network})
	}
	return out, nil
}

// RemoveSegment ends what a segment allows, for open connections too.
func (m *Manager) RemoveSegment(_ context.Context, name string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	next := slices.DeleteFunc(slices.Clone(m.segments), func(s segment.Segment) bool { return s.Name == name })
	if len(next) == len(m.segments) {
		return fault.New(fault.NotFound, "segment %q does not exist", name)
	}
	if err := m.setSegments(next); err != nil {
		return err
	}
	m.publish("segment.removed", nil, fmt.Sprintf("segment %s is in force no more", name), map[string]string{"segment": name})
	return nil
}

// setSegments brings disk and kernel to next, or leaves both. What is refused
// reaches the kernel before the disk, what is allowed after it would be as good:
// the order only matters when one of the two fails. The caller holds mu.
func (m *Manager) setSegments(next []segment.Segment) error {
	if m.closed {
		return errClosed
	}
	slices.SortFunc(next, func(a, b segment.Segment) int { return strings.Compare(a.Name, b.Name) })
	old := m.segments
	m.segments = next
	if err := m.enforce(nft.Change{}); err != nil {
		m.segments = old
		return errors.Join(err, m.enforce(nft.Change{}))
	}
	if err := writeJSON(m.segmentsFile(), next); err != nil {
		m.segments = old
		return errors.Join(err, m.enforce(nft.Change{}))
	}
	return nil
}

// Segments lists the segments of a network, of all when it is empty, sorted by name.
func (m *Manager) Segments(network string) []SegmentInfo {
	m.mu.Lock()
	defer m.mu.Unlock()
	var out []SegmentInfo
	for _, s := range m.segments {
		if network == "" || s.Network == network {
			out = append(out, m.segmentInfo(s))
		}
	}
	return out
}

func (m *Manager) segmentInfo(s segment.Segment) SegmentInfo {
	i := SegmentInfo{Segment: s}
	for _, names := range m.allowed {
		if slices.Contains(names, s.Name) {
			i.Entries++
		}
	}
	return i
}
