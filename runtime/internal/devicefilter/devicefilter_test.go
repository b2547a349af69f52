package devicefilter

import (
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"tero.internal/common/fault"
)

// request is what the kernel asks a filter.
type request struct{ kind, access, major, minor uint32 }

// simulate runs a program as the kernel would.
func simulate(t *testing.T, p []instruction, in request) bool {
	t.Helper()
	context := map[int16]uint32{0: in.access<<16 | in.kind, 4: in.major, 8: in.minor}
	var r [11]uint32
	for pc := 0; pc < len(p); pc++ {
		i := p[pc]
		switch v := uint32(i.value); i.code {
		case opLoad:
			r[i.destination] = context[i.offset]
		case opMove:
			r[i.destination] = v
		case opMoveReg:
			r[i.destination] = r[i.source]
		case opAnd:
			r[i.destination] &= v
		case opShift:
			r[i.destination] >>= v
		case opNotEqual:
			if r[i.destination] != v {
				pc += int(i.offset)
			}
		case opEqual:
			if r[i.destination] == v {
				pc += int(i.offset)
			}
		case opExit:
			return r[regResult] != 0
		default:
			t.Fatalf("instruction %d has code %#x", pc, i.code)
		}
	}
	t.Fatal("the program runs over its end")
	return false
}

// decide says what rules mean, access by access: the last one that matches wins.
func decide(rules []rule, in request) bool {
	for bit := uint32(1); bit <= accessAll; bit <<= 1 {
		if in.access&bit == 0 {
			continue
		}
		allowed := false
		for _, r := range rules {
			if (r.kind < 0 || uint32(r.kind) == in.kind) && (r.major < 0 || r.major == int64(in.major)) &&
				(r.minor < 0 || r.minor == int64(in.minor)) && uint32(r.access)&bit != 0 {
				allowed = r.allow
			}
		}
		if !allowed {
			return false
		}
	}
	return true
}

func TestParse(t *testing.T) {
	for name, c := range map[string]struct {
		in   specs.LinuxDeviceCgroup
		want rule
		bad  bool
	}{
		"all":              {specs.LinuxDeviceCgroup{Access: "rwm"}, rule{false, -1, -1, -1, 7}, false},
		"type a":           {specs.LinuxDeviceCgroup{Allow: true, Type: "a", Major: new(int64(1))}, rule{true, -1, -1, -1, 7}, false},
		"one":              {specs.LinuxDeviceCgroup{Allow: true, Type: "c", Major: new(int64(1)), Minor: new(int64(3)), Access: "wr"}, rule{true, 2, 1, 3, 6}, false},
		"block wildcard":   {specs.LinuxDeviceCgroup{Type: "b", Major: new(int64(-1)), Minor: new(int64(0)), Access: "m"}, rule{false, 1, -1, 0, 1}, false},
		"unknown type":     {specs.LinuxDeviceCgroup{Type: "p"}, rule{}, true},
		"unknown access":   {specs.LinuxDeviceCgroup{Access: "rx"}, rule{}, true},
		"no such a number": {specs.LinuxDeviceCgroup{Type: "c", Major: new(int64(1 << 32))}, rule{}, true},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := parse([]specs.LinuxDeviceCgroup{c.in})
			if c.bad {
				if fault.KindOf(err) != fault.Invalid || err == nil {
					t.Fatalf("%v", err)
				}
				return
			}
			if diff := cmp.Diff([]rule{c.want}, got, cmp.AllowUnexported(rule{})); err != nil || diff != "" {
				t.Errorf("%v %s", err, diff)
			}
		})
	}
}

// TestCompile holds programs of random rules against what the rules mean, for
// every request that can tell them apart.
func TestCompile(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	allowed, compared := 0, 0
	for range 300 {
		rules := make([]rule, random.IntN(8))
		for i := range rules {
			rules[i] = rule{
				allow: random.IntN(2) == 0, kind: []int32{-1, kindBlock, kindCharacter}[random.IntN(3)],
				major: int64(random.IntN(4)) - 1, minor: int64(random.IntN(4)) - 1, access: int32(random.IntN(8)),
			}
		}
		program := compile(rules)
		for kind := uint32(1); kind <= 2; kind++ {
			for access := uint32(1); access <= 7; access++ {
				for device := range uint32(16) {
					in := request{kind, access, device / 4, device % 4}
					want := decide(rules, in)
					if got := simulate(t, program, in); got != want {
						t.Fatalf("%+v under %+v: %v, want %v", in, rules, got, want)
					}
					compared++
					if want {
						allowed++
					}
				}
			}
		}
	}
	if allowed < compared/20 || allowed > compared*19/20 {
		t.Errorf("the rules say the same to nearly everything: %d of %d allowed", allowed, compared)
	}
}

// cgroup makes a v2 cgroup for the test.
func cgroup(t *testing.T) string {
	t.Helper()
	root := "/sys/fs/cgroup/unified"
	if _, err := os.Stat("/sys/fs/cgroup/cgroup.controllers"); err == nil {
		root = "/sys/fs/cgroup"
	}
	dir := filepath.Join(root, "tero-test-devices-"+strings.ToLower(t.Name()))
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.Remove(dir); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// inside runs a shell's commands in a cgroup.
func inside(t *testing.T, dir, script string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "sh", "-c", "echo 0 > "+filepath.Join(dir, "cgroup.procs")+"; "+script)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return string(out)
}

// TestKernel opens real devices under a filter.
func TestKernel(t *testing.T) {
	dir := cgroup(t)
	if err := Try(dir); err != nil {
		t.Fatal(err)
	}
	node := filepath.Join(t.TempDir(), "node")
	script := "for d in null zero full; do (: < /dev/$d) 2>/dev/null && echo r $d; (: > /dev/$d) 2>/dev/null && echo w $d; (: <> /dev/$d) 2>/dev/null && echo rw $d; done; " +
		"mknod " + node + " c 1 3 2>/dev/null && echo made && rm " + node + "; true"
	all := inside(t, dir, script)
	if want := "r null\nw null\nrw null\nr zero\nw zero\nrw zero\nr full\nw full\nrw full\nmade\n"; all != want {
		t.Fatalf("without a filter: %q", all)
	}
	var f Filters
	defer f.Close()
	if err := f.Attach(dir, []specs.LinuxDeviceCgroup{
		{Access: "rwm"},
		{Allow: true, Type: "c", Major: new(int64(1)), Minor: new(int64(3)), Access: "r"},
		{Allow: true, Type: "c", Major: new(int64(1)), Minor: new(int64(3)), Access: "w"},
		{Allow: true, Type: "c", Major: new(int64(1)), Minor: new(int64(5)), Access: "rw"},
		{Type: "c", Major: new(int64(1)), Minor: new(int64(5)), Access: "w"},
	}); err != nil {
		t.Fatal(err)
	}
	if got, want := inside(t, dir, script), "r null\nw null\nrw null\nr zero\n"; got != want {
		t.Errorf("with a filter: %q, want %q", got, want)
	}
	f.Close()
	if got := inside(t, dir, script); strings.Contains(got, "full") {
		t.Errorf("after the program was let go of: %q", got)
	}
}

// TestPrograms loads one program for equal rules, and lets go of the oldest.
func TestPrograms(t *testing.T) {
	dir := cgroup(t)
	var f Filters
	defer f.Close()
	for range 2 {
		for i := range kept + 1 {
			rules := []specs.LinuxDeviceCgroup{{Allow: true, Type: "c", Major: new(int64(i))}}
			for range 2 {
				each := filepath.Join(dir, fmt.Sprint(i))
				if err := os.Mkdir(each, 0o755); err != nil {
					t.Fatal(err)
				}
				if err := f.Attach(each, rules); err != nil {
					t.Fatal(err)
				}
				if err := os.Remove(each); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	if len(f.list) != kept {
		t.Errorf("%d programs are kept", len(f.list))
	}
}

func TestAttachRefuses(t *testing.T) {
	var f Filters
	defer f.Close()
	if err := f.Attach(t.TempDir(), nil); err == nil {
		t.Error("attached to what is no cgroup")
	}
	if err := f.Attach(cgroup(t), []specs.LinuxDeviceCgroup{{Type: "x"}}); fault.KindOf(err) != fault.Invalid {
		t.Errorf("%v", err)
	}
	if _, err := load(encode([]instruction{{code: opMoveReg, destination: 0, source: 7}, {code: opExit}})); err == nil || !strings.Contains(err.Error(), "R7") {
		t.Errorf("a program that the verifier refuses: %v", err)
	}
}
