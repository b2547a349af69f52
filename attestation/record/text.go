package record

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"

	"tero.internal/common/workload"
)

// prefix begins every event; the version changes with the format.
const prefix = "tero/v1 "

// maxInteger bounds integers to those that every JSON reader keeps exact.
const maxInteger = 1<<53 - 1

// field is one member of an event's JSON object: its key and how its value is
// read from and written to a record. quoted tells strings from integers.
type field struct {
	key    string
	quoted bool
	get    func(*Record) string
	set    func(*Record, string) error
}

// text is a field that holds any string; it must not be empty.
func text[T ~string](key string, at func(*Record) *T) field {
	return field{
		key: key, quoted: true,
		get: func(r *Record) string { return string(*at(r)) },
		set: func(r *Record, s string) error {
			if s == "" {
				return errors.New("is empty")
			}
			*at(r) = T(s)
			return nil
		},
	}
}

// named is a field that holds an OCI digest.
func named(key string, at func(*Record) *digest.Digest) field {
	f := text(key, at)
	f.set = func(r *Record, s string) error {
		if !plainSHA256(s) && digest.Digest(s).Validate() != nil {
			return fmt.Errorf("%q is not a digest", s)
		}
		*at(r) = digest.Digest(s)
		return nil
	}
	return f
}

// plainSHA256 is Digest.Validate for the usual case: its regular expression
// would take a quarter of the time of a replay.
func plainSHA256(s string) bool {
	s, ok := strings.CutPrefix(s, "sha256:")
	if !ok || len(s) != 64 {
		return false
	}
	for i := range len(s) {
		if (s[i] < '0' || s[i] > '9') && (s[i] < 'a' || s[i] > 'f') {
			return false
		}
	}
	return true
}

// sum is a field that holds a bare SHA-256.
func sum(key string, at func(*Record) *Digest256) field {
	return field{
		key: key, quoted: true,
		get: func(r *Record) string { return at(r).String() },
		set: func(r *Record, s string) error {
			d := at(r)
			if n, err := hex.Decode(d[:], []byte(s[:min(len(s), 2*len(d))])); err != nil || n != len(d) || d.String() != s {
				return fmt.Errorf("%q is not 64 lower-case hexadecimal digits", s)
			}
			return nil
		},
	}
}

// integer is a field that holds a number.
func integer(key string, at func(*Record) *uint64) field {
	return field{
		key: key,
		get: func(r *Record) string { return strconv.FormatUint(*at(r), 10) },
		set: func(r *Record, s string) error {
			n, err := strconv.ParseUint(s, 10, 64)
			if err != nil || n > maxInteger || strconv.FormatUint(n, 10) != s {
				return fmt.Errorf("%q is not a canonical integer under 2^53", s)
			}
			*at(r) = n
			return nil
		},
	}
}

// moment is the field that holds the time.
func moment() field {
	return field{
		key: "time", quoted: true,
		get: func(r *Record) string { return r.Time.UTC().Format(TimeFormat) },
		set: func(r *Record, s string) error {
			t, err := time.Parse(TimeFormat, s)
			if err != nil || t.Format(TimeFormat) != s {
				return fmt.Errorf("%q is not a time like %s", s, TimeFormat)
			}
			r.Time = t
			return nil
		},
	}
}

func seq() field  { return integer("seq", func(r *Record) *uint64 { return &r.Sequence }) }
func boot() field { return text("boot", func(r *Record) *string { return &r.Boot }) }

// layouts gives the members of each kind's object in the order of RFC 8785. It
// is never changed.
var layouts = map[Kind][]field{
	Launch: {
		boot(),
		named("config", func(r *Record) *digest.Digest { return &r.Launch.Config }),
		text("container", func(r *Record) *workload.ID { return &r.Launch.Container }),
		named("image", func(r *Record) *digest.Digest { return &r.Launch.Image }),
		text("imageRef", func(r *Record) *string { return &r.Launch.ImageRef }),
		named("mounts", func(r *Record) *digest.Digest { return &r.Launch.Mounts }),
		text("name", func(r *Record) *string { return &r.Launch.Name }),
		named("policy", func(r *Record) *digest.Digest { return &r.Launch.Policy }),
		seq(),
		text("spiffeId", func(r *Record) *string { return &r.Launch.SPIFFEID }),
		moment(),
	},
	Boot:   bootLayout(),
	Resume: bootLayout(),
	Abort: {
		boot(),
		integer("from", func(r *Record) *uint64 { return &r.From }),
		text("reason", func(r *Record) *string { return &r.Reason }),
		seq(),
		moment(),
		integer("to", func(r *Record) *uint64 { return &r.To }),
	},
	Policy: {boot(), named("policy", func(r *Record) *digest.Digest { return &r.Policy }), seq(), moment()},
}

func bootLayout() []field {
	return []field{
		boot(),
		sum("chain", func(r *Record) *Digest256 { return &r.Chain }),
		sum("keys", func(r *Record) *Digest256 { return &r.Keys }),
		text("node", func(r *Record) *string { return &r.Node }),
		text("register", func(r *Record) *string { return &r.Register }),
		seq(),
		moment(),
	}
}

// plain tells whether b stands for itself in a JSON string of a record.
func plain(b byte) bool { return b >= 0x20 && b <= 0x7e && b != '"' && b != '\\' }

// encode gives the event's bytes.
func (r *Record) encode() ([]byte, error) {
	fs := layouts[r.Kind]
	if fs == nil {
		return nil, fmt.Errorf("record kind %q does not exist", r.Kind)
	}
	b := append(make([]byte, 0, 1024), prefix...)
	b = append(append(b, r.Kind...), " {"...)
	check := *r // set validates what get gives
	for i, f := range fs {
		v := f.get(r)
		for j := range len(v) {
			if !plain(v[j]) {
				return nil, fmt.Errorf("%s record: %s %q holds a character that cannot stand in a record (printable ASCII without \" and \\ can)", r.Kind, f.key, v)
			}
		}
		if err := f.set(&check, v); err != nil {
			return nil, fmt.Errorf("%s record: %s %w", r.Kind, f.key, err)
		}
		if i > 0 {
			b = append(b, ',')
		}
		b = append(append(append(b, '"'), f.key...), `":`...)
		if f.quoted {
			v = `"` + v + `"`
		}
		b = append(b, v...)
	}
	return append(b, '}'), nil
}

// Parse reads an event's bytes. It accepts exactly what Seal makes.
func Parse(event []byte) (Record, error) {
	var r Record
	if len(event) > MaxEvent {
		return r, fmt.Errorf("event of %d bytes is over the limit of %d", len(event), MaxEvent)
	}
	rest, ok := bytes.CutPrefix(event, []byte(prefix))
	if !ok {
		return r, fmt.Errorf("event does not begin with %q", prefix)
	}
	kind, rest, ok := bytes.Cut(rest, []byte(" {"))
	r.Kind = Kind(kind)
	fs := layouts[r.Kind]
	if !ok || fs == nil {
		return Record{}, errors.New("event is of a kind that does not exist")
	}
	for i, f := range fs {
		var err error
		if rest, err = f.read(&r, rest, i == 0); err != nil {
			return Record{}, err
		}
	}
	if string(rest) != "}" {
		return Record{}, errors.New("event goes on after its last field")
	}
	return r, nil
}

// read takes one member off the front of b.
func (f *field) read(r *Record, b []byte, first bool) ([]byte, error) {
	ok := true
	expect := func(c byte) {
		if ok = ok && len(b) > 0 && b[0] == c; ok {
			b = b[1:]
		}
	}
	if !first {
		expect(',')
	}
	expect('"')
	if ok = ok && len(b) >= len(f.key) && string(b[:len(f.key)]) == f.key; ok {
		b = b[len(f.key):]
	}
	expect('"')
	expect(':')
	if f.quoted {
		expect('"')
	}
	if !ok {
		return nil, fmt.Errorf("field %s is not where RFC 8785 puts it", f.key)
	}
	n := 0
	for n < len(b) && plain(b[n]) && (f.quoted || b[n] >= '0' && b[n] <= '9') {
		n++
	}
	if err := f.set(r, string(b[:n])); err != nil {
		return nil, fmt.Errorf("field %s %w", f.key, err)
	}
	b = b[n:]
	if f.quoted {
		if expect('"'); !ok {
			return nil, fmt.Errorf("field %s does not end", f.key)
		}
	}
	return b, nil
}
