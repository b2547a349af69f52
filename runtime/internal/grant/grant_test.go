package grant

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"tero.internal/common/fault"
)

func TestSource(t *testing.T) {
	dir := t.TempDir()
	own, other := filepath.Join(dir, "own"), filepath.Join(dir, "other")
	for _, d := range []string{filepath.Join(own, "deep"), other, filepath.Join(dir, "own-not")} {
		if err := os.MkdirAll(d, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	for name, to := range map[string]string{"link": other, "other/in": own, "own/link": other} {
		if err := os.Symlink(to, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(other, "file"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	// Protected by a name that is a link, and one that does not exist.
	protected := []string{filepath.Join(other, "in"), filepath.Join(dir, "nothing")}
	for path, want := range map[string]string{ // part of the refusal; accepted when empty
		other:                             "",
		filepath.Join(other, "file"):      "",
		filepath.Join(dir, "own-not"):     "",
		filepath.Join(dir, "link"):        other, // the hint
		own:                               "TERO's own",
		dir:                               "TERO's own",
		filepath.Join(own, "deep"):        "TERO's own",
		filepath.Join(dir, "nothing"):     "does not exist",
		filepath.Join(other, "file", "x"): "does not exist",
		"relative":                        "not an absolute path",
		"/proc/self/root":                 "symbolic link",
		"/proc":                           "proc",
		"/dev/zero":                       "device",
	} {
		f, err := Source(path, protected)
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error()+fault.HintOf(err), want) {
			t.Errorf("%s: %v, want %q", path, err, want)
		}
		if err == nil {
			_ = f.Close()
		}
	}
}

func TestMakeNode(t *testing.T) {
	for _, c := range []struct {
		source   string
		uid, gid uint32 // instead of the host's
		wantUID  uint32
		wantGID  uint32
	}{
		{"/dev/null", 0, 0, 0x70000000, 0x70000000},
		{"/dev/full", 5, 1_000_000, 0x70000005, 0x70000000},
	} {
		d, err := Device(c.source)
		if err != nil {
			t.Fatal(err)
		}
		d.UID, d.GID = &c.uid, &c.gid
		path := filepath.Join(t.TempDir(), "node")
		f, err := MakeNode(path, d, 0x70000000, 65536)
		if err != nil {
			t.Fatal(err)
		}
		_ = f.Close()
		var host, own unix.Stat_t
		if err := unix.Stat(c.source, &host); err != nil {
			t.Fatal(err)
		}
		if err := unix.Stat(path, &own); err != nil || own.Rdev != host.Rdev || own.Mode != host.Mode || own.Uid != c.wantUID || own.Gid != c.wantGID {
			t.Errorf("%s: %+v, %v", c.source, own, err)
		}
		if _, err := MakeNode(path, d, 0x70000000, 65536); err == nil {
			t.Error("a node was made over another")
		}
	}
	if _, err := Device("/etc/passwd"); fault.KindOf(err) != fault.Invalid {
		t.Errorf("a file as a device: %v", err)
	}
}

// TestOtherDevice makes the name of a device lead to another one between the
// decision and the launch.
func TestOtherDevice(t *testing.T) {
	d, err := Device("/dev/null")
	if err != nil {
		t.Fatal(err)
	}
	d.Path = "/dev/x"
	config := &specs.Spec{
		Linux:  &specs.Linux{Devices: []specs.LinuxDevice{*d}},
		Mounts: []specs.Mount{{Destination: "/dev/x", Type: "bind", Source: "/dev/zero"}},
	}
	if _, err := (Node{}).Open(Container{Config: config, Folder: t.TempDir()}); fault.KindOf(err) != fault.Conflict {
		t.Error(err)
	}
}
