package ocilayout_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"tero.internal/common/fault"
	"tero.internal/common/ocilayout"
)

const hex64 = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"

func TestParseReference(t *testing.T) {
	for in, want := range map[string]string{
		"web":                             "localhost/web:latest",
		"web:v1":                          "localhost/web:v1",
		"team/web":                        "localhost/team/web:latest",
		"localhost/web:v1":                "localhost/web:v1",
		"localhost:5000/web":              "localhost:5000/web:latest",
		"registry.example/a/b:t":          "registry.example/a/b:t",
		"web@sha256:" + hex64:             "localhost/web@sha256:" + hex64,
		"web:v1@sha256:" + hex64:          "localhost/web:v1@sha256:" + hex64,
		"Registry/web":                    "Registry/web:latest",
		"x/a__b.c--d/e_f":                 "localhost/x/a__b.c--d/e_f:latest",
		"web:" + strings.Repeat("x", 128): "localhost/web:" + strings.Repeat("x", 128),
	} {
		r, err := ocilayout.ParseReference(in)
		if err != nil {
			t.Errorf("%q: %v", in, err)
			continue
		}
		if diff := cmp.Diff(want, r.String()); diff != "" {
			t.Errorf("%q (-want +got):\n%s", in, diff)
		}
		if again, err := ocilayout.ParseReference(r.String()); err != nil || again != r {
			t.Errorf("%q reads back as %v, %v", r, again, err)
		}
	}
}

func TestParseReferenceTellsWhatIsWrongWhere(t *testing.T) {
	for in, want := range map[string]string{
		"":                                     "empty",
		"Web":                                  `character 1: 'W' is upper case`,
		"web:":                                 "character 5: the tag",
		"web:-x":                               `character 5: '-'`,
		"web:a b":                              `character 6: ' '`,
		"web:" + strings.Repeat("x", 129):      "character 133: the tag is longer than 128",
		"we b":                                 `character 3: ' '`,
		"a//b":                                 "character 3: a part of the repository is empty",
		"web/":                                 "character 5: a part",
		"/web":                                 "character 1: a part",
		"a..b":                                 "character 2",
		"a___b":                                "character 2",
		"-web":                                 "character 1",
		"localhost/":                           "character 11: the repository is empty",
		"reg.example:port/web":                 `character 13: 'p'`,
		"reg.example:/web":                     "the registry's port",
		"reg-.example/web":                     `character 5: '.'`,
		"reg./web":                             "cannot end with",
		"web@sha256:12":                        "character 5: the digest",
		"web@md5:0123456789abcdef":             "character 5: the digest",
		"web@sha256:" + strings.ToUpper(hex64): "character 5: the digest",
		"../etc/passwd":                        "character 1",
		"web\x00":                              "character 4",
		strings.Repeat("x", 256):               "longer than 255",
	} {
		r, err := ocilayout.ParseReference(in)
		if fault.KindOf(err) != fault.Invalid {
			t.Errorf("%q: %v, %v; want a fault of kind invalid", in, r, err)
			continue
		}
		if !strings.Contains(err.Error(), want) || fault.HintOf(err) == "" {
			t.Errorf("%q: %q (hint %q) does not say %q", in, err, fault.HintOf(err), want)
		}
	}
}

func FuzzParseReference(f *testing.F) {
	for _, s := range []string{"web", "web:v1", "a.b:5/c/d:e@sha256:" + hex64, "localhost", "A/b", ":", "@", "a/:b", "\xff"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		r, err := ocilayout.ParseReference(s)
		if err != nil {
			if fault.KindOf(err) != fault.Invalid {
				t.Fatalf("%q: %v is not invalid", s, err)
			}
			return
		}
		again, err := ocilayout.ParseReference(r.String())
		if err != nil || again != r {
			t.Fatalf("%q gives %q, which reads back as %q, %v", s, r, again, err)
		}
		if strings.Contains(r.String(), "..") || strings.ContainsAny(r.String(), " \x00") && !strings.ContainsAny(s, " \x00") {
			t.Fatalf("%q gives %q", s, r)
		}
	})
}
