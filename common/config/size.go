package config

import (
	"fmt"
	"math"
	"strconv"
	"strings"
)

// Size is a number of bytes that is written with a unit: K, M, G, T (or KiB,
// MiB, GiB, TiB) are powers of 1024; kB, MB, GB, TB are powers of 1000.
type Size int64

// unit gives the bytes that a unit stands for.
func unit(name string) (int64, bool) {
	switch name {
	case "", "B":
		return 1, true
	case "K", "k", "Ki", "KiB":
		return 1 << 10, true
	case "M", "m", "Mi", "MiB":
		return 1 << 20, true
	case "G", "g", "Gi", "GiB":
		return 1 << 30, true
	case "T", "t", "Ti", "TiB":
		return 1 << 40, true
	case "kB", "KB":
		return 1e3, true
	case "MB":
		return 1e6, true
	case "GB":
		return 1e9, true
	case "TB":
		return 1e12, true
	}
	return 0, false
}

// ParseSize reads "4096", "64M", "1.5GiB".
func ParseSize(text string) (Size, error) {
	digits := strings.TrimRight(text, "BKMGTkmgti")
	bytes, ok := unit(text[len(digits):])
	if !ok || digits == "" || strings.Trim(digits, "0123456789.") != "" {
		return 0, fmt.Errorf("%q is not a size such as 4096, 64M or 1.5GiB", text)
	}
	if n, err := strconv.ParseInt(digits, 10, 64); err == nil {
		if n > math.MaxInt64/bytes {
			return 0, fmt.Errorf("size %q is too large", text)
		}
		return Size(n * bytes), nil
	}
	f, err := strconv.ParseFloat(digits, 64)
	if err != nil {
		return 0, fmt.Errorf("%q is not a size such as 4096, 64M or 1.5GiB", text)
	}
	if f *= float64(bytes); f >= math.MaxInt64 {
		return 0, fmt.Errorf("size %q is too large", text)
	}
	return Size(f), nil
}

// UnmarshalText reads what ParseSize reads.
func (s *Size) UnmarshalText(b []byte) error {
	n, err := ParseSize(string(b))
	if err != nil {
		return err
	}
	*s = n
	return nil
}

// MarshalText gives String.
func (s Size) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// String gives the size in the largest binary unit that divides it.
func (s Size) String() string {
	for _, u := range []string{"TiB", "GiB", "MiB", "KiB"} {
		if n, _ := unit(u); s != 0 && int64(s)%n == 0 {
			return strconv.FormatInt(int64(s)/n, 10) + u
		}
	}
	return strconv.FormatInt(int64(s), 10)
}
