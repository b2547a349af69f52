package front

import (
	"math"
	"strconv"
	"strings"
	"unicode/utf8"

	"tero.internal/cmd/tero/internal/wire"
)

// set takes a flag's value; false when the CLI must look at it.
func (p *parser) set(f *flag, value string) bool {
	switch f.kind {
	case nodeSocket:
		p.socket = value
		return true
	case entrypoint:
		p.entrypoint = value
		return true
	case text:
		return p.text(f.field, value)
	case yes:
		v, err := strconv.ParseBool(value)
		if f.field == specOpenStdin {
			p.stdin = v
		}
		p.spec = wire.AppendBool(p.spec, f.field, v)
		return err == nil
	case number:
		n, err := strconv.ParseInt(value, 0, 64)
		return p.number(f.field, n, err == nil)
	case size:
		n, ok := parseSize(value)
		return p.number(f.field, n, ok)
	case cores:
		n, ok := parseCores(value)
		return p.number(f.field, n, ok)
	case variable:
		key, _, given := strings.Cut(value, "=")
		if !given {
			value = key + "=" + p.getenv(key)
		}
		return key != "" && p.text(f.field, value)
	case pair:
		key, v, ok := strings.Cut(value, "=")
		entry := wire.AppendBytes(wire.AppendBytes(nil, 1, key), 2, v)
		p.spec = wire.AppendBytes(p.spec, f.field, entry)
		return ok && key != "" && utf8.ValidString(value)
	case capability:
		value = strings.ToUpper(value)
		if !strings.HasPrefix(value, "CAP_") {
			value = "CAP_" + value
		}
		return p.text(f.field, value)
	case signalName:
		value = strings.ToUpper(value)
		if _, err := strconv.Atoi(value); err != nil && value != "" && !strings.HasPrefix(value, "SIG") {
			value = "SIG" + value
		}
		return p.text(f.field, value)
	}
	return false
}

// text adds a string, which protobuf wants to be UTF-8.
func (p *parser) text(field int, s string) bool {
	p.spec = wire.AppendBytes(p.spec, field, s)
	return utf8.ValidString(s)
}

func (p *parser) number(field int, n int64, ok bool) bool {
	p.spec = wire.AppendNumber(p.spec, field, uint64(n)) //nolint:gosec // as protobuf encodes int64
	return ok
}

// parseSize reads a whole number of the units that powers of 1024 have; "" is 0.
func parseSize(s string) (int64, bool) {
	if s == "" {
		return 0, true
	}
	digits := strings.TrimRight(s, "BKMGTkmgti")
	shift := 0
	switch s[len(digits):] {
	case "", "B":
	case "K", "k", "Ki", "KiB":
		shift = 10
	case "M", "m", "Mi", "MiB":
		shift = 20
	case "G", "g", "Gi", "GiB":
		shift = 30
	default:
		return 0, false
	}
	n, ok := parseDigits(digits)
	return n << shift, ok && n <= math.MaxInt64>>shift
}

// parseCores reads cores with at most three decimal places; "" is 0.
func parseCores(s string) (int64, bool) {
	if s == "" {
		return 0, true
	}
	whole, part, _ := strings.Cut(s, ".")
	if len(whole) > 6 || len(part) > 3 {
		return 0, false
	}
	n, ok := parseDigits(whole + (part + "000")[:3])
	return n, ok && n > 0 && n <= 1e9
}

// parseDigits reads a number of decimal digits alone.
func parseDigits(s string) (int64, bool) {
	if s == "" || strings.Trim(s, "0123456789") != "" {
		return 0, false
	}
	n, err := strconv.ParseInt(s, 10, 64)
	return n, err == nil
}
