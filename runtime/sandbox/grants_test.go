package sandbox_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"tero.internal/common/fault"
	"tero.internal/common/workload"
	"tero.internal/runtime/internal/rootfs"
	"tero.internal/runtime/sandbox/sandboxtest"
	"tero.internal/runtime/volume"
)

// shared is a folder outside of the node's own, which a container may be given.
func shared(tb testing.TB) string {
	tb.Helper()
	dir := tb.TempDir()
	if err := os.Chmod(dir, 0o755); err != nil {
		tb.Fatal(err)
	}
	return dir
}

func put(tb testing.TB, path, content string) {
	tb.Helper()
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		tb.Fatal(err)
	}
}

// run launches the probe with mounts and the like, and gives its output.
func run(tb testing.TB, s *sandboxtest.Suite, change func(*workload.Spec), args ...string) string {
	tb.Helper()
	spec := s.Spec(tb, args...)
	change(&spec)
	exit, out := s.Run(tb, spec)
	if exit.Code != 0 {
		tb.Fatalf("%v: %+v %s", args, exit, out)
	}
	return out
}

func mounts(m ...workload.Mount) func(*workload.Spec) {
	return func(s *workload.Spec) { s.Mounts = m }
}

func TestBindMounts(t *testing.T) {
	s := newNode(t).suite()
	dir := shared(t)
	put(t, filepath.Join(dir, "file"), "content\n")
	probe, err := os.ReadFile(filepath.Join(built.layer, "probe"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "program"), probe, 0o755); err != nil {
		t.Fatal(err)
	}
	bind := workload.Mount{Type: workload.MountBind, Source: dir, Target: "/data/deep"}
	readOnly, exec := bind, bind
	readOnly.ReadOnly, exec.Exec = true, true
	file := workload.Mount{Type: workload.MountBind, Source: filepath.Join(dir, "file"), Target: "/tmp/sub/file", ReadOnly: true}
	for name, c := range map[string]struct {
		mounts []workload.Mount
		args   string
		want   string
	}{
		"read":                 {[]workload.Mount{bind}, "print /data/deep/file", "content\n"},
		"owner":                {[]workload.Mount{bind}, "stat /data/deep/file", "/data/deep/file 100644 0:0 0\n"},
		"write":                {[]workload.Mount{bind}, "touch /data/deep/new", "/data/deep/new done\n"},
		"read-only":            {[]workload.Mount{readOnly}, "touch /data/deep/new", "/data/deep/new open /data/deep/new: read-only file system\n"},
		"no execution":         {[]workload.Mount{bind}, "run /data/deep/program echo ran", "fork/exec /data/deep/program: permission denied\n"},
		"execution asked for":  {[]workload.Mount{exec}, "run /data/deep/program echo ran", "ran\ndone\n"},
		"execution, read-only": {[]workload.Mount{readOnly}, "run /data/deep/program echo ran", "ran\ndone\n"},
		"a file below a tmpfs": {[]workload.Mount{file}, "print /tmp/sub/file", "content\n"},
		"one in another": {
			[]workload.Mount{bind, {Type: workload.MountTmpfs, Target: "/data/deep/in"}},
			"touch /data/deep/in/x", "/data/deep/in/x done\n",
		},
		"instead of /tmp": {[]workload.Mount{{Type: workload.MountBind, Source: dir, Target: "/tmp"}}, "print /tmp/file", "content\n"},
	} {
		t.Run(name, func(t *testing.T) {
			if out := run(t, s, mounts(c.mounts...), strings.Fields(c.args)...); out != c.want {
				t.Errorf("%q, want %q", out, c.want)
			}
		})
	}
	if st, err := os.Stat(filepath.Join(dir, "new")); err != nil || st.Sys() == nil {
		t.Error(err)
	}
	out := run(t, s, mounts(bind, file), "look")
	seen := 0
	for _, m := range sandboxtest.ParseView(t, out).Mounts {
		if f := strings.Fields(m); f[4] == "/data/deep" || f[4] == "/tmp/sub/file" {
			seen++
			if !strings.Contains(f[5], "nosuid") || !strings.Contains(f[5], "nodev") {
				t.Errorf("options of %s", m)
			}
		}
	}
	if seen != 2 {
		t.Errorf("%d mounts are there", seen)
	}
}

func TestRefusedSources(t *testing.T) {
	n := newNode(t)
	s := n.suite()
	dir := shared(t)
	if err := os.Symlink("/etc", filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	alias := t.TempDir() // a second name of TERO's own folder
	if err := unix.Mount(n.config.StateDir, alias, "", unix.MS_BIND, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(alias, 0); err != nil {
			t.Error(err)
		}
	})
	for source, want := range map[string]string{
		filepath.Join(dir, "nothing"):                  "does not exist",
		filepath.Join(dir, "link"):                     "symbolic link",
		filepath.Join(dir, "link", "ssl"):              "symbolic link",
		n.config.StateDir:                              "TERO's own",
		filepath.Dir(n.config.StateDir):                "TERO's own",
		filepath.Join(n.config.StateDir, "containers"): "TERO's own",
		filepath.Join(n.config.RunDir, "keeper.sock"):  "TERO's own",
		alias:                              "TERO's own",
		filepath.Join(alias, "containers"): "TERO's own",
		"/proc/sys":                        "proc",
		"/sys/fs":                          "sysfs",
		"/dev/null":                        "is a device",
		"/dev/pts":                         "devpts",
	} {
		spec := s.Spec(t, "true")
		spec.Mounts = []workload.Mount{{Type: workload.MountBind, Source: source, Target: "/data"}}
		_, err := s.TryLaunch(t, spec)
		if err == nil || !strings.Contains(err.Error(), want) || fault.HintOf(err) == "" {
			t.Errorf("%s: %v (hint %q), want %q", source, err, fault.HintOf(err), want)
		}
	}
	if list, err := n.List(t.Context()); err != nil || len(list) != 0 {
		t.Errorf("left: %v, %v", list, err)
	}
}

// hostile is the image with links where mount points are to be.
func hostile(tb testing.TB, links map[string]string, compose bool) workload.Image {
	tb.Helper()
	layer := tb.TempDir()
	for name, to := range links {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(layer, name)), 0o755); err != nil {
			tb.Fatal(err)
		}
		if err := os.Symlink(to, filepath.Join(layer, name)); err != nil {
			tb.Fatal(err)
		}
	}
	return over(tb, layer, compose)
}

// over is the probe's image with a layer over it, composed or not.
func over(tb testing.TB, layer string, compose bool) workload.Image {
	tb.Helper()
	if err := os.Chmod(layer, 0o755); err != nil {
		tb.Fatal(err)
	}
	i := image()
	i.Layers, i.Erofs = append([]string{layer}, i.Layers...), ""
	if !compose || built.erofs == "" { // TestMain said why
		return i
	}
	s, err := rootfs.OpenScaffold(tb.TempDir())
	if err != nil {
		tb.Fatal(err)
	}
	defer s.Close()
	f, err := os.Create(filepath.Join(tb.TempDir(), "erofs"))
	if err != nil {
		tb.Fatal(err)
	}
	if _, err := s.Compose(tb.Context(), f, i.Layers); err != nil {
		tb.Fatal(err)
	}
	if err := f.Close(); err != nil {
		tb.Fatal(err)
	}
	i.Erofs = f.Name()
	return i
}

func TestHostileMountPoints(t *testing.T) {
	n := newNode(t)
	secret := shared(t)
	put(t, filepath.Join(secret, "secret"), "of the host")
	for name, c := range map[string]struct {
		links  map[string]string
		target string
	}{
		"into /etc":          {map[string]string{"data": "/etc"}, "/data"},
		"up and out":         {map[string]string{"data": "../../../../.."}, "/data"},
		"to the host":        {map[string]string{"data": secret}, "/data"},
		"on the way":         {map[string]string{"a": "/etc"}, "/a/data"},
		"by a magic link":    {map[string]string{"data": "/proc/1/root"}, "/data"},
		"into the sandbox":   {map[string]string{"data": "/proc"}, "/data"},
		"proc is elsewhere":  {map[string]string{"proc": "/data"}, "/data"},
		"sys is elsewhere":   {map[string]string{"sys": "/data"}, "/data"},
		"dev is elsewhere":   {map[string]string{"dev": "/data"}, "/data"},
		"a link to a volume": {map[string]string{"x": "/data"}, "/x"},
	} {
		t.Run(name, func(t *testing.T) {
			for _, compose := range []bool{false, true} {
				s := &sandboxtest.Suite{Driver: n.Native, Image: hostile(t, c.links, compose)}
				spec := s.Spec(t, "true")
				spec.Mounts = []workload.Mount{{Type: workload.MountVolume, Source: "data", Target: c.target}}
				_, err := s.TryLaunch(t, spec)
				if fault.KindOf(err) != fault.Invalid || !strings.Contains(fmt.Sprint(err), "symbolic link") || fault.HintOf(err) == "" {
					t.Errorf("composed %v: %v (hint %q)", compose, err, fault.HintOf(err))
				}
			}
		})
	}
}

func TestVolumes(t *testing.T) {
	s := newNode(t).suite()
	v := workload.Mount{Type: workload.MountVolume, Source: "data", Target: "/data"}
	if out := run(t, s, mounts(v), "touch", "/data/a"); out != "/data/a done\n" {
		t.Error(out)
	}
	if out := run(t, s, mounts(v), "stat", "/data", "/data/a"); out != "/data 40755 0:0 0\n/data/a 100644 0:0 0\n" {
		t.Error(out)
	}
	if out := run(t, s, mounts(v), "print", "/data/a"); out != "touched" {
		t.Error(out)
	}
	v.ReadOnly = true
	if out := run(t, s, mounts(v), "touch", "/data/a"); !strings.Contains(out, "read-only") {
		t.Error(out)
	}
}

// TestVolumeOfUser looks whether a new volume is writable by the image's user,
// to whom the image gives the folder.
func TestVolumeOfUser(t *testing.T) {
	n := newNode(t)
	layer := t.TempDir()
	dir := filepath.Join(layer, "home")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Chown(dir, 1000, 2000); err != nil {
		t.Fatal(err)
	}
	for _, compose := range []bool{false, true} {
		s := &sandboxtest.Suite{Driver: n.Native, Image: over(t, layer, compose)}
		name := fmt.Sprint("home-", compose)
		out := run(t, s, func(s *workload.Spec) {
			s.User, s.Mounts = "1000:2000", []workload.Mount{{Type: workload.MountVolume, Source: name, Target: "/home"}}
		}, "touch", "/home/a")
		if out != "/home/a done\n" {
			t.Errorf("composed %v: %s", compose, out)
		}
	}
}

// unmapped mounts a file system that cannot map ids.
func unmapped(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	if err := unix.Mount("ramfs", dir, "ramfs", 0, "mode=755"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
	})
	return dir
}

func TestWithoutMaps(t *testing.T) {
	dir := unmapped(t)
	volumes, err := volume.Open(filepath.Join(dir, "volumes"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(dir, "plain"), 0o755); err != nil {
		t.Fatal(err)
	}
	base := newNode(t)
	config := base.config
	config.StateDir, config.RunDir = filepath.Join(t.TempDir(), "state"), filepath.Join(t.TempDir(), "run")
	config.Volumes, config.CgroupParent = volumes, config.CgroupParent+"-b"
	n := openNode(t, config)
	s := n.suite()

	spec := s.Spec(t, "true")
	spec.Mounts = []workload.Mount{{Type: workload.MountBind, Source: filepath.Join(dir, "plain"), Target: "/data"}}
	if _, err := s.TryLaunch(t, spec); fault.KindOf(err) != fault.Unsupported || fault.HintOf(err) == "" {
		t.Errorf("bind mount: %v", err)
	}

	v := mounts(workload.Mount{Type: workload.MountVolume, Source: "data", Target: "/data"})
	spec = s.Spec(t, "touch", "/data/a")
	v(&spec)
	id := s.Launch(t, spec)
	s.End(t, id)
	if out := s.Output(t, id); out != "/data/a done\n" {
		t.Error(out)
	}
	other := s.Spec(t, "stat", "/data/a")
	v(&other)
	if _, err := s.TryLaunch(t, other); fault.KindOf(err) != fault.Conflict || fault.HintOf(err) == "" {
		t.Errorf("a second container: %v", err)
	}
	keepBusy := s.Launch(t, s.Spec(t, "hold")) // so that the next has other ids
	if err := n.Destroy(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	s.Launch(t, s.Spec(t, "hold"))
	if out := run(t, s, v, "stat", "/data/a"); out != "/data/a 100644 0:0 0\n" {
		t.Errorf("%q beside %s", out, keepBusy.Short())
	}
}

// TestSwappedFolder starts containers with a mount in a volume while a
// neighbour with the same volume makes the mount point a link and back.
func TestSwappedFolder(t *testing.T) {
	s := newNode(t).suite()
	v := workload.Mount{Type: workload.MountVolume, Source: "data", Target: "/data"}
	spec := s.Spec(t, "swap", "/data/in", "/etc")
	spec.Mounts = []workload.Mount{v}
	s.Expect(t, s.Launch(t, spec), "swapping\n")
	started, refused := 0, 0
	for range 30 {
		spec := s.Spec(t, "print", "/etc/marker", "/data/marker", "/marker")
		spec.Mounts = []workload.Mount{v, {Type: workload.MountTmpfs, Target: "/data/in"}}
		id, err := s.TryLaunch(t, spec)
		if err != nil {
			refused++
			if !strings.Contains(err.Error(), "symbolic link") {
				t.Errorf("%v", err)
			}
			continue
		}
		started++
		s.End(t, id)
		// Nothing but the neighbour's own folder may have been mounted on.
		if out := s.Output(t, id); strings.Count(out, "no such file") != 3 {
			t.Errorf("%s", out)
		}
	}
	t.Logf("%d started, %d refused", started, refused)
}

func TestTmpfs(t *testing.T) {
	s := newNode(t).suite()
	tmp := workload.Mount{Type: workload.MountTmpfs, Target: "/scratch", SizeBytes: 1 << 20, Mode: 0o750}
	if out := run(t, s, mounts(tmp), "stat", "/scratch"); out != "/scratch 40750 0:0 0\n" {
		t.Error(out)
	}
	out := run(t, s, func(spec *workload.Spec) { spec.Mounts, spec.ShmBytes = []workload.Mount{tmp}, 8<<20 }, "look")
	for _, want := range []string{"/scratch rw,nosuid,nodev,noexec", "size=1024k", "size=8192k"} {
		if !strings.Contains(out, want) {
			t.Errorf("no %q in %s", want, out)
		}
	}
}

func TestDevices(t *testing.T) {
	s := newNode(t).suite()
	fuse := workload.Device{Source: "/dev/fuse", Target: "/dev/fuse", Access: "rw"}
	renamed := workload.Device{Source: "/dev/fuse", Target: "/dev/sub/other", Access: "r"}
	var st unix.Stat_t
	if err := unix.Stat("/dev/fuse", &st); err != nil {
		t.Fatal(err)
	}
	out := run(t, s, func(spec *workload.Spec) { spec.Devices = []workload.Device{fuse, renamed} }, "stat", "/dev/fuse", "/dev/sub/other")
	want := fmt.Sprintf("/dev/fuse %o 0:0 %d\n/dev/sub/other %o 0:0 %d\n", st.Mode, st.Rdev, st.Mode, st.Rdev)
	if out != want {
		t.Errorf("%q, want %q", out, want)
	}
	out = run(t, s, func(spec *workload.Spec) { spec.Devices = []workload.Device{fuse} }, "open", "/dev/fuse", "/dev/null")
	if out != "/dev/fuse done\n/dev/null done\n" {
		t.Error(out)
	}
	if out := run(t, s, func(spec *workload.Spec) { spec.Devices = []workload.Device{renamed} }, "open", "/dev/sub/other"); !strings.Contains(out, "read-only") && !strings.Contains(out, "not permitted") {
		t.Error(out)
	}
	for source, want := range map[string]string{"/dev/nothing": "does not exist", "/dev/stdin": "symbolic link", "/dev/shm": "not a device"} {
		spec := s.Spec(t, "true")
		spec.Devices = []workload.Device{{Source: source, Target: "/dev/x", Access: "rw"}}
		if _, err := s.TryLaunch(t, spec); err == nil || !strings.Contains(err.Error(), want) || fault.HintOf(err) == "" {
			t.Errorf("%s: %v", source, err)
		}
	}
}

func TestLimits(t *testing.T) {
	s := newNode(t).suite()
	out := run(t, s, func(spec *workload.Spec) {
		spec.Ulimits = []workload.Ulimit{{Name: "nofile", Soft: 200, Hard: 200}, {Name: "nproc", Soft: 50, Hard: 60}}
		spec.Sysctls = map[string]string{"net.ipv4.tcp_syn_retries": "3", "kernel.shmmax": "12345", "kernel.sem": "10\t20\t30\t40", "fs.mqueue.msg_max": "9"}
	}, "print", "/proc/self/limits", "/proc/sys/net/ipv4/tcp_syn_retries", "/proc/sys/kernel/shmmax", "/proc/sys/kernel/sem", "/proc/sys/fs/mqueue/msg_max")
	for _, want := range []string{"\n3\n12345\n10\t20\t30\t40\n9\n"} {
		if !strings.Contains(out, want) {
			t.Errorf("no %q in %s", want, out)
		}
	}
	for _, want := range []string{" 200 files", "Max processes 50 60 processes"} {
		if !strings.Contains(strings.Join(strings.Fields(out), " "), want) {
			t.Errorf("no %q in %s", want, out)
		}
	}
	spec := s.Spec(t, "true")
	spec.Sysctls = map[string]string{"net.nothing.there": "1"}
	if _, err := s.TryLaunch(t, spec); fault.KindOf(err) != fault.Invalid || !strings.Contains(err.Error(), "net.nothing.there") {
		t.Error(err)
	}
}

// TestVolumeIsHeld looks whether a volume stays as long as its container, and
// between its runs.
func TestVolumeIsHeld(t *testing.T) {
	n := newNode(t)
	s := n.suite()
	volumes := n.config.Volumes.(*volume.Store)
	spec := s.Spec(t, "hold")
	spec.Mounts = []workload.Mount{{Type: workload.MountVolume, Source: "data", Target: "/data"}}
	config, err := n.Configure(spec, s.Image)
	if err != nil {
		t.Fatal(err)
	}
	config.Linux.Seccomp.DefaultAction = "SCMP_ACT_NOTHING_OF_THE_KIND" // looked at last
	if _, err := n.Create(t.Context(), workload.NewID(), config, s.Image); err == nil {
		t.Fatal("a filter was compiled that cannot be")
	}
	if err := volumes.Remove("data"); err != nil {
		t.Errorf("a launch that failed holds a volume: %v", err)
	}
	id := s.Launch(t, spec)
	if err := volumes.Remove("data"); fault.KindOf(err) != fault.Conflict {
		t.Errorf("removed although %s holds it: %v", id.Short(), err)
	}
	if err := n.End(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	if err := volumes.Remove("data"); fault.KindOf(err) != fault.Conflict {
		t.Errorf("removed between two runs of %s: %v", id.Short(), err)
	}
	if err := n.Destroy(t.Context(), id); err != nil {
		t.Error(err)
	}
	if err := volumes.Remove("data"); err != nil {
		t.Error(err)
	}
}
