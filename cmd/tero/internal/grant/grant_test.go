package grant

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/testing/protocmp"

	runtimev1 "tero.internal/api/runtime/v1"
	"tero.internal/common/fault"
)

const (
	bind   = runtimev1.Mount_TYPE_BIND
	volume = runtimev1.Mount_TYPE_VOLUME
	tmpfs  = runtimev1.Mount_TYPE_TMPFS
)

// inHome reads a mount as somebody in /home/u would write it.
func inHome(read func(string, string) (*runtimev1.Mount, error)) func(string) (*runtimev1.Mount, error) {
	return func(s string) (*runtimev1.Mount, error) { return read(s, "/home/u") }
}

func TestMounts(t *testing.T) {
	for _, c := range []struct {
		read func(string) (*runtimev1.Mount, error)
		text string
		want *runtimev1.Mount // refused when nil
	}{
		{inHome(Volume), "/srv:/data", &runtimev1.Mount{Type: bind, Source: "/srv", Target: "/data"}},
		{inHome(Volume), "/srv/../etc/:/data/:ro", &runtimev1.Mount{Type: bind, Source: "/etc", Target: "/data", ReadOnly: true}},
		{inHome(Volume), "./x:/data:rw,exec", &runtimev1.Mount{Type: bind, Source: "/home/u/x", Target: "/data", Exec: true}},
		{inHome(Volume), "..:/data", &runtimev1.Mount{Type: bind, Source: "/home", Target: "/data"}},
		{inHome(Volume), "data:/data", &runtimev1.Mount{Type: volume, Source: "data", Target: "/data"}},
		{inHome(Volume), "data:/data:nodev,nosuid,noexec", &runtimev1.Mount{Type: volume, Source: "data", Target: "/data"}},
		{inHome(Volume), "/data", nil},
		{inHome(Volume), "", nil},
		{inHome(Volume), ":/data", nil},
		{inHome(Volume), "data:", nil},
		{inHome(Volume), "a:/b:ro:c", nil},
		{inHome(Volume), "a:/b:Z", nil},
		{inHome(Volume), "a:/b:", nil},
		{inHome(Mount), "type=bind,source=/srv,target=/data,readonly", &runtimev1.Mount{Type: bind, Source: "/srv", Target: "/data", ReadOnly: true}},
		{inHome(Mount), "type=bind,src=x:y,dst=/data,ro=false", &runtimev1.Mount{Type: bind, Source: "/home/u/x:y", Target: "/data"}},
		{inHome(Mount), "source=data,destination=/data,exec", &runtimev1.Mount{Type: volume, Source: "data", Target: "/data", Exec: true}},
		{inHome(Mount), "type=tmpfs,target=/t,tmpfs-size=1m,tmpfs-mode=0700", &runtimev1.Mount{Type: tmpfs, Target: "/t", SizeBytes: 1 << 20, Mode: 0o700}},
		{inHome(Mount), "type=nfs,source=a,target=/t", nil},
		{inHome(Mount), "type=bind,target=/t", nil},
		{inHome(Mount), "type=bind,source=/t", nil},
		{inHome(Mount), "type=bind,source=/t,target=", nil},
		{inHome(Mount), "type=tmpfs,target=/t,tmpfs-mode=9", nil},
		{inHome(Mount), "type=tmpfs,target=/t,tmpfs-size=0", nil},
		{inHome(Mount), "type=bind,source=/t,target=/t,ro=perhaps", nil},
		{inHome(Mount), "type=bind,source=/t,target=/t,bind-propagation=shared", nil},
		{Tmpfs, "/t", &runtimev1.Mount{Type: tmpfs, Target: "/t"}},
		{Tmpfs, "/t:size=64m,mode=1777,noexec", &runtimev1.Mount{Type: tmpfs, Target: "/t", SizeBytes: 64 << 20, Mode: 0o1777}},
		{Tmpfs, "/t:exec,ro", &runtimev1.Mount{Type: tmpfs, Target: "/t", Exec: true, ReadOnly: true}},
		{Tmpfs, "", nil},
		{Tmpfs, "/t:size=much", nil},
		{Tmpfs, "/t:uid=0", nil},
	} {
		got, err := c.read(c.text)
		if c.want == nil {
			refused(t, c.text, err)
			continue
		}
		if diff := cmp.Diff(c.want, got, protocmp.Transform()); err != nil || diff != "" {
			t.Errorf("%q: %v\n%s", c.text, err, diff)
		}
	}
}

// refused checks that an error says what was typed, and what to type.
func refused(t *testing.T, text string, err error) {
	t.Helper()
	if fault.KindOf(err) != fault.Invalid || !strings.Contains(err.Error(), `"`+text+`"`) || fault.HintOf(err) == "" {
		t.Errorf("%q: %v (hint %q)", text, err, fault.HintOf(err))
	}
}

func TestDevicesAndUlimits(t *testing.T) {
	for text, want := range map[string]*runtimev1.Device{
		"/dev/fuse":             {Source: "/dev/fuse", Target: "/dev/fuse", Access: "rw"},
		"/dev/fuse:r":           {Source: "/dev/fuse", Target: "/dev/fuse", Access: "r"},
		"/dev/fuse:/dev/a":      {Source: "/dev/fuse", Target: "/dev/a", Access: "rw"},
		"/dev//fuse:/dev/a:mwr": {Source: "/dev/fuse", Target: "/dev/a", Access: "rwm"},
		"":                      nil,
		"/dev/fuse:":            nil,
		"/dev/fuse:x":           nil,
		"/dev/fuse:rr":          nil,
		"/dev/fuse::r":          nil,
		"/a:/b:r:w":             nil,
	} {
		got, err := Device(text)
		if want == nil {
			refused(t, text, err)
		} else if diff := cmp.Diff(want, got, protocmp.Transform()); err != nil || diff != "" {
			t.Errorf("%q: %v\n%s", text, err, diff)
		}
	}
	for text, want := range map[string]*runtimev1.Ulimit{
		"nofile=1024:4096":   {Name: "nofile", Soft: 1024, Hard: 4096},
		"nofile=4096":        {Name: "nofile", Soft: 4096, Hard: 4096},
		"core=0:unlimited":   {Name: "core", Hard: -1},
		"memlock=-1":         {Name: "memlock", Soft: -1, Hard: -1},
		"nofile":             nil,
		"nofile=":            nil,
		"files=1":            nil,
		"nofile=2:1":         nil,
		"nofile=unlimited:1": nil,
		"nofile=-2":          nil,
		"nofile=1:2:3":       nil,
	} {
		got, err := Ulimit(text)
		if want == nil {
			refused(t, text, err)
		} else if diff := cmp.Diff(want, got, protocmp.Transform()); err != nil || diff != "" {
			t.Errorf("%q: %v\n%s", text, err, diff)
		}
	}
}

func TestApply(t *testing.T) {
	o := Flags{
		readBps: []string{"/dev/vda:1m"}, writeIOPS: []string{"/dev/vda:10"}, readIOPS: []string{"/dev/vdb:5"},
		sysctls: []string{"net.core.somaxconn=1"}, swap: "-1", shm: "1m", cpuSet: "0",
		volumes: []string{"data:/d"}, devices: []string{"/dev/fuse"}, ulimits: []string{"core=1"},
	}
	got := &runtimev1.ContainerSpec{}
	if err := o.Apply(got); err != nil {
		t.Fatal(err)
	}
	want := &runtimev1.ContainerSpec{
		IoLimits: []*runtimev1.IoLimit{{Device: "/dev/vda", ReadBps: 1 << 20, WriteIops: 10}, {Device: "/dev/vdb", ReadIops: 5}},
		Sysctls:  map[string]string{"net.core.somaxconn": "1"}, MemorySwapBytes: -1, ShmBytes: 1 << 20, CpuSet: "0",
		Mounts:  []*runtimev1.Mount{{Type: volume, Source: "data", Target: "/d"}},
		Devices: []*runtimev1.Device{{Source: "/dev/fuse", Target: "/dev/fuse", Access: "rw"}},
		Ulimits: []*runtimev1.Ulimit{{Name: "core", Soft: 1, Hard: 1}},
	}
	if diff := cmp.Diff(want, got, protocmp.Transform()); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]string{"volume data", "device /dev/fuse:rw", "sysctl net.core.somaxconn", "ulimit core"}, Loosened(got)); diff != "" {
		t.Error(diff)
	}
	wantLimits := []string{"CPUs 0", "any swap", "1.0 MiB in /dev/shm", "/dev/vda 1048576 bytes read a second", "/dev/vda 10 writes a second", "/dev/vdb 5 reads a second"}
	if diff := cmp.Diff(wantLimits, Limits(got)); diff != "" {
		t.Error(diff)
	}
	for text, o := range map[string]Flags{
		"/dev/vda":  {readBps: []string{"/dev/vda"}},
		"/dev/vda:": {writeBps: []string{"/dev/vda:"}},
		"a:-1":      {readIOPS: []string{"a:-1"}},
		":1":        {writeIOPS: []string{":1"}},
	} {
		refused(t, text, o.Apply(&runtimev1.ContainerSpec{}))
	}
	both := Flags{readOnly: true}
	if err := both.Apply(&runtimev1.ContainerSpec{WritableRootfs: true}); fault.KindOf(err) != fault.Invalid {
		t.Error(err)
	}
}

// FuzzFlags feeds every reader anything: what is accepted is whole, and what is
// not is a fault of the user's.
func FuzzFlags(f *testing.F) {
	for _, s := range []string{"/srv:/data:ro", "type=bind,source=/a,target=/b,readonly", "/t:size=1m,mode=700", "/dev/a:/dev/b:rwm", "nofile=1:2", "/dev/a:1m"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		check := func(err error) bool {
			if err != nil && fault.KindOf(err) != fault.Invalid {
				t.Errorf("%q: %v", s, err)
			}
			return err == nil
		}
		for _, read := range []func(string) (*runtimev1.Mount, error){inHome(Volume), inHome(Mount), Tmpfs} {
			m, err := read(s)
			if !check(err) {
				continue
			}
			if m.GetTarget() == "" || m.GetType() == 0 || m.GetMode() > 0o1777 || m.GetSizeBytes() < 0 ||
				m.GetType() != tmpfs && m.GetSource() == "" || m.GetType() == bind && !strings.HasPrefix(m.GetSource(), "/") {
				t.Errorf("%q gives %v", s, m)
			}
		}
		if d, err := Device(s); check(err) && (d.GetSource() == "" || d.GetTarget() == "" || d.GetAccess() == "" || strings.Trim(d.GetAccess(), "rwm") != "") {
			t.Errorf("%q gives %v", s, d)
		}
		if u, err := Ulimit(s); check(err) && (u.GetSoft() < -1 || u.GetHard() < -1) {
			t.Errorf("%q gives %v", s, u)
		}
		if device, n, err := rate("device-read-bps", s, true); check(err) && (device == "" || n == 0) {
			t.Errorf("%q gives %s %d", s, device, n)
		}
	})
}
