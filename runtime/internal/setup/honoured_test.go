package setup

import (
	"go/ast"
	"go/parser"
	"go/token"
	"reflect"
	"strconv"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"tero.internal/common/fault"
)

// plain gives a configuration that asks for nothing special.
func plain() *specs.Spec {
	return &specs.Spec{
		Version: specs.Version,
		Process: &specs.Process{Args: []string{"/x"}, Cwd: "/"},
		Root:    &specs.Root{},
		Linux:   &specs.Linux{},
	}
}

// fields walks all fields of a type that have a value of their own: set makes
// one of them say something, with everything above it.
func fields(t reflect.Type, prefix string, reach func(root reflect.Value) reflect.Value, visit func(path string, set func(root reflect.Value))) {
	for i := range t.NumField() {
		f := t.Field(i)
		path, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		if prefix != "" {
			path = prefix + "." + path
		}
		visit(path, nil)
		here := func(root reflect.Value) reflect.Value { return reach(root).Field(i) }
		inner := f.Type
		for inner.Kind() == reflect.Pointer || inner.Kind() == reflect.Slice {
			inner = inner.Elem()
		}
		if inner.Kind() == reflect.Struct {
			fields(inner, path, func(root reflect.Value) reflect.Value { return within(here(root)) }, visit)
			continue
		}
		visit(path, func(root reflect.Value) { fill(within(here(root))) })
	}
}

// within goes through pointers and slices to a value in them, making it.
func within(v reflect.Value) reflect.Value {
	switch v.Kind() {
	case reflect.Pointer:
		if v.IsNil() {
			v.Set(reflect.New(v.Type().Elem()))
		}
		return within(v.Elem())
	case reflect.Slice:
		if v.Len() == 0 {
			v.Set(reflect.MakeSlice(v.Type(), 1, 1))
		}
		return within(v.Index(0))
	}
	return v
}

func fill(v reflect.Value) {
	switch v.Kind() {
	case reflect.String:
		v.SetString("x")
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Interface:
		v.Set(reflect.ValueOf("x"))
	case reflect.Map:
		v.Set(reflect.MakeMap(v.Type()))
		v.SetMapIndex(reflect.ValueOf("x"), reflect.New(v.Type().Elem()).Elem())
	default:
		if v.CanInt() {
			v.SetInt(1)
		} else {
			v.SetUint(1)
		}
	}
}

// TestEveryField sets each field of the specification alone: it is honoured, or
// refused by its name.
func TestEveryField(t *testing.T) {
	if err := Check(plain()); err != nil {
		t.Fatal(err)
	}
	refused := 0
	seen := map[string]bool{}
	top := func(root reflect.Value) reflect.Value { return root.Elem() }
	fields(reflect.TypeFor[specs.Spec](), "", top, func(path string, set func(reflect.Value)) {
		seen[path] = true
		if set == nil {
			return
		}
		for p := path; p != ""; p = p[:max(strings.LastIndexByte(p, '.'), 0)] {
			if honoured(p) {
				return
			}
		}
		refused++
		config := plain()
		set(reflect.ValueOf(config))
		err := Check(config)
		if fault.KindOf(err) != fault.Unsupported || err == nil || !strings.Contains(err.Error(), strconv.Quote(path)) || fault.HintOf(err) == "" {
			t.Errorf("%s: %v (%v)", path, err, fault.KindOf(err))
		}
	})
	if refused < 100 {
		t.Errorf("only %d fields were refused: the walk is broken", refused)
	}
	for _, path := range listed(t) {
		if !seen[path] {
			t.Errorf("honoured names %q, which the specification does not have", path)
		}
	}
}

// listed reads the paths that honoured names from its source.
func listed(t *testing.T) []string {
	t.Helper()
	f, err := parser.ParseFile(token.NewFileSet(), "honoured.go", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	var paths []string
	for _, d := range f.Decls {
		fn, ok := d.(*ast.FuncDecl)
		if !ok || fn.Name.Name != "honoured" {
			continue
		}
		ast.Inspect(fn, func(n ast.Node) bool {
			if l, ok := n.(*ast.BasicLit); ok && l.Kind == token.STRING {
				s, err := strconv.Unquote(l.Value)
				if err != nil {
					t.Fatal(err)
				}
				paths = append(paths, s)
			}
			return true
		})
	}
	if len(paths) == 0 {
		t.Fatal("no paths found")
	}
	return paths
}

// TestCheckValues are values that are refused of fields that are honoured.
func TestCheckValues(t *testing.T) {
	number := func(n int64) *int64 { return &n }
	for name, c := range map[string]struct {
		change func(*specs.Spec)
		text   string
	}{
		"version":     {func(s *specs.Spec) { s.Version = "2.0.0" }, `version "2.0.0"`},
		"shared root": {func(s *specs.Spec) { s.Linux.RootfsPropagation = "shared" }, `propagation "shared"`},
		"joined namespace": {func(s *specs.Spec) {
			s.Linux.Namespaces = []specs.LinuxNamespace{{Type: specs.NetworkNamespace, Path: "/proc/1/ns/net"}}
		}, "joining the network namespace"},
		"time namespace": {func(s *specs.Spec) {
			s.Linux.Namespaces = []specs.LinuxNamespace{{Type: specs.TimeNamespace}}
		}, `no "time" namespaces`},
		"personality": {func(s *specs.Spec) { s.Linux.Personality = &specs.LinuxPersonality{Domain: "BSD"} }, `no personality "BSD"`},
		"priority": {func(s *specs.Spec) {
			s.Process.IOPriority = &specs.LinuxIOPriority{Class: specs.IOPRIO_CLASS_BE, Priority: 8}
		}, "no I/O priority"},
		"oom score": {func(s *specs.Spec) { n := 1001; s.Process.OOMScoreAdj = &n }, "oomScoreAdj 1001"},
		"swap alone": {func(s *specs.Spec) {
			s.Linux.Resources = &specs.LinuxResources{Memory: &specs.LinuxMemory{Swap: number(1 << 20)}}
		}, "needs one of memory"},
		"unknown limit": {func(s *specs.Spec) { s.Process.Rlimits = []specs.POSIXRlimit{{Type: "RLIMIT_X"}} }, `no resource limit "RLIMIT_X"`},
		"limit twice": {func(s *specs.Spec) {
			s.Process.Rlimits = []specs.POSIXRlimit{{Type: "RLIMIT_CORE"}, {Type: "RLIMIT_CORE"}}
		}, "sets RLIMIT_CORE twice"},
		"soft over hard": {func(s *specs.Spec) {
			s.Process.Rlimits = []specs.POSIXRlimit{{Type: "RLIMIT_CORE", Soft: 2, Hard: 1}}
		}, "over the hard one"},
		"filter flag": {func(s *specs.Spec) {
			s.Linux.Seccomp = &specs.LinuxSeccomp{Flags: []specs.LinuxSeccompFlag{specs.LinuxSeccompFlagWaitKillableRecv}}
		}, "WAIT_KILLABLE"},
		"zero byte":            {func(s *specs.Spec) { s.Process.Args = []string{"/x", "a\x00b"} }, "zero byte"},
		"mount on /proc":       {func(s *specs.Spec) { s.Mounts = []specs.Mount{{Destination: "/x/../proc/", Type: "bind"}} }, "a mount on /proc would"},
		"mount below /proc":    {func(s *specs.Spec) { s.Mounts = []specs.Mount{{Destination: "/proc/sys", Type: "tmpfs"}} }, "a mount on /proc/sys would"},
		"mount on /":           {func(s *specs.Spec) { s.Mounts = []specs.Mount{{Destination: "/.", Type: "tmpfs"}} }, "a mount on /"},
		"relative mount":       {func(s *specs.Spec) { s.Mounts = []specs.Mount{{Destination: "proc/x"}} }, "not an absolute path"},
		"zero byte in a mount": {func(s *specs.Spec) { s.Mounts = []specs.Mount{{Destination: "/a\x00b"}} }, "zero byte"},
	} {
		t.Run(name, func(t *testing.T) {
			config := plain()
			c.change(config)
			if err := Check(config); err == nil || !strings.Contains(err.Error(), c.text) {
				t.Errorf("%v", err)
			}
		})
	}
}
