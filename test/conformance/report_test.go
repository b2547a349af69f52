package conformance

import (
	"fmt"
	"os"
	"path"
	"slices"
	"strings"
	"testing"
)

// review is a difference that somebody has looked at.
type review struct {
	// keys and bundles are patterns as of path.Match, without a special "/";
	// no bundles means all.
	keys, bundles []string
	// peer is the one that differs; both when "".
	peer  string
	class class
	// what is the difference in words, why its reason.
	what, why string
}

func (r *review) matches(f *finding) bool {
	return r.class == f.class && (r.peer == "" || r.peer == f.peer) && anyMatch(r.keys, f.key) &&
		(len(r.bundles) == 0 || anyMatch(r.bundles, f.bundle))
}

func anyMatch(patterns []string, s string) bool {
	flat := func(s string) string { return strings.ReplaceAll(s, "/", "\x01") }
	return slices.ContainsFunc(patterns, func(p string) bool {
		ok, err := path.Match(flat(p), flat(s))
		return err == nil && ok
	})
}

// report fails for what is looser or not reviewed, and for reviews of nothing;
// then it compares the list with the document.
func report(t *testing.T, all []finding, bundles int) {
	t.Helper()
	list := reviewed()
	matched := make([][]finding, len(list))
	unknown := map[string][]finding{}
	for _, f := range all {
		i := -1
		if f.class != looser {
			i = slices.IndexFunc(list, func(r review) bool { return r.matches(&f) })
		}
		if i < 0 {
			k := fmt.Sprint(f.class, "|", f.peer, "|", f.key, "|", f.tero, "|", f.theirs)
			unknown[k] = append(unknown[k], f)
			continue
		}
		matched[i] = append(matched[i], f)
	}
	var keys []string
	for k := range unknown {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	for _, k := range keys {
		t.Errorf("not reviewed, in %d bundles: %v", len(unknown[k]), unknown[k][0])
	}
	var doc strings.Builder
	fmt.Fprintf(&doc, header, bundles)
	for i, r := range list {
		if len(matched[i]) == 0 {
			t.Errorf("reviewed, but there is no such difference: %s: %s", r.what, strings.Join(r.keys, " "))
			continue
		}
		doc.WriteString(row(r, matched[i]))
	}
	if t.Failed() {
		return
	}
	t.Logf("%d differences in %d bundles, all reviewed:\n%s", len(all), bundles, doc.String())
	if *update {
		if err := os.WriteFile(document, []byte(doc.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	b, err := os.ReadFile(document)
	if err != nil {
		t.Fatal(err)
	}
	if string(b) != doc.String() {
		t.Errorf("%s is out of date: go test ./test/conformance -update", document)
	}
}

const header = `# Differences from crun and runc

The same %d bundles run through TERO's native sandbox, Debian's crun and Debian's runc, looked at from the inside by a probe:
namespaces, ids, capabilities, mounts, devices, limits, the answer to every system call, environment, exit codes. TERO is the
same, or as this list says. Written by ` + "`go test ./test/conformance -update`" + `; the test fails for a difference that is
not in it, for a line that is no longer true, and always where TERO would be looser.

| TERO is | What differs | From | Bundles | Why |
|---|---|---|---|---|
`

// row is the line of the document for a review.
func row(r review, found []finding) string {
	var peers, bundles []string
	for _, f := range found {
		peers, bundles = append(peers, f.peer), append(bundles, f.bundle)
	}
	unique := func(list []string) []string { slices.Sort(list); return slices.Compact(list) }
	peers, bundles = unique(peers), unique(bundles)
	in := fmt.Sprint(len(bundles))
	if len(bundles) == 1 {
		in = bundles[0]
	}
	return fmt.Sprintf("| %s | %s | %s | %s | %s |\n", r.class, r.what, strings.Join(peers, ", "), in, r.why)
}
