package cgroup

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// TestMeter reads the files of each layout of hierarchies.
func TestMeter(t *testing.T) {
	v1 := map[string]string{
		"cpuacct/cpuacct.usage": "5000000000\n", "cpu/cpu.stat": "nr_periods 3\nnr_throttled 1\nthrottled_time 7000\n",
		"memory/memory.usage_in_bytes": "1000\n", "memory/memory.max_usage_in_bytes": "2000\n", "memory/memory.limit_in_bytes": "9223372036854771712\n",
		"memory/memory.stat": "cache 1\ninactive_file 100\ntotal_inactive_file 300\n", "pids/pids.current": "3\n", "pids/pids.max": "max\n",
		"blkio/blkio.throttle.io_service_bytes":           "Total 0\n",
		"blkio/blkio.throttle.io_service_bytes_recursive": "8:0 Read 4096\n8:0 Write 512\n8:0 Sync 1\n8:16 Read 1\nTotal 4609\n",
	}
	v2 := map[string]string{
		"v2/cpu.stat": "usage_usec 6000000\nthrottled_usec 5\n", "v2/memory.current": "1000\n", "v2/memory.peak": "3000\n", "v2/memory.max": "4096\n",
		"v2/memory.stat": "inactive_file 2000\n", "v2/pids.current": "4\n", "v2/pids.max": "10\n",
		"v2/io.stat": "8:0 rbytes=10 wbytes=20 rios=1 wios=1 dbytes=0 dios=0\n8:16 rbytes=1 wbytes=2\n",
	}
	hybrid := map[string]string{"v2/cpu.stat": "usage_usec 1\n", "cpuacct/cpuacct.usage": "7\n", "cpu/cpu.stat": "throttled_time 9\n", "pids/pids.current": "1\n"}
	for name, c := range map[string]struct {
		files map[string]string
		want  Stats
	}{
		"v1": {v1, Stats{
			CPU: 5 * time.Second, Throttled: 7 * time.Microsecond, Memory: 700, MemoryPeak: 2000, Pids: 3, IO: true, Read: 4097, Written: 512,
		}},
		"v2": {v2, Stats{
			CPU: 6 * time.Second, Throttled: 5 * time.Microsecond, MemoryPeak: 3000, MemoryLimit: 4096, Pids: 4, PidsLimit: 10, IO: true, Read: 11, Written: 22,
		}},
		"hybrid": {hybrid, Stats{CPU: 7, Throttled: 9, Pids: 1}},
		"none":   {nil, Stats{}},
	} {
		t.Run(name, func(t *testing.T) {
			g := Group{}
			root := t.TempDir()
			for _, dir := range []string{"v2", "cpu", "cpuacct", "memory", "pids", "blkio"} {
				path := filepath.Join(root, dir)
				if err := os.Mkdir(path, 0o700); err != nil {
					t.Fatal(err)
				}
				g.Dirs = append(g.Dirs, path)
			}
			g.V2 = g.Dirs[0]
			for file, content := range c.files {
				if err := os.WriteFile(filepath.Join(root, file), []byte(content), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			m := g.Meter()
			got, err := m.Read()
			if diff := cmp.Diff(c.want, got); diff != "" || err != nil {
				t.Error(err, diff)
			}
			if err := os.RemoveAll(root); err != nil {
				t.Fatal(err)
			}
			if _, err := m.Read(); c.files != nil && !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("of a cgroup that is gone: %v", err)
			}
		})
	}
}
