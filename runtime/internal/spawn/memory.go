package spawn

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
)

// span is a piece of memory, in whole pages.
type span struct{ start, end uintptr }

// private gives the private memory of this process that can be written, as a
// child has it too: heap, stacks and data.
func private() ([]span, error) {
	b, err := os.ReadFile("/proc/self/maps")
	if err != nil {
		return nil, fmt.Errorf("look at this process's memory: %w", err)
	}
	return parseMaps(b), nil
}

// parseMaps reads proc_pid_maps(5). Neighbours are joined; what has no memory
// (---p, reserved) is part of them.
func parseMaps(b []byte) []span {
	var list []span
	for line := range bytes.Lines(b) {
		addresses, rest, ok := bytes.Cut(line, []byte(" "))
		low, high, both := bytes.Cut(addresses, []byte("-"))
		if !ok || !both || len(rest) < 4 || rest[3] != 'p' {
			continue
		}
		if kind := string(rest[:4]); kind != "rw-p" && kind != "---p" {
			continue
		}
		start, err1 := strconv.ParseUint(string(low), 16, 64)
		end, err2 := strconv.ParseUint(string(high), 16, 64)
		if err1 != nil || err2 != nil || start >= end {
			continue
		}
		if n := len(list); n > 0 && list[n-1].end == uintptr(start) {
			list[n-1].end = uintptr(end)
			continue
		}
		list = append(list, span{uintptr(start), uintptr(end)})
	}
	return list
}
