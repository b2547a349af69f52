package testnode

import (
	"fmt"
	"os"
	"strings"
)

// PSS gives a process's proportional share of memory in bytes: pages of its
// own, and of pages that several map its part.
func PSS(pid int) (int64, error) {
	path := fmt.Sprintf("/proc/%d/smaps_rollup", pid)
	b, err := os.ReadFile(path)
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(b)) {
		var kB int64
		if _, err := fmt.Sscanf(line, "Pss: %d kB", &kB); err == nil {
			return kB << 10, nil
		}
	}
	return 0, fmt.Errorf("%s does not tell a share", path)
}
