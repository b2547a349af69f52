// Package arch holds the layout of the repository as tests: which folder may
// import which, how large a package may grow, and what each binary must not
// link. The rules and their reasons are in ARCHITECTURE.md.
package arch

import (
	"bufio"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const module = "tero.internal"

// mayImport says which folders of TERO the code in a folder may import,
// besides itself. The longest matching key counts.
var mayImport = map[string][]string{
	"common": {"api"},
	"api":    {"common"},

	"runtime":         {"common", "api"},
	"network-manager": {"common", "api"},
	"plugin-manager":  {"common", "api"},
	"attestation":     {"common", "api"},
	"policy":          {"common", "api"},
	"secret":          {"common", "api"},
	"cluster":         {"common", "api"},

	"client":  {"common", "api"},
	"console": {"common", "api", "client"},

	"daemon": {"common", "api", "runtime", "network-manager", "plugin-manager", "attestation", "policy", "secret", "cluster", "console"},

	"cmd/tero":        {"common", "api", "client", "attestation/verify"},
	"cmd/terod":       {"common", "daemon"},
	"cmd/tero-init":   {"common", "runtime"},
	"cmd/tero-oci":    {"common", "api", "client", "runtime"},
	"cmd/quantum-api": {"common", "api", "network-manager"},
	"cmd/quantum-cni": {"common", "network-manager"},

	"examples": {"common", "api", "client", "plugin-manager/sdk", "plugin-manager/plugintest"},
	"test":     {"common", "api", "client", "daemon", "runtime", "network-manager", "plugin-manager", "attestation", "policy", "secret", "cluster", "cmd", "examples"},
}

// groups are folders of packages that are no packages themselves.
var groups = []string{
	"cmd", "api", "common", "runtime", "network-manager", "plugin-manager", "attestation", "policy", "secret", "cluster",
}

const (
	maxPackageLines = 1500 // of code: without tests, generated code, comments and blank lines
	maxFileLines    = 600  // likewise
)

// source is one parsed Go file.
type source struct {
	path      string // relative to the repository, with slashes
	lines     int
	generated bool
	imports   []string // within TERO, without the module's path
}

func (s source) test() bool { return strings.HasSuffix(s.path, "_test.go") }

func TestGroupsHoldNoCode(t *testing.T) {
	for _, s := range sources(t) {
		if slices.Contains(groups, path.Dir(s.path)) {
			t.Errorf("%s lies directly in a group folder: packages lie one below", s.path)
		}
	}
}

func TestImports(t *testing.T) {
	for _, s := range sources(t) {
		dir := path.Dir(s.path)
		if dir == "." {
			continue
		}
		home := ""
		for k := range mayImport {
			if within(dir, k) && len(k) > len(home) {
				home = k
			}
		}
		if home == "" {
			t.Errorf("%s: no import rule covers this folder; add one to mayImport and say why in ARCHITECTURE.md", s.path)
			continue
		}
		for _, imp := range s.imports {
			ok := within(imp, home) || slices.ContainsFunc(mayImport[home], func(a string) bool { return within(imp, a) })
			if !ok {
				t.Errorf("%s imports %s: %s may import only %s", s.path, imp, home, strings.Join(mayImport[home], ", "))
			}
		}
	}
}

func TestSizes(t *testing.T) {
	packages := map[string]int{}
	for _, s := range sources(t) {
		if s.test() || s.generated {
			continue
		}
		packages[path.Dir(s.path)] += s.lines
		if s.lines > maxFileLines {
			t.Errorf("%s has %d lines; a file has at most %d", s.path, s.lines, maxFileLines)
		}
	}
	for dir, lines := range packages {
		if lines > maxPackageLines {
			t.Errorf("package %s has %d lines; a package has at most %d", dir, lines, maxPackageLines)
		}
	}
}

// TestLinked keeps binaries small and fast to start: each names what it must
// not link, by import path or by a folder of import paths.
func TestLinked(t *testing.T) {
	forbidden := map[string][]string{
		"quantum-cni":   {"net", "net/http", "encoding/json", "google.golang.org", "github.com/spf13"},
		"tero-init":     {"net/http", "google.golang.org", "github.com/spf13", "github.com/containerd"},
		"tero":          {"net", "net/http", "encoding/json", "google.golang.org/grpc", "google.golang.org/protobuf", "github.com/spf13", "gopkg.in"},
		"tero/tero-cli": {"github.com/tetratelabs/wazero", "github.com/cedar-policy", "github.com/containerd", "go.etcd.io"},
		"quantum-api":   {"github.com/tetratelabs/wazero", "github.com/cedar-policy", "github.com/containerd"},
	}
	for binary, bad := range forbidden {
		t.Run(binary, func(t *testing.T) {
			cmd := exec.CommandContext(t.Context(), "go", "list", "-deps", "-tags", "grpcnotrace", "./cmd/"+binary)
			cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
			cmd.Stderr = os.Stderr
			out, err := cmd.Output()
			if err != nil {
				t.Fatal(err)
			}
			for dep := range strings.FieldsSeq(string(out)) {
				for _, b := range bad {
					if dep == b || strings.Contains(b, ".") && within(dep, b) {
						t.Errorf("links %s", dep)
					}
				}
			}
		})
	}
}

// within tells whether p is folder or lies below it.
func within(p, folder string) bool { return p == folder || strings.HasPrefix(p, folder+"/") }

// sources parses every Go file of the repository up to its imports. It reads
// files, not "go list", so that the test cache sees each of them.
func sources(t *testing.T) []source {
	t.Helper()
	var all []source
	err := filepath.WalkDir(".", func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			if n := d.Name(); p != "." && (n == "bin" || n == "tools" || n == "testdata" || strings.HasPrefix(n, ".")) {
				return filepath.SkipDir
			}
			return nil
		}
		if !strings.HasSuffix(p, ".go") {
			return nil
		}
		s, err := parse(p)
		all = append(all, s)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(all) < 10 {
		t.Fatalf("found %d Go files only; the test looks in the wrong place", len(all))
	}
	return all
}

func parse(p string) (source, error) {
	fset := token.NewFileSet()
	f, err := parser.ParseFile(fset, p, nil, parser.ImportsOnly|parser.ParseComments)
	if err != nil {
		return source{}, err
	}
	s := source{path: filepath.ToSlash(p), generated: ast.IsGenerated(f)}
	for _, i := range f.Imports {
		if imp, ok := strings.CutPrefix(strings.Trim(i.Path.Value, `"`), module+"/"); ok {
			s.imports = append(s.imports, imp)
		}
	}
	file, err := os.Open(p)
	if err != nil {
		return source{}, err
	}
	defer file.Close()
	for scan := bufio.NewScanner(file); scan.Scan(); {
		if l := strings.TrimSpace(scan.Text()); l != "" && !strings.HasPrefix(l, "//") {
			s.lines++
		}
	}
	return s, nil
}
