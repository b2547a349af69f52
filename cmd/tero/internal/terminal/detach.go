package terminal

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"
)

// DefaultDetachKeys are the keys that leave a process to itself.
const DefaultDetachKeys = "ctrl-p,ctrl-q"

// ErrDetached is what the reader of Detachable gives when the keys were typed.
var ErrDetached = errors.New("the keys to detach were typed")

// ParseKeys reads keys as Docker writes them: single characters and ctrl- with
// one of a-z, @, [, \, ], ^ and _, with commas between.
func ParseKeys(text string) ([]byte, error) {
	var keys []byte
	for word := range strings.SplitSeq(text, ",") {
		letter, ctrl := strings.CutPrefix(word, "ctrl-")
		if len(letter) != 1 || letter[0] < ' ' || letter[0] > '~' {
			return nil, fmt.Errorf("%q is not a key such as x or ctrl-x", word)
		}
		key := letter[0]
		if ctrl {
			key = strings.ToUpper(letter)[0]
			if key < '@' || key > '_' {
				return nil, fmt.Errorf("there is no key %q", word)
			}
			key -= '@'
		}
		keys = append(keys, key)
	}
	return keys, nil
}

// Detachable gives what is typed, until keys are typed in a row. The beginning of
// keys is kept back until it is clear that the rest does not follow.
func Detachable(in io.Reader, keys []byte) io.Reader { return &detachable{in: in, keys: keys} }

type detachable struct {
	in   io.Reader
	keys []byte
	held int // keys that were typed and not given yet
}

// Read gives what was typed.
func (d *detachable) Read(b []byte) (int, error) {
	buf := make([]byte, max(1, len(b)-len(d.keys)))
	n, err := d.in.Read(buf)
	out := b[:0]
	for _, c := range buf[:n] {
		if c == d.keys[d.held] {
			if d.held++; d.held == len(d.keys) {
				return len(out), ErrDetached
			}
			continue
		}
		typed := append(bytes.Clone(d.keys[:d.held]), c)
		d.held = 0
		for len(typed) > 0 && !bytes.HasPrefix(d.keys, typed) { // what was typed may hold another beginning
			out = append(out, typed[0])
			typed = typed[1:]
		}
		d.held = len(typed)
	}
	if err != nil && d.held > 0 {
		out = append(out, d.keys[:d.held]...)
		d.held = 0
	}
	return len(out), err
}
