package terminal

import (
	"errors"
	"io"
	"strings"
	"testing"
	"testing/iotest"
)

func TestParseKeys(t *testing.T) {
	for text, want := range map[string]string{DefaultDetachKeys: "\x10\x11", "a": "a", "ctrl-@,ctrl-[,x": "\x00\x1bx", "ctrl-A,ctrl-_": "\x01\x1f"} {
		if got, err := ParseKeys(text); err != nil || string(got) != want {
			t.Errorf("%s: %q, %v", text, got, err)
		}
	}
	for _, bad := range []string{"", "ctrl-", "ctrl-1", "ab", "a,,b", "ctrl-ab", "é"} {
		if got, err := ParseKeys(bad); err == nil {
			t.Errorf("%q is %q", bad, got)
		}
	}
}

func TestDetachable(t *testing.T) {
	for name, c := range map[string]struct {
		keys, typed, want string
		detached          bool
	}{
		"at once":        {"pq", "pqrest", "", true},
		"later":          {"pq", "abcpq", "abc", true},
		"interrupted":    {"pq", "papq", "pa", true},
		"begun again":    {"pq", "ppq", "p", true},
		"never":          {"pq", "qp-p", "qp-p", false},
		"overlapping":    {"aab", "aaab", "a", true},
		"one key":        {"x", "abxc", "ab", true},
		"longest":        {"abac", "ababac", "ab", true},
		"nothing":        {"pq", "", "", false},
		"begun and over": {"pqr", "apq", "apq", false},
	} {
		t.Run(name, func(t *testing.T) {
			for how, in := range map[string]io.Reader{
				"whole": strings.NewReader(c.typed), "byte by byte": iotest.OneByteReader(strings.NewReader(c.typed)), "with its end": iotest.DataErrReader(strings.NewReader(c.typed)),
			} {
				got, err := io.ReadAll(Detachable(in, []byte(c.keys)))
				if string(got) != c.want || errors.Is(err, ErrDetached) != c.detached {
					t.Errorf("%s: %q, %v", how, got, err)
				}
			}
		})
	}
}
