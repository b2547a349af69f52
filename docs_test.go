package arch

import (
	"os"
	"path"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// TestThreatModelNamesTests holds the tables of flaws against the code: each test
// that is named is there, and each flaw has one, or says that there is nothing.
func TestThreatModelNamesTests(t *testing.T) {
	tests, cases := map[string]bool{}, map[string]bool{}
	function := regexp.MustCompile(`(?m)^func ((?:Test|Fuzz)\w+)\(`)
	literal := regexp.MustCompile(`"(?:[^"\\]|\\.)*": s\.`)
	for _, s := range sources(t) {
		b, err := os.ReadFile(s.path)
		if err != nil {
			t.Fatal(err)
		}
		if s.test() {
			for _, m := range function.FindAllStringSubmatch(string(b), -1) {
				tests[m[1]] = true
			}
		}
		if path.Dir(s.path) == "runtime/sandbox/sandboxtest" {
			for _, m := range literal.FindAllString(string(b), -1) {
				name, err := strconv.Unquote(strings.TrimSuffix(m, ": s."))
				if err != nil {
					t.Fatal(err)
				}
				cases[name] = true
			}
		}
	}
	b, err := os.ReadFile("docs/threat-model.md")
	if err != nil {
		t.Fatal(err)
	}
	named := regexp.MustCompile("`(\\w+)(?: \"([^\"]+)\")?`")
	flaws := 0
	for line := range strings.Lines(string(b)) {
		columns := strings.Split(strings.TrimSpace(line), "|")
		if len(columns) != 6 || !strings.Contains(columns[1], "CVE-") && !strings.Contains(columns[1], "GHSA-") {
			continue
		}
		flaws++
		found := named.FindAllStringSubmatch(columns[4], -1)
		if len(found) == 0 && strings.TrimSpace(columns[4]) != "nothing to test" {
			t.Errorf("no test is named for%s", columns[1])
		}
		for _, m := range found {
			if !tests[m[1]] {
				t.Errorf("%s: there is no %s", columns[1], m[1])
			}
			if m[2] != "" && !cases[m[2]] {
				t.Errorf("%s: the suite of drivers has no case %q", columns[1], m[2])
			}
		}
	}
	if flaws < 40 {
		t.Errorf("%d flaws: the tables were not found", flaws)
	}
}
