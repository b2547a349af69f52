package segment

import (
	"fmt"
	"slices"
	"strings"
)

// Explain says in words why no segment allows from to reach to on a port, and
// which segment is nearest to doing so.
func Explain(segments []Segment, from, to *Member, port Port) string {
	refusal := fmt.Sprintf("no segment allows %s to reach %s on %s", from.Name, to.Name, port)
	if from.Network != to.Network {
		return fmt.Sprintf("%s: it is on network %s and %s on %s", refusal, from.Network, to.Name, to.Network)
	}
	var best *Segment
	bestScore := 0
	for i := range segments {
		s := &segments[i]
		if s.Network != to.Network {
			continue
		}
		if score := s.closeness(from, to, port); score > bestScore {
			best, bestScore = s, score
		}
	}
	if best == nil {
		return refusal + fmt.Sprintf("; no segment of network %s has anything to do with either", to.Network)
	}
	return fmt.Sprintf("%s; nearest: %s %s", refusal, best.Name, best.lacking(from, to, port))
}

// closeness weighs what of a segment fits: whom it is about most.
func (s *Segment) closeness(from, to *Member, port Port) int {
	score := 0
	if s.To.Matches(to) {
		score += 4
	}
	if s.selectsSource(from) {
		score += 3
	}
	if score > 0 && slices.Contains(s.Ports, port) {
		score++
	}
	return score
}

// lacking says what would have to be otherwise.
func (s *Segment) lacking(from, to *Member, port Port) string {
	var parts []string
	if !s.selectsSource(from) {
		var sources []string
		for _, f := range s.From {
			sources = append(sources, f.String())
		}
		parts = append(parts, "allows from "+strings.Join(sources, " or "))
	}
	if !s.To.Matches(to) {
		parts = append(parts, "allows to "+s.To.String())
	}
	if !slices.Contains(s.Ports, port) {
		var ports []string
		for _, p := range s.Ports {
			ports = append(ports, p.String())
		}
		parts = append(parts, "allows on "+strings.Join(ports, ", "))
	}
	return strings.Join(parts, " and ")
}

// Allowing gives the names of the segments that let from reach to on a port.
func Allowing(segments []Segment, from, to *Member, port Port) []string {
	var out []string
	for i := range segments {
		s := &segments[i]
		if slices.Contains(s.Ports, port) && s.connects(from, to) {
			out = append(out, s.Name)
		}
	}
	return out
}

func (s *Segment) connects(from, to *Member) bool {
	return s.Network == to.Network && from.Network == to.Network && s.To.Matches(to) && s.selectsSource(from)
}

// AnyReach gives the names of the segments that let from reach to on any port.
func AnyReach(segments []Segment, from, to *Member) []string {
	var out []string
	for i := range segments {
		s := &segments[i]
		if s.connects(from, to) {
			out = append(out, s.Name)
		}
	}
	return out
}
