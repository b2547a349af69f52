// Package message is how tero talks to people on standard error. It links next to
// nothing, so that every program of the CLI says the same.
package message

import (
	"strings"
	"unicode"
)

// Dropped tells that what comes next is not all.
const Dropped = "output is missing here: the log's limits (--log-opt) removed it before it was read"

// What ends a conversation with a process before it ends.
const (
	GaveUp     = "stopped waiting after three interrupts; the process does not act on them"
	GaveUpHint = `it runs on: see "tero ps", and end it with "tero stop" or "tero kill"`
	NoExit     = "the node ended the stream without an exit code"
	NoExitHint = `see the node's log, and "tero ps -a" for the container`
)

// Clean replaces what a terminal would act on or read in another order.
func Clean(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsControl(r) || r == '\u2028' || r == '\u2029' || unicode.Is(unicode.Bidi_Control, r) {
			return '\uFFFD'
		}
		return r
	}, s)
}

// Note is one line for people.
func Note(text string) string { return "tero: " + Clean(text) + "\n" }

// Failure is an error with its hint, if it has one.
func Failure(text, hint string, colour bool) string {
	mark, tip, end := "", "", ""
	if colour {
		mark, tip, end = "\x1b[1;31m", "\x1b[36m", "\x1b[0m"
	}
	var b strings.Builder
	for i, l := range strings.Split(strings.TrimRight(text, "\n"), "\n") {
		if i == 0 {
			b.WriteString("tero: " + mark + "error:" + end + " " + Clean(l) + "\n")
			continue
		}
		b.WriteString("  " + Clean(strings.ReplaceAll(l, "\t", "  ")) + "\n")
	}
	if hint != "" {
		b.WriteString("tero: " + tip + "hint:" + end + " " + Clean(hint) + "\n")
	}
	return b.String()
}

// Colour tells whether a terminal should get colours.
func Colour(getenv func(string) string) bool {
	return getenv("NO_COLOR") == "" && getenv("TERM") != "dumb"
}
