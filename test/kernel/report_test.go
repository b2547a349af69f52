package kernel

import (
	"bufio"
	"fmt"
	"io"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// report is what a test binary printed and how it ended.
type report struct {
	output string
	code   int
	took   time.Duration
}

// read reads what the machine's runner prints until it ends.
func read(r io.Reader) (map[string]report, error) {
	reports := map[string]report{}
	var output strings.Builder
	name, done := "", false
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		line := strings.TrimSuffix(lines.Text(), "\r")
		fields := strings.Fields(line)
		switch {
		case strings.HasPrefix(line, "@@ begin ") && len(fields) == 3:
			name = fields[2]
			output.Reset()
		case strings.HasPrefix(line, "@@ end "+name+" ") && len(fields) == 5:
			code, err := strconv.Atoi(fields[3])
			if err != nil {
				return reports, err
			}
			seconds, err := strconv.ParseFloat(fields[4], 64)
			if err != nil {
				return reports, err
			}
			reports[name] = report{output.String(), code, time.Duration(seconds * float64(time.Second))}
			name = ""
			output.Reset()
		case line == "@@ done":
			done = true
		default:
			output.WriteString(line + "\n")
		}
	}
	switch {
	case lines.Err() != nil:
		return reports, lines.Err()
	case name != "":
		return reports, fmt.Errorf("the machine ended during the tests of %s, which printed:\n%s", name, output.String())
	case !done:
		return reports, fmt.Errorf("the machine ended before its tests did: %s", output.String())
	}
	return reports, nil
}

// judge gives the number of tests that passed, or what is wrong.
func (r report) judge() (passed int, err error) {
	passed = len(regexp.MustCompile(`(?m)^--- PASS: `).FindAllString(r.output, -1))
	skipped := regexp.MustCompile(`(?m)^\s*--- SKIP: .*`).FindAllString(r.output, -1)
	switch {
	case r.code != 0 || !strings.Contains("\n"+r.output, "\nPASS\n"):
		return passed, fmt.Errorf("failed with code %d:\n%s", r.code, r.output)
	case passed == 0:
		return 0, fmt.Errorf("no test ran:\n%s", r.output)
	case len(skipped) > 0:
		return passed, fmt.Errorf("skipped, which must run here:\n%s", strings.Join(skipped, "\n"))
	}
	return passed, nil
}

func TestReports(t *testing.T) {
	const good = "@@ begin a\r\n=== RUN   TestX\r\n--- PASS: TestX (0.00s)\r\nPASS\r\n\r\n@@ end a 0 1.5\r\n"
	for name, c := range map[string]struct {
		printed string
		errs    []string // of read, and of judge for a; "" for none
	}{
		"passed":           {good + "@@ done\r\n", []string{"", ""}},
		"panic in between": {good, []string{"ended before its tests did", ""}},
		"panic in a test":  {good + "@@ begin b\n=== RUN   TestY\n", []string{"during the tests of b", ""}},
		"no start":         {"", []string{"ended before", "failed with code 0"}},
		"failed":           {strings.Replace(good, "a 0", "a 1", 1) + "@@ done\n", []string{"", "failed with code 1"}},
		"quit early":       {strings.Replace(good, "PASS\r", "\r", 1) + "@@ done\n", []string{"", "failed with code 0"}},
		"no tests":         {"@@ begin a\ntesting: warning: no tests to run\nPASS\n@@ end a 0 0.1\n@@ done\n", []string{"", "no test ran"}},
		"skipped":          {strings.Replace(good, "PASS\r", "--- SKIP: TestZ (0.00s)\r\nPASS\r", 1) + "@@ done\n", []string{"", "TestZ"}},
		"not a number":     {"@@ begin a\n@@ end a x 1\n@@ done\n", []string{"invalid syntax", "failed"}},
	} {
		t.Run(name, func(t *testing.T) {
			reports, readErr := read(strings.NewReader(c.printed))
			_, judgeErr := reports["a"].judge()
			for i, err := range []error{readErr, judgeErr} {
				if (err == nil) != (c.errs[i] == "") || err != nil && !strings.Contains(err.Error(), c.errs[i]) {
					t.Errorf("%d: %v, want %q", i, err, c.errs[i])
				}
			}
		})
	}
	reports, err := read(strings.NewReader(good + "@@ done\n"))
	want := map[string]report{"a": {"=== RUN   TestX\n--- PASS: TestX (0.00s)\nPASS\n\n", 0, 1500 * time.Millisecond}}
	if diff := cmp.Diff(want, reports, cmp.AllowUnexported(report{})); diff != "" || err != nil {
		t.Error(diff, err)
	}
}
