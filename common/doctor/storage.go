package doctor

import (
	"context"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// leastSpace is the free space under which images soon find no place.
const leastSpace = 2 << 30

// stateDir is where the node keeps its state: TERO_STATE_DIR, else its default.
func stateDir() string {
	if dir := os.Getenv("TERO_STATE_DIR"); dir != "" {
		return dir
	}
	return "/var/lib/tero"
}

func storageChecks(context.Context) []Check { return []Check{spaceCheck(stateDir()), clockCheck()} }

func spaceCheck(dir string) Check {
	c := check("host", "disk space", "images, logs and the launch log, in "+dir)
	place := dir
	for {
		if _, err := os.Stat(place); err == nil || place == filepath.Dir(place) {
			break
		}
		place = filepath.Dir(place) // the node makes the folder when it starts
	}
	var st unix.Statfs_t
	if err := unix.Statfs(place, &st); err != nil {
		return c.warn("", "%s: %s", place, reason(err))
	}
	free := st.Bavail * uint64(st.Bsize) //nolint:gosec // block sizes are positive
	if free < leastSpace {
		return c.warn("free some space there, or set TERO_STATE_DIR", "%s free", bytesText(free))
	}
	return c.ok("%s free", bytesText(free))
}

// clockCheck asks the kernel whether something keeps the clock right.
func clockCheck() Check {
	c := check("host", "clock", "certificates and evidence are dated")
	const hint = "run chrony or systemd-timesyncd"
	var tx unix.Timex
	state, err := unix.Adjtimex(&tx)
	switch {
	case err != nil:
		return c.warn(hint, "its state cannot be read: %s", reason(err))
	case time.Now().Year() < 2026:
		return c.missing("set the date; "+hint, "it says %s", time.Now().UTC().Format(time.DateOnly))
	case state == unix.TIME_ERROR || tx.Status&unix.STA_UNSYNC != 0:
		return c.warn(hint, "not synchronised, as far as the kernel knows")
	}
	return c.ok("synchronised")
}
