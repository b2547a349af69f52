package cgroup

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// ErrInUse says that a cgroup uses more memory than a new limit would allow.
var ErrInUse = errors.New("more memory than that is in use")

// Update sets limits of a cgroup that is in use. When the kernel refuses one of
// them, those set before get their old values back.
func (t *Tree) Update(_ context.Context, g *Group, limits *specs.LinuxResources) (err error) {
	var done []func() error
	defer func() {
		if err == nil {
			return
		}
		for _, restore := range slices.Backward(done) {
			err = errors.Join(err, restore())
		}
	}()
	if err := t.checkEntered(g, limits); err != nil {
		return err
	}
	for _, dir := range g.Dirs {
		h := t.of(dir)
		if h == nil {
			continue // made by an earlier run, with a controller that is not used any more
		}
		list := settings(h, limits)
		if raises(dir, list) { // memory with swap must never be less than memory
			slices.Reverse(list)
		}
		for _, l := range list {
			old, err := read(dir, l.file)
			if errors.Is(err, fs.ErrNotExist) && l.other != "" {
				l.file, l.value = l.other, l.otherValue
				old, err = read(dir, l.file)
			}
			if errors.Is(err, fs.ErrNotExist) {
				if l.optional {
					continue
				}
				return l.missing(dir)
			}
			if err != nil {
				return fmt.Errorf("change a limit: %w", err)
			}
			if l.file == "memory.max" { // it would kill, where v1's file refuses
				if err := shrink(dir, l.value); err != nil {
					return err
				}
			}
			if err := write(dir, l.file, l.value); err != nil {
				if errors.Is(err, unix.EBUSY) {
					err = fmt.Errorf("%w (%w)", ErrInUse, err)
				}
				return err
			}
			done = append(done, func() error { return write(dir, l.file, old) })
		}
	}
	return nil
}

// raises tells whether a v1 memory limit is above the present one.
func raises(dir string, list []setting) bool {
	for _, l := range list {
		if l.file != "memory.limit_in_bytes" {
			continue
		}
		old, err := read(dir, l.file)
		if err != nil {
			return false // Update finds out why
		}
		before, _ := strconv.ParseInt(old, 10, 64)
		after, _ := strconv.ParseInt(l.value, 10, 64)
		return after > before
	}
	return false
}

// shrink makes a v2 cgroup give memory back until it fits under limit.
func shrink(dir, limit string) error {
	most, err := strconv.ParseInt(limit, 10, 64)
	if err != nil {
		return nil //nolint:nilerr // "max" fits all
	}
	used := func() (int64, error) {
		s, err := read(dir, "memory.current")
		if err != nil {
			return 0, fmt.Errorf("change a limit: %w", err)
		}
		return strconv.ParseInt(s, 10, 64)
	}
	now, err := used()
	if err != nil || now <= most {
		return err
	}
	// Linux 5.19 and later; what it could not take back shows below.
	_ = write(dir, "memory.reclaim", strconv.FormatInt(now-most, 10))
	if now, err = used(); err == nil && now > most {
		err = fmt.Errorf("%w: %d bytes", ErrInUse, now)
	}
	return err
}

func read(dir, file string) (string, error) {
	b, err := os.ReadFile(filepath.Join(dir, file)) //nolint:gosec // a cgroup of ours
	return strings.TrimSpace(string(b)), err
}
