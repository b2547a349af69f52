package bundle_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"tero.internal/policy/bundle"
)

func file(name, content string) bundle.File {
	return bundle.File{Name: name, Content: []byte(content)}
}

func parse(t testing.TB, files ...bundle.File) (*bundle.Set, []string) {
	t.Helper()
	set, problems, err := bundle.Parse(files)
	if err != nil {
		t.Fatal(err)
	}
	var texts []string
	for _, p := range problems {
		texts = append(texts, p.String())
	}
	if (set == nil) != (len(texts) > 0) {
		t.Fatalf("set %v with problems %v", set, texts)
	}
	return set, texts
}

const permit = `permit (principal, action == Tero::Action::"launch", resource)`

func TestDefaults(t *testing.T) {
	set, problems := parse(t)
	if problems != nil {
		t.Fatal(problems)
	}
	var ids []string
	for _, p := range set.Policies() {
		ids = append(ids, p.ID)
	}
	if diff := cmp.Diff([]string{"allow-signed", "auditors-read", "operators-api", "root-api"}, ids); diff != "" || !set.BuiltIn {
		t.Errorf("built in %v\n%s", set.BuiltIn, diff)
	}
	p, ok := set.Policy("allow-signed")
	if !ok || p.File != "launch.cedar" || p.Line != 3 || p.Effect != "permit" || !strings.HasPrefix(p.Text, `@id("allow-signed")`) || !strings.HasSuffix(p.Text, "};") {
		t.Errorf("%+v", p)
	}
	if _, ok := set.Policy("nope"); ok {
		t.Error("a policy that is not there was found")
	}
	again, _ := parse(t)
	if set.Digest != again.Digest || set.Digest.Validate() != nil {
		t.Errorf("digests %s, %s", set.Digest, again.Digest)
	}
}

func TestProblems(t *testing.T) {
	for _, c := range []struct {
		name    string
		content string
		want    []string
	}{
		{"syntax", "// one\n" + permit + "\nwhen { context. };", []string{`a.cedar:3:18: not Cedar: `}},
		{"no name", "\n" + permit + ";", []string{`a.cedar:2:1: the policy has no name: put @id("some-name") before it`}},
		{"bad name", `@id("Has Space") ` + permit + ";", []string{`a.cedar:1: policy "Has Space": the name "Has Space" is not`}},
		{"same name", `@id("a") ` + permit + ";\n" + `@id("a") ` + permit + ";", []string{`a.cedar:2:1: policy "a": the name is taken by the policy at a.cedar:1`}},
		{"unknown action", `@id("a") permit (principal, action == Tero::Action::"lunch", resource);`, []string{"a.cedar:1", `policy "a": unrecognized action`, "lunch"}},
		{"unknown entity type", `@id("a")` + "\n" + `permit (principal == Tero::Usr::"uid:0", action, resource);`, []string{"a.cedar:2:22", "unrecognized entity type `Tero::Usr`"}},
		{"entity type without namespace", `@id("a") permit (principal == User::"uid:0", action, resource);`, []string{"a.cedar:1", "unrecognized entity type `User`"}},
		{"unknown attribute", `@id("a")` + "\n" + permit + "\nwhen {\n  context.signed &&\n  context.sgned2\n};", []string{"a.cedar:5:11", `policy "a": attribute ` + "`sgned2`"}},
		{"attribute of another action", `@id("a") permit (principal, action == Tero::Action::"stop", resource) when { context.signed };`, []string{"attribute `signed`"}},
		{"attribute without its action", `@id("a") permit (principal, action, resource) when { context.signed };`, []string{"attribute `signed`"}},
		{"type", `@id("a") ` + permit + ` when { context.signed == "yes" };`, []string{"a.cedar:1", "the types Bool and String are not compatible"}},
		{"optional unguarded", `@id("a") ` + permit + ` when { context.image.tag == "v1" };`, []string{"unable to guarantee safety of access to optional attribute"}},
		{"tag unguarded", `@id("a") ` + permit + ` when { resource.getTag("x") == "y" };`, []string{"unable to guarantee safety of access to tag"}},
		{"unknown annotation", `@id("a")` + "\n" + `@mod("audit") ` + permit + ";", []string{`a.cedar:2: policy "a": unknown annotation @mod`}},
		{"bad mode", `@id("a") @mode("try") ` + permit + ";", []string{`@mode("try") is neither`}},
		{"reason for what is not read", `@id("a") @reason_signed("x") ` + permit + ` when { context.terminal };`, []string{"@reason_signed is about context.signed, which the policy does not read"}},
		{"unknown placeholder", `@id("a") @reason("no {image.name}") ` + permit + ";", []string{"@reason names {image.name}"}},
		{"annotation twice", `@id("a") @id("b") ` + permit + ";", []string{"duplicate annotation"}},
		{"deep nesting", `@id("a") ` + permit + " when { " + strings.Repeat("(", 200) + "true" + strings.Repeat(")", 200) + " };", []string{"brackets nest deeper than 100"}},
		{"many operators", `@id("a") ` + permit + " when { " + strings.Repeat("!", 6000) + "true };", []string{"more than 5000 operators"}},
		{"long policy", `@id("a") ` + permit + " when { " + strings.Repeat(" ", 70<<10) + "true };", []string{"longer than 65536 bytes"}},
		{"not text", "\xff\xfe", []string{"not UTF-8"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, got := parse(t, file("a.cedar", c.content))
			text := strings.Join(got, "\n")
			for _, w := range c.want {
				if !strings.Contains(text, w) {
					t.Errorf("problems %q do not hold %q", text, w)
				}
			}
			if len(got) == 0 {
				t.Error("no problem found")
			}
		})
	}
}

func TestAllProblemsAreTold(t *testing.T) {
	_, got := parse(t,
		file("a.cedar", `@id("a") permit (principal, action == Tero::Action::"nope", resource);`),
		file("b.cedar", "permit"), file("c.ceder", ""), file("../x.cedar", ""), file("b.cedar", ""), file("entities.json", "[{]"))
	want := []string{"a.cedar:1", "b.cedar:1", "c.ceder: not a policy file", `"../x.cedar": a file's name`, "b.cedar: the file is given twice", "entities.json:1"}
	if len(got) != len(want) {
		t.Fatalf("%d problems: %q", len(got), got)
	}
	for i, w := range want {
		if !strings.HasPrefix(got[i], w) {
			t.Errorf("%q, want %q", got[i], w)
		}
	}
}

func TestEntities(t *testing.T) {
	policies := file("a.cedar", `@id("a") `+permit+";")
	for _, c := range []struct{ name, content, want string }{
		{"roles", `[{"uid":{"type":"Tero::User","id":"uid:1000"},"parents":[{"type":"Tero::Role","id":"operator"}]},{"uid":{"type":"Tero::Role","id":"operator"},"attrs":{},"parents":[{"type":"Tero::Role","id":"auditor"}]}]`, ""},
		{"remote", `[{"uid":{"type":"Tero::User","id":"spiffe://a/user/b"},"parents":[{"type":"Tero::Role","id":"operator"}]},{"uid":{"type":"Tero::Node","id":"spiffe://a/node/b"},"parents":[{"type":"Tero::Role","id":"peer"}]}]`, ""},
		{"attributes", `[{"uid":{"type":"Tero::User","id":"uid:1"},"attrs":{"uid":0}}]`, `entry 1 (Tero::User::"uid:1"): attributes come from the request`},
		{"unknown type", `[{"uid":{"type":"Tero::Group","id":"x"}}]`, "can have roles"},
		{"other entity", `[{"uid":{"type":"Tero::Network","id":"default"}}]`, "can have roles"},
		{"user by name", `[{"uid":{"type":"Tero::User","id":"root"}}]`, "neither uid:N nor a SPIFFE ID"},
		{"uid with zeros", `[{"uid":{"type":"Tero::User","id":"uid:00"}}]`, "is not uid: and a number"},
		{"wrong parent", `[{"uid":{"type":"Tero::User","id":"uid:1"},"parents":[{"type":"Tero::User","id":"uid:0"}]}]`, "entry 1"},
		{"twice", `[{"uid":{"type":"Tero::Role","id":"a"}},{"uid":{"type":"Tero::Role","id":"a"}}]`, "entry 2"},
		{"cycle", `[{"uid":{"type":"Tero::Role","id":"a"},"parents":[{"type":"Tero::Role","id":"b"}]},{"uid":{"type":"Tero::Role","id":"b"},"parents":[{"type":"Tero::Role","id":"a"}]}]`, "is a member of itself"},
		{"unknown member", "[{\"uid\":{\"type\":\"Tero::Role\",\"id\":\"a\"},\n\"parent\":[]}]", "entities.json:2"},
		{"member twice", `[{"uid":{"type":"Tero::Role","id":"a"},"uid":{"type":"Tero::Role","id":"b"}}]`, "duplicate"},
		{"no id", `[{"uid":{"type":"Tero::Role"}}]`, "uid needs type and id"},
		{"an object", `{}`, "not a list of entities"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, got := parse(t, policies, file("entities.json", c.content))
			if text := strings.Join(got, "\n"); (c.want == "") != (text == "") || !strings.Contains(text, c.want) {
				t.Errorf("%q, want %q", text, c.want)
			}
		})
	}
}

// TestDigest tells what the digest depends on.
func TestDigest(t *testing.T) {
	a, b := file("a.cedar", `@id("a") `+permit+";"), file("b.cedar", `@id("b") `+permit+";")
	first, _ := parse(t, a, b)
	swapped, _ := parse(t, b, a)
	if first.Digest != swapped.Digest {
		t.Error("the order of the files changes the digest")
	}
	seen := map[string]bool{first.Digest.String(): true}
	for _, files := range [][]bundle.File{
		{a},
		{a, file("b.cedar", `@id("b") `+permit+";\n")},
		{a, file("c.cedar", `@id("b") `+permit+";")},
		{a, b, file("entities.json", "[]")},
		nil,
	} {
		set, problems := parse(t, files...)
		if problems != nil {
			t.Fatal(problems)
		}
		if seen[set.Digest.String()] {
			t.Errorf("another set has the same digest: %v", files)
		}
		seen[set.Digest.String()] = true
	}
}

func TestTextEndsAtItsSemicolon(t *testing.T) {
	content := "@id(\"a\")\n@reason(\"semi; colon\") // and; here\n" + permit + " when { context.user == \"a\\\";\" }; // rest\n@id(\"b\") " + permit + ";"
	set, problems := parse(t, file("a.cedar", content))
	if problems != nil {
		t.Fatal(problems)
	}
	a, _ := set.Policy("a")
	b, _ := set.Policy("b")
	if !strings.HasSuffix(a.Text, `"a\";" };`) || b.Text != `@id("b") `+permit+";" || b.Line != 4 {
		t.Errorf("%q\n%q %d", a.Text, b.Text, b.Line)
	}
}

func TestFolder(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "etc", "policies")
	if files, err := bundle.ReadDir(dir); err != nil || files != nil {
		t.Fatalf("a missing folder: %v, %v", files, err)
	}
	one := []bundle.File{file("a.cedar", "1"), file("b.cedar", "2")}
	if err := bundle.WriteDir(dir, one); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "README.md"), []byte("kept"), 0o600); err != nil {
		t.Fatal(err)
	}
	two := []bundle.File{file("c.cedar", "3")}
	if err := bundle.WriteDir(dir, two); err != nil {
		t.Fatal(err)
	}
	got, err := bundle.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(two, got); diff != "" {
		t.Error(diff)
	}
	if b, err := os.ReadFile(filepath.Join(dir, "README.md")); err != nil || string(b) != "kept" {
		t.Errorf("the operator's notes are gone: %q, %v", b, err)
	}
	left, err := os.ReadDir(filepath.Dir(dir))
	if err != nil || len(left) != 1 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

func TestLeftoversOfAKilledWrite(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "policies")
	for _, d := range []string{".policies.staged-123", "policies", ".other.staged-1"} {
		if err := os.MkdirAll(filepath.Join(filepath.Dir(dir), d, "x"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := bundle.RemoveLeftovers(dir); err != nil {
		t.Fatal(err)
	}
	left, err := os.ReadDir(filepath.Dir(dir))
	if err != nil || len(left) != 2 || left[0].Name() != ".other.staged-1" || left[1].Name() != "policies" {
		t.Errorf("%v, %v", left, err)
	}
}

func TestFolderRefusesWhatIsNoFile(t *testing.T) {
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "sub"), 0o755); err != nil {
		t.Fatal(err)
	}
	if _, err := bundle.ReadDir(dir); err == nil || !strings.Contains(err.Error(), "sub is not a regular file") {
		t.Errorf("%v", err)
	}
}

func TestFill(t *testing.T) {
	got := bundle.Fill("{a} and {b}, {}", func(p string) (string, bool) { return "<" + p + ">", p == "a" })
	if got != "<a> and {b}, {}" {
		t.Error(got)
	}
}

func FuzzParse(f *testing.F) {
	files, err := bundle.Default()
	if err != nil {
		f.Fatal(err)
	}
	for _, file := range files {
		f.Add(file.Content, []byte("[]"))
	}
	f.Add([]byte(`@id("a") `+permit+` when { context.image has tag && context.image.tag like "v*" && resource.hasTag("x") };`),
		[]byte(`[{"uid":{"type":"Tero::User","id":"uid:1000"},"parents":[{"type":"Tero::Role","id":"operator"}]}]`))
	f.Add([]byte(`@id("a") forbid (principal, action in [Tero::Action::"read"], resource) unless { if true then principal has uid else ip("::1").isLoopback() };`), []byte(`{`))
	f.Fuzz(func(t *testing.T, policies, entities []byte) {
		files := []bundle.File{{Name: "a.cedar", Content: policies}, {Name: "entities.json", Content: entities}}
		set, problems, err := bundle.Parse(files)
		if err != nil || (set == nil) == (len(problems) == 0) {
			t.Fatalf("%v, %v, %v", set, problems, err)
		}
		if set == nil {
			return
		}
		again, _, _ := bundle.Parse(files)
		if again == nil || again.Digest != set.Digest {
			t.Fatal("the same files made another set")
		}
		for _, p := range set.Policies() {
			if !strings.HasSuffix(p.Text, ";") || p.ID == "" {
				t.Errorf("policy %q has text %q", p.ID, p.Text)
			}
		}
	})
}
