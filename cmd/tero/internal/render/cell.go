package render

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"tero.internal/cmd/tero/internal/message"
)

// None stands for what is not set, so that a table has no holes.
const None = "-"

// Or gives s, or None when it is empty.
func Or(s string) string {
	if s == "" {
		return None
	}
	return s
}

// Clean takes control characters out of foreign text, so that a name or a log
// message cannot move the cursor or forge a line.
func Clean(s string) string {
	return message.Clean(s)
}

// Short gives the first 12 digits of an ID or of a digest.
func Short(id string) string {
	if _, hex, ok := strings.Cut(id, ":"); ok {
		id = hex
	}
	if len(id) > 12 {
		return id[:12]
	}
	return Or(id)
}

// Size gives bytes in the unit that fits.
func Size(n int64) string {
	if n < 1024 {
		return fmt.Sprintf("%d B", n)
	}
	f, units := float64(n), "KMGTPE"
	i := -1
	for f >= 1024 && i < len(units)-1 {
		f /= 1024
		i++
	}
	if f < 10 {
		return fmt.Sprintf("%.1f %ciB", f, units[i])
	}
	return fmt.Sprintf("%.0f %ciB", f, units[i])
}

// Ago gives how long before now t was.
func Ago(now time.Time, t *timestamppb.Timestamp) string {
	if t == nil || !t.IsValid() || t.AsTime().IsZero() {
		return None
	}
	return Duration(now.Sub(t.AsTime())) + " ago"
}

// Duration gives d in its two or fewer biggest sensible units.
func Duration(d time.Duration) string {
	switch d = max(d, 0); {
	case d < time.Minute:
		return fmt.Sprintf("%ds", int(d.Seconds()))
	case d < time.Hour:
		return fmt.Sprintf("%dm", int(d.Minutes()))
	case d < 48*time.Hour:
		return fmt.Sprintf("%dh", int(d.Hours()))
	}
	return fmt.Sprintf("%dd", int(d.Hours()/24))
}

// Time gives t in local time to the millisecond.
func Time(t *timestamppb.Timestamp) string {
	if t == nil || !t.IsValid() {
		return None
	}
	return t.AsTime().Local().Format("2006-01-02 15:04:05.000")
}

// Pairs gives a map as k=v,k=v by key.
func Pairs(m map[string]string) string {
	s := make([]string, 0, len(m))
	for _, k := range slices.Sorted(maps.Keys(m)) {
		s = append(s, k+"="+m[k])
	}
	return Or(strings.Join(s, ","))
}

// List gives values with commas.
func List(s []string) string { return Or(strings.Join(s, ", ")) }

// Fields lays name and value out in two columns, for one thing's details.
func Fields(pairs ...[2]string) string {
	width := 0
	for _, p := range pairs {
		width = max(width, len(p[0]))
	}
	var b strings.Builder
	for _, p := range pairs {
		fmt.Fprintf(&b, "%-*s  %s\n", width, p[0], Or(Clean(p[1])))
	}
	return b.String()
}
