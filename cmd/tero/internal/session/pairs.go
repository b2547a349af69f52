package session

import (
	"strings"

	"tero.internal/common/fault"
)

// Pairs reads KEY=value arguments of a flag.
func Pairs(flag string, entries []string) (map[string]string, error) {
	if len(entries) == 0 {
		return nil, nil
	}
	m := make(map[string]string, len(entries))
	for _, e := range entries {
		k, v, ok := strings.Cut(e, "=")
		if !ok || k == "" {
			return nil, fault.New(fault.Invalid, "%s %q is not KEY=value", flag, e)
		}
		m[k] = v
	}
	return m, nil
}
