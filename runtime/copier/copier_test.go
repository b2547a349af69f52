package copier

import (
	"debug/elf"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"tero.internal/common/fault"
	"tero.internal/common/filetree"
)

func TestReports(t *testing.T) {
	var b strings.Builder
	if err := WriteFault(&b, fault.New(fault.Conflict, "write %q: no\nroom", "a b").WithHint("look \"there\"")); err != nil {
		t.Fatal(err)
	}
	r, err := ParseReport(b.String())
	if err != nil || fault.KindOf(r.Fault) != fault.Conflict || r.Fault.Error() != "write \"a b\": no\nroom" || fault.HintOf(r.Fault) != "look \"there\"" {
		t.Errorf("%+v, %v", r, err)
	}
	b.Reset()
	if err := WriteFault(&b, fault.New(fault.NotFound, "none")); err != nil {
		t.Fatal(err)
	}
	if r, err = ParseReport(b.String()); err != nil || fault.KindOf(r.Fault) != fault.NotFound || fault.HintOf(r.Fault) != "" {
		t.Errorf("%+v, %v", r, err)
	}
	r, err = ParseReport("source \"a \\n\\xff\" true false 12\n")
	if diff := cmp.Diff(&filetree.Source{Name: "a \n\xff", Directory: true, Size: 12}, r.Source); diff != "" || err != nil {
		t.Error(err, diff)
	}
	r, err = ParseReport("done 1 2 3\n")
	if diff := cmp.Diff(&filetree.Summary{Entries: 1, Bytes: 2, Skipped: 3}, r.Done); diff != "" || err != nil {
		t.Error(err, diff)
	}
	for _, bad := range []string{"", "done\n", "source x\n", "fault conflict x\n"} {
		if _, err := ParseReport(bad); err == nil {
			t.Errorf("%q is a report", bad)
		}
	}
}

func TestArguments(t *testing.T) {
	want := &Arguments{Path: "/a", Follow: true, Source: filetree.Source{Name: "n", Directory: true, Contents: true}, Raw: true, Owners: true}
	got, err := parse(want.Strings())
	if diff := cmp.Diff(want, got); diff != "" || err != nil {
		t.Error(err, diff)
	}
	for _, bad := range [][]string{nil, {"a", "b", "c", "d", "e", "f", "g"}} {
		if _, err := parse(bad); err == nil {
			t.Errorf("%q are arguments", bad)
		}
	}
}

// TestStatic makes sure that the process which works on a container's files has
// nothing to load from anywhere (CVE-2019-14271).
func TestStatic(t *testing.T) {
	binary := filepath.Join(t.TempDir(), "tero-init")
	build := exec.CommandContext(t.Context(), "go", "build", "-o", binary, "tero.internal/cmd/tero-init")
	build.Env = append(build.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	f, err := elf.Open(binary)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP || p.Type == elf.PT_DYNAMIC {
			t.Errorf("the binary has a segment %v", p.Type)
		}
	}
}
