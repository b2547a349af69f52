package ociconfig

import (
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"tero.internal/common/fault"
	"tero.internal/common/workload"
)

var update = flag.Bool("update", false, "write the golden files")

// layer makes a layer with the files, by path.
func layer(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, content := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

const (
	passwd = "root:x:0:0:root:/root:/bin/sh\n# comment\nbroken\nweb:x:101:102:Web:/srv/web:/bin/false\nodd:x:-1:0::/:\n1000:x:5:6::/n:\n"
	groups = "root:x:0:\nweb:x:102:\nlogs:x:200:web,other\nmail:x:150:web\nself:x:102:web\n"
)

func image(t *testing.T) workload.Image {
	t.Helper()
	return workload.Image{
		Reference: "localhost/web:v1",
		Config:    workload.ImageConfig{Entrypoint: []string{"/web"}, Env: []string{"A=1"}, User: "web", WorkingDir: "/srv"},
		Layers:    []string{layer(t, map[string]string{"web": "binary"}), layer(t, map[string]string{"etc/passwd": passwd, "etc/group": groups})},
	}
}

func complete(t *testing.T, spec workload.Spec, img workload.Image) workload.Spec {
	t.Helper()
	if spec.Name == "" {
		spec.Name = "web"
	}
	spec.Image, spec.Network = img.Reference, "default"
	full, err := spec.Complete(img)
	if err != nil {
		t.Fatal(err)
	}
	return full
}

func TestBuildGolden(t *testing.T) {
	for name, spec := range map[string]workload.Spec{
		"plain": {},
		"all": {
			Args: []string{"serve", "--port", "80"}, Env: []string{"HOME=/x", "B=2"}, User: "root:logs", Hostname: "front",
			Terminal: true, WritableRootfs: true, CapAdd: []string{"net_raw", "CAP_CHOWN", "CAP_NET_RAW"},
			Resources: workload.Resources{MilliCPU: 1500, MemoryBytes: 64 << 20, Pids: 50},
		},
	} {
		t.Run(name, func(t *testing.T) {
			img := image(t)
			config, err := Build(complete(t, spec, img), img)
			if err != nil {
				t.Fatal(err)
			}
			config.Linux.Seccomp.Syscalls = config.Linux.Seccomp.Syscalls[1:2] // the long list is seccomp's to test
			got, err := json.MarshalIndent(config, "", "  ")
			if err != nil {
				t.Fatal(err)
			}
			golden := filepath.Join("testdata", name+".json")
			if *update {
				if err := os.MkdirAll("testdata", 0o755); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(golden, got, 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(want), string(got)); diff != "" {
				t.Errorf("differs from %s (go test -update writes it):\n%s", golden, diff)
			}
		})
	}
}

// TestBuildIsDeterministic: two nodes with the layers in other folders must measure the same.
func TestBuildIsDeterministic(t *testing.T) {
	var digests []string
	for range 20 {
		img := image(t)
		config, err := Build(complete(t, workload.Spec{CapAdd: []string{"CAP_CHOWN"}}, img), img)
		if err != nil {
			t.Fatal(err)
		}
		d, err := workload.CanonicalDigest(config)
		if err != nil {
			t.Fatal(err)
		}
		digests = append(digests, d.String())
	}
	if slices.Sort(digests); digests[0] != digests[len(digests)-1] {
		t.Errorf("equal launches have digests %v", slices.Compact(digests))
	}
}

func TestBuildIsHardened(t *testing.T) {
	img := image(t)
	config, err := Build(complete(t, workload.Spec{}, img), img)
	if err != nil {
		t.Fatal(err)
	}
	if !config.Process.NoNewPrivileges || !config.Root.Readonly || config.Linux.Seccomp == nil {
		t.Error("not hardened by default")
	}
	for _, m := range config.Mounts {
		if !slices.Contains(m.Options, "nosuid") || m.Destination != "/sys" && m.Type == "tmpfs" && !slices.Contains(m.Options, "noexec") {
			t.Errorf("%s: options %v", m.Destination, m.Options)
		}
	}
	c := config.Process.Capabilities
	if n := len(c.Bounding) + len(c.Effective) + len(c.Permitted) + len(c.Inheritable) + len(c.Ambient); n != 0 {
		t.Errorf("%d capabilities are kept", n)
	}
}

func TestUsers(t *testing.T) {
	umask := uint32(0o022)
	for _, c := range []struct {
		user string
		want specs.User
		home string
	}{
		{"root", specs.User{}, "/root"},
		{"0", specs.User{}, "/root"},
		{"0:0", specs.User{}, "/root"},
		{"web", specs.User{UID: 101, GID: 102, AdditionalGids: []uint32{150, 200}}, "/srv/web"},
		{"101", specs.User{UID: 101, GID: 102, AdditionalGids: []uint32{150, 200}}, "/srv/web"},
		{"web:logs", specs.User{UID: 101, GID: 200}, "/srv/web"},
		{"web:7", specs.User{UID: 101, GID: 7}, "/srv/web"},
		{"65534:mail", specs.User{UID: 65534, GID: 150}, "/"},
		{"4000", specs.User{UID: 4000}, "/"},
		{"1000", specs.User{UID: 5, GID: 6}, "/n"}, // a name that is a number is a name
		{"4294967294", specs.User{UID: 4294967294}, "/"},
	} {
		t.Run(c.user, func(t *testing.T) {
			img := image(t)
			config, err := Build(complete(t, workload.Spec{User: c.user}, img), img)
			if err != nil {
				t.Fatal(err)
			}
			c.want.Umask = &umask
			if diff := cmp.Diff(c.want, config.Process.User); diff != "" {
				t.Error(diff)
			}
			if want := "HOME=" + c.home; !slices.Contains(config.Process.Env, want) {
				t.Errorf("environment %v has no %s", config.Process.Env, want)
			}
		})
	}
}

func TestBuildRefuses(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*workload.Spec, *workload.Image)
		kind   fault.Kind
		want   string
	}{
		"unknown user":  {func(s *workload.Spec, _ *workload.Image) { s.User = "nosuch" }, fault.NotFound, `image localhost/web:v1 has no user "nosuch" in its /etc/passwd`},
		"unknown group": {func(s *workload.Spec, _ *workload.Image) { s.User = "web:nosuch" }, fault.NotFound, `image localhost/web:v1 has no group "nosuch" in its /etc/group`},
		"empty group":   {func(s *workload.Spec, _ *workload.Image) { s.User = "web:" }, fault.Invalid, `user "web:" is not of the form user[:group]`},
		"no id at all":  {func(s *workload.Spec, _ *workload.Image) { s.User = "4294967295" }, fault.NotFound, `image localhost/web:v1 has no user "4294967295" in its /etc/passwd`},
		"negative id":   {func(s *workload.Spec, _ *workload.Image) { s.User = "-1" }, fault.NotFound, `image localhost/web:v1 has no user "-1" in its /etc/passwd`},
		"capability":    {func(s *workload.Spec, _ *workload.Image) { s.CapAdd = []string{"ALL"} }, fault.Invalid, `capability "ALL" does not exist`},
		"little CPU":    {func(s *workload.Spec, _ *workload.Image) { s.Resources.MilliCPU = 9 }, fault.Invalid, "CPU limit of 9 thousandths of a core is under the least that the kernel takes, 10"},
		"no command":    {func(s *workload.Spec, _ *workload.Image) { s.Args = nil }, fault.Invalid, `there is no command to run in "web"`},
		"invalid spec":  {func(s *workload.Spec, _ *workload.Image) { s.WorkingDir = "x" }, fault.Invalid, `working directory "x" is not an absolute path`},
		"passwd is folder": {func(_ *workload.Spec, i *workload.Image) {
			i.Layers = []string{layer(t, map[string]string{"etc/passwd/x": ""})}
		}, fault.Corrupt, `cannot find user "web" in image localhost/web:v1: /etc/passwd: not a regular file`},
	} {
		t.Run(name, func(t *testing.T) {
			img := image(t)
			spec := complete(t, workload.Spec{}, img)
			c.change(&spec, &img)
			_, err := Build(spec, img)
			if err == nil {
				t.Fatal("built")
			}
			if diff := cmp.Diff(c.want, err.Error()); diff != "" {
				t.Error(diff)
			}
			if got := fault.KindOf(err); got != c.kind {
				t.Errorf("kind %v, want %v", got, c.kind)
			}
			if name != "invalid spec" && fault.HintOf(err) == "" {
				t.Error("no hint")
			}
		})
	}
}

func TestAmbientForOtherUsers(t *testing.T) {
	for uid, want := range map[uint32][]string{0: nil, 7: {"CAP_NET_RAW"}} {
		c, err := capabilities([]string{"CAP_NET_RAW"}, uid)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, c.Ambient); diff != "" {
			t.Errorf("uid %d: %s", uid, diff)
		}
	}
}

func FuzzResolveUser(f *testing.F) {
	f.Add("web", passwd, groups)
	f.Add("web:logs", passwd, groups)
	f.Add("0:0", "", "")
	f.Add(":", "::::", ":::")
	f.Fuzz(func(t *testing.T, user, passwd, groups string) {
		who, err := resolveUser(user, "image", []byte(passwd), []byte(groups))
		if err != nil {
			if k := fault.KindOf(err); k != fault.Invalid && k != fault.NotFound {
				t.Fatalf("kind %v", k)
			}
			return
		}
		if who.user.UID > maxID || who.user.GID > maxID || who.home != "" && who.home[0] != '/' {
			t.Fatalf("%+v", who)
		}
		if !slices.IsSorted(who.user.AdditionalGids) {
			t.Fatalf("groups %v", who.user.AdditionalGids)
		}
	})
}
