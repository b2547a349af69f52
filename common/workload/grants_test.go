package workload

import (
	"encoding/json"
	"strings"
	"testing"
)

func TestValidateGrants(t *testing.T) {
	bind := Mount{Type: MountBind, Source: "/srv/data", Target: "/data"}
	device := Device{Source: "/dev/fuse", Target: "/dev/fuse", Access: "rw"}
	for name, c := range map[string]struct {
		change func(*Spec)
		want   string // part of the refusal; accepted when empty
	}{
		"bind":              {func(s *Spec) { s.Mounts = []Mount{bind} }, ""},
		"volume":            {func(s *Spec) { s.Mounts = []Mount{{Type: MountVolume, Source: "data", Target: "/data"}} }, ""},
		"tmpfs":             {func(s *Spec) { s.Mounts = []Mount{{Type: MountTmpfs, Target: "/t", SizeBytes: 1 << 20, Mode: 0o700}} }, ""},
		"no type":           {func(s *Spec) { s.Mounts = []Mount{{Target: "/t"}} }, `type ""`},
		"whole node":        {func(s *Spec) { s.Mounts = []Mount{{Type: MountBind, Source: "/", Target: "/t"}} }, "whole file system"},
		"relative source":   {func(s *Spec) { s.Mounts = []Mount{{Type: MountBind, Source: "srv", Target: "/t"}} }, "not an absolute path"},
		"climbing source":   {func(s *Spec) { s.Mounts = []Mount{{Type: MountBind, Source: "/srv/../etc", Target: "/t"}} }, "shortest form"},
		"slash at the end":  {func(s *Spec) { s.Mounts = []Mount{{Type: MountBind, Source: "/srv/", Target: "/t"}} }, "shortest form"},
		"line feed":         {func(s *Spec) { s.Mounts = []Mount{{Type: MountBind, Source: "/s\n", Target: "/t"}} }, "control characters"},
		"volume as path":    {func(s *Spec) { s.Mounts = []Mount{{Type: MountVolume, Source: "../x", Target: "/t"}} }, "DNS label"},
		"on the root":       {func(s *Spec) { s.Mounts = []Mount{{Type: MountTmpfs, Target: "/"}} }, "nothing can be mounted on /"},
		"on proc":           {func(s *Spec) { s.Mounts = []Mount{{Type: MountTmpfs, Target: "/proc/sys"}} }, "belongs to the sandbox"},
		"on sys":            {func(s *Spec) { s.Mounts = []Mount{{Type: MountTmpfs, Target: "/sys"}} }, "belongs to the sandbox"},
		"on dev":            {func(s *Spec) { s.Mounts = []Mount{{Type: MountTmpfs, Target: "/dev/shm"}} }, "belongs to the sandbox"},
		"like dev":          {func(s *Spec) { s.Mounts = []Mount{{Type: MountTmpfs, Target: "/develop"}} }, ""},
		"on hosts":          {func(s *Spec) { s.Mounts = []Mount{{Type: MountTmpfs, Target: "/etc/hosts"}} }, "host names"},
		"twice":             {func(s *Spec) { s.Mounts = []Mount{bind, bind} }, "two things"},
		"size of a bind":    {func(s *Spec) { b := bind; b.SizeBytes = 1 << 20; s.Mounts = []Mount{b} }, "only a tmpfs"},
		"many":              {func(s *Spec) { s.Mounts = make([]Mount, 65) }, "more than"},
		"device":            {func(s *Spec) { s.Devices = []Device{device} }, ""},
		"device elsewhere":  {func(s *Spec) { s.Devices = []Device{{Source: "/tmp/x", Target: "/dev/x", Access: "r"}} }, "below /dev"},
		"device over null":  {func(s *Spec) { s.Devices = []Device{{Source: "/dev/x", Target: "/dev/null", Access: "r"}} }, "one of its own"},
		"device in pts":     {func(s *Spec) { s.Devices = []Device{{Source: "/dev/x", Target: "/dev/pts/0", Access: "r"}} }, "belongs to the sandbox"},
		"access":            {func(s *Spec) { s.Devices = []Device{{Source: "/dev/x", Target: "/dev/x", Access: "wr"}} }, "in this order"},
		"no access":         {func(s *Spec) { s.Devices = []Device{{Source: "/dev/x", Target: "/dev/x"}} }, "in this order"},
		"ulimit":            {func(s *Spec) { s.Ulimits = []Ulimit{{"nofile", 1, Unlimited}} }, ""},
		"ulimit unknown":    {func(s *Spec) { s.Ulimits = []Ulimit{{"files", 1, 1}} }, "is not one of"},
		"ulimit upside":     {func(s *Spec) { s.Ulimits = []Ulimit{{"nofile", 2, 1}} }, "above the hard limit"},
		"ulimit negative":   {func(s *Spec) { s.Ulimits = []Ulimit{{"nofile", -2, 1}} }, "negative"},
		"ulimit twice":      {func(s *Spec) { s.Ulimits = []Ulimit{{"nofile", 1, 1}, {"nofile", 1, 1}} }, "twice"},
		"sysctl":            {func(s *Spec) { s.Sysctls = map[string]string{"net.core.somaxconn": "1", "kernel.sem": "1 2 3 4"} }, ""},
		"sysctl of node":    {func(s *Spec) { s.Sysctls = map[string]string{"kernel.core_pattern": "|/x"} }, "whole node"},
		"sysctl near sem":   {func(s *Spec) { s.Sysctls = map[string]string{"kernel.semaphore": "1"} }, "whole node"},
		"sysctl as path":    {func(s *Spec) { s.Sysctls = map[string]string{"net/../kernel/core_pattern": "1"} }, "not a name"},
		"sysctl climbing":   {func(s *Spec) { s.Sysctls = map[string]string{"net..kernel": "1"} }, "not a name"},
		"sysctl empty":      {func(s *Spec) { s.Sysctls = map[string]string{"net.core.somaxconn": ""} }, "not a value"},
		"shm":               {func(s *Spec) { s.ShmBytes = 1 }, "less than a page"},
		"shares":            {func(s *Spec) { s.Resources.CPUShares = 1 }, "CPU shares"},
		"cpus":              {func(s *Spec) { s.Resources.CPUSet = "0-2,5" }, ""},
		"cpus wrong":        {func(s *Spec) { s.Resources.CPUSet = "0-" }, "list such as"},
		"weight":            {func(s *Spec) { s.Resources.IOWeight = 5 }, "IO weight"},
		"swap alone":        {func(s *Spec) { s.Resources.MemorySwap = 64 << 20 }, "needs a memory limit"},
		"swap too small":    {func(s *Spec) { s.Resources.MemoryBytes, s.Resources.MemorySwap = 64<<20, 32<<20 }, "under the memory limit"},
		"swap without end":  {func(s *Spec) { s.Resources.MemoryBytes, s.Resources.MemorySwap = 64<<20, Unlimited }, ""},
		"reservation":       {func(s *Spec) { s.Resources.MemoryBytes, s.Resources.MemoryReservation = 64<<20, 128<<20 }, "above the limit"},
		"io":                {func(s *Spec) { s.Resources.IO = []IOLimit{{Device: "/dev/vda", ReadBps: 1}} }, ""},
		"io without limit":  {func(s *Spec) { s.Resources.IO = []IOLimit{{Device: "/dev/vda"}} }, "no limit"},
		"io of what is not": {func(s *Spec) { s.Resources.IO = []IOLimit{{Device: "/etc", ReadBps: 1}} }, "below /dev"},
	} {
		t.Run(name, func(t *testing.T) {
			s := Spec{Name: "a", Image: "i", Network: "none"}
			c.change(&s)
			err := s.Validate()
			if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
				t.Errorf("%v, want %q", err, c.want)
			}
		})
	}
}

// FuzzGrants feeds what an admission plugin may hand back: whatever is
// accepted holds what the sandbox relies on.
func FuzzGrants(f *testing.F) {
	f.Add([]byte(`{"mounts":[{"type":"bind","source":"/srv","target":"/data"}],"devices":[{"source":"/dev/a","target":"/dev/b","access":"rw"}],"sysctls":{"net.a":"1"}}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		var s Spec
		if json.Unmarshal(b, &s) != nil {
			return
		}
		s.Name, s.Image, s.Network = "a", "i", "none"
		if s.Validate() != nil {
			return
		}
		for _, m := range s.Mounts {
			if !strings.HasPrefix(m.Target, "/") || strings.Contains(m.Target+"/", "/../") || strings.HasPrefix(m.Target+"/", "/proc/") || strings.ContainsRune(m.Target+m.Source, 0) {
				t.Errorf("accepted %+v", m)
			}
		}
		for _, d := range s.Devices {
			if !strings.HasPrefix(d.Target, "/dev/") || strings.Contains(d.Target+d.Source, "..//") {
				t.Errorf("accepted %+v", d)
			}
		}
		for name := range s.Sysctls {
			if strings.ContainsAny(name, "/") || strings.Contains(name, "..") {
				t.Errorf("accepted %q", name)
			}
		}
	})
}
