package testnode

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

// Memory gives the memory of all processes that are TERO's own: terod, the
// keeper, and sandboxes that are prepared and run nothing of a container yet.
func (n *Node) Memory() (int64, error) {
	var sum int64
	for _, pid := range n.processes() {
		if name := program(pid); name != "terod" && name != "tero-init" {
			continue
		}
		size, err := PSS(pid)
		if err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, syscall.ESRCH) {
			return 0, err
		}
		sum += size
	}
	return sum, nil
}

// program gives the name that a process was started by; "" when it has ended.
func program(pid int) string {
	args, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	name, _, _ := strings.Cut(string(args), "\x00")
	return filepath.Base(name)
}

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
