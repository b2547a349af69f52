package config

import (
	"fmt"
	"strings"
)

// didYouMean gives `; did you mean "x"?` for the candidate nearest to name, or
// nothing when none is near. Earlier candidates win ties.
func didYouMean(name string, candidates []string) string {
	best, bestAt := 0, ""
	_, last, _ := cutLast(name)
	for _, c := range candidates {
		d := distance(fold(name), fold(c))
		if _, l, _ := cutLast(c); fold(l) == fold(last) {
			d = min(d, 1) // the right key in the wrong section
		}
		if d <= max(1, len(name)/4) && (bestAt == "" || d < best) {
			best, bestAt = d, c
		}
	}
	if bestAt == "" {
		return ""
	}
	return fmt.Sprintf("; did you mean %q?", bestAt)
}

// fold makes state_dir, state-dir and stateDir equal.
func fold(s string) string {
	return strings.NewReplacer("_", "", "-", "", ".", "").Replace(strings.ToLower(s))
}

// distance is how many insertions, deletions, replacements and swaps of
// neighbours make b of a (optimal string alignment).
func distance(a, b string) int {
	x, y := []rune(a), []rune(b)
	const far = 1 << 20
	if len(x) > 200 || len(y) > 200 {
		return far
	}
	rows := make([][]int, len(x)+1)
	for i := range rows {
		rows[i] = make([]int, len(y)+1)
		rows[i][0] = i
	}
	for j := range rows[0] {
		rows[0][j] = j
	}
	for i := 1; i <= len(x); i++ {
		for j := 1; j <= len(y); j++ {
			cost := 1
			if x[i-1] == y[j-1] {
				cost = 0
			}
			d := min(rows[i-1][j]+1, rows[i][j-1]+1, rows[i-1][j-1]+cost)
			if i > 1 && j > 1 && x[i-1] == y[j-2] && x[i-2] == y[j-1] {
				d = min(d, rows[i-2][j-2]+1)
			}
			rows[i][j] = d
		}
	}
	return rows[len(x)][len(y)]
}
