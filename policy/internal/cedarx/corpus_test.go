package cedarx

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"maps"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"

	cedar "github.com/cedar-policy/cedar-go"
	"github.com/cedar-policy/cedar-go/types"
	xschema "github.com/cedar-policy/cedar-go/x/exp/schema"
	"github.com/cedar-policy/cedar-go/x/exp/schema/validate"
)

// corpus reads the files of Cedar's official corpus, which cedar-go carries.
func corpus(t *testing.T) map[string][]byte {
	t.Helper()
	dir, err := exec.CommandContext(t.Context(), "go", "list", "-m", "-f", "{{.Dir}}", "github.com/cedar-policy/cedar-go").Output()
	if err != nil {
		t.Fatal(err)
	}
	// gzip, because Go's own takes ten seconds under the race detector.
	archive, err := exec.CommandContext(t.Context(), "gzip", "-dc", filepath.Join(strings.TrimSpace(string(dir)), "corpus-tests.tar.gz")).Output()
	if err != nil {
		t.Fatal(err)
	}
	files := map[string][]byte{}
	for tr := tar.NewReader(bytes.NewReader(archive)); ; {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return files
		}
		if err != nil {
			t.Fatal(err)
		}
		if files[h.Name], err = io.ReadAll(tr); err != nil {
			t.Fatal(err)
		}
	}
}

type corpusCase struct {
	Schema   string `json:"schema"`
	Policies string `json:"policies"`
	Entities string `json:"entities"`
	Requests []struct {
		Principal types.EntityUID  `json:"principal"`
		Action    types.EntityUID  `json:"action"`
		Resource  types.EntityUID  `json:"resource"`
		Context   types.Record     `json:"context"`
		Decision  cedar.Decision   `json:"decision"`
		Reasons   []cedar.PolicyID `json:"reason"`
		Errors    []cedar.PolicyID `json:"errors"`
	} `json:"requests"`
}

// TestOfficialCorpus puts every request of Cedar's official corpus through the
// index: decision, reasons and errors must be those of the reference.
func TestOfficialCorpus(t *testing.T) {
	files := corpus(t)
	var cases []string
	for _, name := range slices.Sorted(maps.Keys(files)) {
		if strings.HasSuffix(name, ".json") && !strings.HasSuffix(name, ".entities.json") && !strings.HasPrefix(filepath.Base(name), ".") {
			cases = append(cases, name)
		}
	}
	var requests atomic.Int64
	t.Run("cases", func(t *testing.T) {
		for i, part := range slices.Collect(slices.Chunk(cases, 1+len(cases)/4)) {
			t.Run(strconv.Itoa(i), func(t *testing.T) {
				t.Parallel()
				for _, name := range part {
					requests.Add(runCorpusCase(t, files, name))
				}
			})
		}
	})
	t.Logf("%d cases, %d requests", len(cases), requests.Load())
	if requests.Load() < 50_000 {
		t.Errorf("only %d requests found", requests.Load())
	}
}

func runCorpusCase(t *testing.T, files map[string][]byte, name string) int64 {
	t.Helper()
	var c corpusCase
	if err := json.Unmarshal(files[name], &c); err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	policies, err := cedar.NewPolicySetFromBytes("policy.cedar", files[c.Policies])
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	var entities types.EntityMap
	if err := json.Unmarshal(files[c.Entities], &entities); err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	index := NewIndex(corpusSchema(t, files[c.Schema], entities), policies.All())
	for _, r := range c.Requests {
		got, diag := index.Authorize(entities, cedar.Request{Principal: r.Principal, Action: r.Action, Resource: r.Resource, Context: r.Context})
		want, reasons := r.Decision, r.Reasons
		if want == cedar.Allow && slices.ContainsFunc(r.Errors, func(id cedar.PolicyID) bool { return policies.Get(id).Effect() == cedar.Forbid }) {
			want, reasons = cedar.Deny, nil // the strict difference
		}
		var gotReasons, gotErrors []cedar.PolicyID
		for _, x := range diag.Reasons {
			gotReasons = append(gotReasons, x.PolicyID)
		}
		for _, x := range diag.Errors {
			gotErrors = append(gotErrors, x.PolicyID)
		}
		if got != want || !same(reasons, gotReasons) || !same(r.Errors, gotErrors) {
			t.Errorf("%s: %v, want %v; reasons %v, want %v; errors %v, want %v", name, got, want, gotReasons, reasons, gotErrors, r.Errors)
		}
	}
	return int64(len(c.Requests))
}

func same(a, b []cedar.PolicyID) bool {
	slices.Sort(a)
	slices.Sort(b)
	return slices.Equal(a, b)
}

// corpusSchema gives the case's schema; the groups of actions are those that
// the case's entities say.
func corpusSchema(t *testing.T, text []byte, entities types.EntityMap) *Schema {
	t.Helper()
	var s xschema.Schema
	if err := s.UnmarshalCedar(bytes.TrimSpace(text)); err != nil {
		t.Fatalf("schema: %v", err)
	}
	r, err := s.Resolve()
	if err != nil {
		t.Fatalf("schema: %v", err)
	}
	out := &Schema{resolved: r, validator: validate.New(r), actions: map[types.EntityUID][]types.EntityUID{}}
	for uid := range r.Actions {
		list := []types.EntityUID{uid}
		for i := 0; i < len(list); i++ {
			for p := range entities[list[i]].Parents.All() {
				if !slices.Contains(list, p) {
					list = append(list, p)
				}
			}
		}
		out.actions[uid] = list
	}
	return out
}
