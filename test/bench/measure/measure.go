// Package measure is what all benchmarks share: contenders take turns within
// one run, so that a machine's mood meets them alike; figures are compared by
// their medians, and each is printed for people and as a line for programs.
package measure

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
)

// Contender is one side of a comparison.
type Contender struct {
	Name string
	// Prepare readies the next Once outside of what is measured; it may be nil.
	Prepare func(ctx context.Context) error
	// Once does the measured thing one time, and nothing else.
	Once func(ctx context.Context) error
	// Timed is Once for what measures itself: it gives how long it took.
	Timed func(ctx context.Context) (time.Duration, error)
}

// measure does the thing one time.
func (c *Contender) measure(ctx context.Context) (time.Duration, error) {
	if c.Timed != nil {
		return c.Timed(ctx)
	}
	began := time.Now()
	err := c.Once(ctx)
	return time.Since(began), err
}

// Series are the durations of one contender, in the order of measurement.
type Series struct {
	Name  string
	Times []time.Duration
}

// Plan says how often and how far apart.
type Plan struct {
	// Rounds is how many times each contender is measured.
	Rounds int
	// WarmUp is how many rounds go first without being counted.
	WarmUp int
	// Idle is the pause before each measurement: with one, starts are
	// sporadic, without, back to back.
	Idle time.Duration
}

// Interleave measures the contenders in turns; who goes first alternates, so
// that nobody always profits from what the one before left in the caches.
func Interleave(ctx context.Context, plan Plan, contenders ...Contender) ([]Series, error) {
	out := make([]Series, len(contenders))
	for i, c := range contenders {
		out[i].Name = c.Name
	}
	for round := range plan.WarmUp + plan.Rounds {
		for i := range contenders {
			at := (i + round) % len(contenders)
			if prepare := contenders[at].Prepare; prepare != nil {
				if err := prepare(ctx); err != nil {
					return nil, fmt.Errorf("%s, before round %d: %w", contenders[at].Name, round, err)
				}
			}
			if err := pause(ctx, plan.Idle); err != nil {
				return nil, err
			}
			took, err := contenders[at].measure(ctx)
			if err != nil {
				return nil, fmt.Errorf("%s, round %d: %w", contenders[at].Name, round, err)
			}
			if round >= plan.WarmUp {
				out[at].Times = append(out[at].Times, took)
			}
		}
	}
	return out, nil
}

func pause(ctx context.Context, d time.Duration) error {
	if d <= 0 {
		return ctx.Err()
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}

// Percentile gives the duration that p per cent of the measurements do not
// exceed (nearest rank); 0 without measurements.
func (s Series) Percentile(p int) time.Duration {
	if len(s.Times) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(s.Times))
	rank := (p*len(sorted) + 99) / 100
	return sorted[min(max(rank, 1), len(sorted))-1]
}

// Table writes the series for people.
func Table(w io.Writer, title string, series []Series) error {
	if _, err := fmt.Fprintln(w, title); err != nil {
		return err
	}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	var b strings.Builder
	b.WriteString("\truns\tmin\tp50\tp90\tmax\t\n")
	for _, s := range series {
		fmt.Fprintf(&b, "  %s\t%d\t%s\t%s\t%s\t%s\t\n", s.Name, len(s.Times),
			ms(s.Percentile(0)), ms(s.Percentile(50)), ms(s.Percentile(90)), ms(s.Percentile(100)))
	}
	if _, err := io.WriteString(t, b.String()); err != nil {
		return err
	}
	return t.Flush()
}

func ms(d time.Duration) string { return fmt.Sprintf("%.2f ms", d.Seconds()*1000) }

// Line is a figure for programs.
type Line struct {
	Name       string
	Ours, Peer float64
	// Unit follows the figures ("ms", "MB/s").
	Unit string
	// AtLeast is true where more is better: the ratio must reach the target,
	// not stay under it.
	AtLeast bool
	Target  float64
	// Absolute is true where Target is in Unit and bounds Ours, not the ratio;
	// there may be no peer then.
	Absolute bool
}

// Durations gives the line that compares a percentile of two series in milliseconds.
func Durations(name string, ours, peer Series, percentile int, target float64) Line {
	return Line{
		Name: name, Unit: "ms", Target: target,
		Ours: ours.Percentile(percentile).Seconds() * 1000, Peer: peer.Percentile(percentile).Seconds() * 1000,
	}
}

// Ratio is ours over the peer's; 0 when the peer has no figure.
func (l Line) Ratio() float64 {
	if l.Peer == 0 {
		return 0
	}
	return l.Ours / l.Peer
}

// Met tells whether the target is reached.
func (l Line) Met() bool {
	switch {
	case l.Absolute && l.AtLeast:
		return l.Ours >= l.Target
	case l.Absolute:
		return l.Ours <= l.Target
	case l.AtLeast:
		return l.Ratio() >= l.Target
	}
	return l.Peer != 0 && l.Ratio() <= l.Target
}

// String gives the line: "BENCH name=... ours=...ms peer=...ms ratio=... target<=...",
// without peer and ratio when there is no peer.
func (l Line) String() string {
	sign := "<="
	if l.AtLeast {
		sign = ">="
	}
	line := fmt.Sprintf("BENCH name=%s ours=%.2f%s", l.Name, l.Ours, l.Unit)
	if l.Peer != 0 || !l.Absolute {
		line += fmt.Sprintf(" peer=%.2f%s ratio=%.3f", l.Peer, l.Unit, l.Ratio())
	}
	line += fmt.Sprintf(" target%s%.2f", sign, l.Target)
	if l.Absolute {
		line += l.Unit
	}
	return line
}
