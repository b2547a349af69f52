package pluginpkg

import (
	"slices"
	"strings"
)

// writablePatterns are all that a mutation may ever set: nothing that names the
// workload or its image, and nothing that loosens its isolation.
func writablePatterns() []string {
	return []string{"/labels/*", "/env/-", "/resources/milliCpu", "/resources/memoryBytes", "/resources/pids"}
}

// writable tells whether a manifest may declare pattern: one of
// writablePatterns, or one label.
func writable(pattern string) bool {
	if slices.Contains(writablePatterns(), pattern) {
		return true
	}
	return Matches("/labels/*", pattern)
}

// Matches tells whether pattern covers a JSON pointer (RFC 6901): they are
// equal, or pattern ends in "/*" and the pointer has one more token there.
func Matches(pattern, pointer string) bool {
	if pattern == pointer {
		return true
	}
	prefix, ok := strings.CutSuffix(pattern, "*")
	if !ok {
		return false
	}
	token, ok := strings.CutPrefix(pointer, prefix)
	return ok && token != "" && !strings.Contains(token, "/")
}

// Overlap tells whether two patterns cover a pointer in common.
func Overlap(a, b string) bool { return Matches(a, b) || Matches(b, a) }

// Unescape gives the member name that a token of a JSON pointer stands for.
func Unescape(token string) string {
	return strings.NewReplacer("~1", "/", "~0", "~").Replace(token)
}
