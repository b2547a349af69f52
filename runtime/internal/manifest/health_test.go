package manifest

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"tero.internal/common/fault"
	"tero.internal/common/workload"
)

func TestParseHealth(t *testing.T) {
	for name, c := range map[string]struct {
		config string
		want   *workload.Health
		wrong  string
	}{
		"none":         {config: `{"config":{"Cmd":["/web"]}}`},
		"inherited":    {config: `{"config":{"Healthcheck":{"Test":[]}}}`},
		"switched off": {config: `{"config":{"Healthcheck":{"Test":["NONE"]}}}`},
		"a command": {config: `{"config":{"Healthcheck":{"Test":["CMD","/check","-v"],"Interval":5000000000,"Timeout":1000000000,"StartPeriod":2000000000,"StartInterval":3000000000,"Retries":4}}}`, want: &workload.Health{
			Command: []string{"/check", "-v"}, Interval: 5 * time.Second, Timeout: time.Second, StartPeriod: 2 * time.Second, StartInterval: 3 * time.Second, Retries: 4,
		}},
		"by a shell":   {config: `{"config":{"Healthcheck":{"Test":["CMD-SHELL","curl -f localhost || exit 1"]}}}`, want: &workload.Health{Command: []string{"/bin/sh", "-c", "curl -f localhost || exit 1"}}},
		"its shell":    {config: `{"config":{"Shell":["/bin/bash","-ec"],"Healthcheck":{"Test":["CMD-SHELL","x"]}}}`, want: &workload.Health{Command: []string{"/bin/bash", "-ec", "x"}}},
		"no command":   {config: `{"config":{"Healthcheck":{"Test":["CMD"]}}}`, wrong: "names no command"},
		"two commands": {config: `{"config":{"Healthcheck":{"Test":["CMD-SHELL","a","b"]}}}`, wrong: "CMD-SHELL"},
		"another form": {config: `{"config":{"Healthcheck":{"Test":["HTTP","/"]}}}`, wrong: "HTTP"},
		"a NUL":        {config: `{"config":{"Healthcheck":{"Test":["CMD","a\u0000b"]}}}`, wrong: "NUL"},
		"negative":     {config: `{"config":{"Healthcheck":{"Test":["CMD","a"],"Interval":-5}}}`, wrong: "1 ms"},
		"no number":    {config: `{"config":{"Healthcheck":{"Test":["CMD","a"],"Retries":"x"}}}`, wrong: "health check"},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := parseHealth([]byte(c.config), "image x")
			if c.wrong != "" {
				if fault.KindOf(err) != fault.Invalid || !strings.Contains(err.Error(), c.wrong) {
					t.Errorf("%v, want it to say %q", err, c.wrong)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}
