package cgroup

import (
	"bytes"
	"errors"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// Stats is what a cgroup uses and may use. What the machine does not count is 0.
type Stats struct {
	// CPU is the CPU time so far, Throttled how long the limit held it up.
	CPU, Throttled time.Duration
	// Memory is in bytes, without the page cache that can go at once; Peak is
	// the most so far, with it. MemoryLimit is 0 when there is none.
	Memory, MemoryPeak, MemoryLimit uint64
	// Pids counts tasks; PidsLimit is 0 when there is none.
	Pids, PidsLimit uint64
	// Read and Written are bytes of block devices; IO says whether they are counted.
	IO            bool
	Read, Written uint64
}

// Meter reads the statistics of one cgroup again and again.
type Meter struct {
	files map[string]string // path by name, of those that are there
}

// measured are the files of both versions that a Meter reads.
func measured() []string {
	return []string{
		"cpuacct.usage", "cpu.stat",
		"memory.usage_in_bytes", "memory.max_usage_in_bytes", "memory.limit_in_bytes", "memory.stat",
		"memory.current", "memory.peak", "memory.max",
		"pids.current", "pids.max",
		"io.stat", "blkio.throttle.io_service_bytes_recursive", "blkio.throttle.io_service_bytes",
	}
}

// Meter finds the files of the cgroup. On a hybrid host the v2 folder counts
// CPU time too, beside v1's own: a controller's own file is taken where there is one.
func (g *Group) Meter() *Meter {
	m := &Meter{files: map[string]string{}}
	dirs := slices.Clone(g.Dirs)
	slices.SortStableFunc(dirs, func(a, b string) int { return version(g, a) - version(g, b) })
	for _, dir := range dirs {
		for _, name := range measured() {
			path := filepath.Join(dir, name)
			if _, known := m.files[name]; known {
				continue
			}
			if _, err := os.Lstat(path); err == nil {
				m.files[name] = path
			}
		}
	}
	return m
}

func version(g *Group, dir string) int {
	if dir == g.V2 {
		return 2
	}
	return 1
}

// Read reads the statistics. It gives fs.ErrNotExist for a cgroup that is gone.
func (m *Meter) Read() (Stats, error) {
	r := reading{meter: m}
	s := Stats{
		Memory: r.first("memory.usage_in_bytes", "memory.current"), MemoryPeak: r.first("memory.max_usage_in_bytes", "memory.peak"),
		MemoryLimit: limit(r.first("memory.limit_in_bytes", "memory.max")),
		Pids:        r.first("pids.current"), PidsLimit: limit(r.first("pids.max")),
	}
	cpu := r.table("cpu.stat")
	s.Throttled = time.Duration(cpu["throttled_usec"])*time.Microsecond + time.Duration(cpu["throttled_time"]) //nolint:gosec // a duration
	s.CPU = time.Duration(cpu["usage_usec"]) * time.Microsecond                                                //nolint:gosec // a duration
	if _, ok := m.files["cpuacct.usage"]; ok {
		s.CPU = time.Duration(r.first("cpuacct.usage")) //nolint:gosec // a duration
	}
	memory := r.table("memory.stat")
	inactive, ok := memory["total_inactive_file"] // v1, with what is below
	if !ok {
		inactive = memory["inactive_file"]
	}
	s.Memory -= min(inactive, s.Memory)
	r.io(&s)
	return s, r.err
}

// limit gives 0 for what the kernel writes when there is no limit: max on v2,
// the largest number of pages on v1.
func limit(n uint64) uint64 {
	if n >= math.MaxInt64&^0xffff {
		return 0
	}
	return n
}

// reading is one pass over the files; err is the first failure.
type reading struct {
	meter *Meter
	err   error
}

func (r *reading) file(name string) []byte {
	path, ok := r.meter.files[name]
	if !ok || r.err != nil {
		return nil
	}
	b, err := os.ReadFile(path) //nolint:gosec // a cgroup of ours
	if errors.Is(err, unix.ENODEV) {
		err = fs.ErrNotExist
	}
	if errors.Is(err, unix.EOPNOTSUPP) { // a counter that this kernel has switched off
		return nil
	}
	r.err = err
	return b
}

// first gives the number in the first of the files that is there.
func (r *reading) first(names ...string) uint64 {
	for _, name := range names {
		if b := bytes.TrimSpace(r.file(name)); len(b) > 0 {
			return number(b)
		}
	}
	return 0
}

func number(b []byte) uint64 {
	if string(b) == "max" {
		return math.MaxUint64
	}
	n, _ := strconv.ParseUint(string(b), 10, 64) // the kernel's own; 0 for what is no number
	return n
}

// table reads lines of a name and a number.
func (r *reading) table(name string) map[string]uint64 {
	t := map[string]uint64{}
	for line := range bytes.Lines(r.file(name)) {
		if key, value, ok := bytes.Cut(bytes.TrimSpace(line), []byte(" ")); ok {
			t[string(key)] = number(value)
		}
	}
	return t
}

// io adds up all block devices: "8:0 rbytes=4096 wbytes=0 ..." on v2, "8:0 Read
// 4096" on v1.
func (r *reading) io(s *Stats) {
	for _, name := range measured()[11:] {
		if _, ok := r.meter.files[name]; !ok {
			continue
		}
		s.IO = true
		for line := range bytes.Lines(r.file(name)) {
			fields := bytes.Fields(line)
			if len(fields) == 3 && string(fields[1]) == "Read" {
				s.Read += number(fields[2])
			}
			if len(fields) == 3 && string(fields[1]) == "Write" {
				s.Written += number(fields[2])
			}
			for _, f := range fields[min(1, len(fields)):] {
				if v, ok := bytes.CutPrefix(f, []byte("rbytes=")); ok {
					s.Read += number(v)
				}
				if v, ok := bytes.CutPrefix(f, []byte("wbytes=")); ok {
					s.Written += number(v)
				}
			}
		}
		return
	}
}

// PIDs gives the processes of the cgroup in the host's numbers.
func (g *Group) PIDs() ([]int, error) {
	for _, dir := range g.Dirs {
		pids, err := g.pids(dir)
		if err != nil || len(pids) > 0 {
			return pids, err
		}
	}
	return nil, nil
}
