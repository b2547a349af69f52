package server

import (
	"fmt"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// valid gives a container's own words as text that a message can hold.
func valid(s string) string { return strings.ToValidUTF8(s, "\uFFFD") }

func validAll(list []string) []string {
	out := make([]string, len(list))
	for i, s := range list {
		out[i] = valid(s)
	}
	return out
}

// bootTime is when the machine was started, to a hundredth of a second or so.
func bootTime() (time.Time, error) {
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &now); err != nil {
		return time.Time{}, fmt.Errorf("read the clock: %w", err)
	}
	return time.Now().Add(-time.Duration(now.Nano())), nil
}
