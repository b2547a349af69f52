package bundle

import (
	"fmt"
	"strings"
)

// scanner steps over Cedar text, leaving out comments and what is in quotes.
// It knows just enough to find where a policy ends and how deep it nests.
type scanner struct {
	text string
	at   int
	line int
}

// next gives the next byte that is neither in a comment nor in quotes; 0 at the end.
func (s *scanner) next() byte {
	for s.at < len(s.text) {
		c := s.text[s.at]
		s.at++
		switch {
		case c == '\n':
			s.line++
		case c == '/' && strings.HasPrefix(s.text[s.at:], "/"):
			end := strings.IndexByte(s.text[s.at:], '\n')
			if end < 0 {
				end = len(s.text) - s.at
			}
			s.at += end
			continue
		case c == '"':
			s.quotes()
		}
		return c
	}
	return 0
}

// quotes steps behind the closing quote.
func (s *scanner) quotes() {
	for s.at < len(s.text) {
		c := s.text[s.at]
		s.at++
		switch c {
		case '\n':
			s.line++
		case '\\':
			s.at = min(s.at+1, len(s.text))
		case '"':
			return
		}
	}
}

// statement gives the policy that text begins with, to its semicolon.
func statement(text string) string {
	s := scanner{text: text}
	for c := s.next(); c != 0; c = s.next() {
		if c == ';' {
			break
		}
	}
	return text[:s.at]
}

// checkLimits refuses text whose nesting would exhaust a recursive parser.
// Each operator may nest the tree once more, so they are counted too.
func checkLimits(file, text string) *Problem {
	s := scanner{text: text, line: 1}
	depth, operators, start := 0, 0, 0
	for c := s.next(); c != 0; c = s.next() {
		switch c {
		case '(', '[', '{':
			depth++
		case ')', ']', '}':
			depth--
		case '&', '|', '!', '-', '+', '*', '.', '<', '>', '=':
			operators++
		case 'i': // if, in, is, and parts of other words: counted too high, never too low
			operators++
		case ';':
			depth, operators, start = 0, 0, s.at
		}
		switch {
		case depth > maxNesting:
			return &Problem{File: file, Line: s.line, Message: fmt.Sprintf("brackets nest deeper than %d", maxNesting)}
		case operators > maxOperators:
			return &Problem{File: file, Line: s.line, Message: fmt.Sprintf("the policy has more than %d operators", maxOperators)}
		case s.at-start > maxPolicy:
			return &Problem{File: file, Line: s.line, Message: fmt.Sprintf("the policy is longer than %d bytes", maxPolicy)}
		}
	}
	return nil
}
