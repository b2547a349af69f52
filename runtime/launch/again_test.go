package launch_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"

	"tero.internal/common/workload"
)

// TestAgain goes through the same steps, and keeps what an earlier run left.
func TestAgain(t *testing.T) {
	end := []string{"end"}
	for name, c := range map[string]struct {
		fail     string
		image    digest.Digest
		resolved []string
		calls    []string
	}{
		"works":  {"", "sha256:aa", []string{"web"}, append(end, forward...)},
		"fails":  {"start true", "sha256:aa", []string{"web"}, append(append(end, forward...), "undo attach", "undo enrol", "end", released)},
		"cannot": {"end", "sha256:aa", nil, end},
		// The name means another image by now; the one that ran is asked for.
		"renamed": {"", "sha256:bb", []string{"web", "web@sha256:bb"}, append([]string{"end", "resolve", released}, forward...)},
	} {
		t.Run(name, func(t *testing.T) {
			f := &trace{fail: c.fail}
			spec := workload.Spec{Name: "web", Image: "web", Network: "default"}
			_, err := pipeline(t, f).Again(t.Context(), workload.Principal{Local: true}, workload.NewID(), spec, c.image)
			if (err != nil) != (c.fail != "") {
				t.Errorf("%v", err)
			}
			if diff := cmp.Diff(c.calls, f.calls); diff != "" {
				t.Errorf("steps (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(c.resolved, f.resolved); diff != "" {
				t.Errorf("resolved (-want +got):\n%s", diff)
			}
		})
	}
}

// TestReadmit asks plugins and policy, and does nothing.
func TestReadmit(t *testing.T) {
	for fail, want := range map[string][]string{
		"":                 {"admit by plugins", "admit by policy"},
		"admit by plugins": {"admit by plugins"},
		"admit by policy":  {"admit by plugins", "admit by policy"},
	} {
		f := &trace{fail: fail}
		spec := workload.Spec{Name: "web", Image: "web", Network: "default", Labels: map[string]string{}, Resources: workload.Resources{Pids: 7}}
		got, grant, err := pipeline(t, f).Readmit(t.Context(), workload.Principal{Local: true}, spec, workload.Image{Digest: "sha256:aa"})
		if (err != nil) != (fail != "") {
			t.Errorf("%s: %v", fail, err)
		}
		if err == nil && (got.Labels["checked-by"] == "" || grant.PolicyDigest == "" || f.admission.Spec.Resources.Pids != 7 || f.admission.SPIFFEID == "") {
			t.Errorf("%+v, %+v, policy was asked %+v", got, grant, f.admission)
		}
		if diff := cmp.Diff(want, f.calls); diff != "" {
			t.Errorf("%s (-want +got):\n%s", fail, diff)
		}
	}
}
