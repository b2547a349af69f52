package engine

import (
	"fmt"
	"log/slog"
	"maps"
	"strings"
	"testing"

	cedar "github.com/cedar-policy/cedar-go"

	"tero.internal/policy/bundle"
)

// large gives an engine with n policies about other workloads and repositories
// than "web", and a few about it.
func large(t testing.TB, n int) *Engine {
	t.Helper()
	dir := t.TempDir()
	write(t, dir, map[string]string{"a.cedar": rootAPI + manyPolicies(n)})
	e, err := Open(t.Context(), Config{Dir: dir, StateDir: t.TempDir(), Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = e.Close() })
	return e
}

func manyPolicies(n int) string {
	var b strings.Builder
	b.WriteString(`@id("web") permit (principal, action == Tero::Action::"launch", resource == Tero::Workload::"web") when { context.signed };` + "\n")
	for i := range n - 2 {
		switch i % 3 {
		case 0:
			fmt.Fprintf(&b, "@id(\"w%d\") permit (principal, action == Tero::Action::\"launch\", resource == Tero::Workload::\"app%d\") when { context.signed && context.signers.contains(\"k%d\") };\n", i, i, i)
		case 1:
			fmt.Fprintf(&b, "@id(\"r%d\") forbid (principal, action == Tero::Action::\"launch\", resource in Tero::Repository::\"localhost/r%d\") unless { context.capabilities.isEmpty() };\n", i, i)
		default:
			fmt.Fprintf(&b, "@id(\"u%d\") permit (principal == Tero::User::\"uid:%d\", action in Tero::Action::\"read\", resource);\n", i, 1000+i)
		}
	}
	return b.String()
}

// BenchmarkDecide compares the index with cedar.Authorize over all policies.
func BenchmarkDecide(b *testing.B) {
	for _, n := range []int{10, 10_000} {
		e := large(b, n)
		a := e.now.Load()
		r, err := launchRequest(signed("web"), a.set.Entities())
		if err != nil {
			b.Fatal(err)
		}
		all := cedar.PolicyMap(maps.Collect(a.set.Mode(bundle.Enforce)))
		b.Run(fmt.Sprintf("policies=%d/tero", n), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if v := a.decide(r); !v.allowed {
					b.Fatal("refused")
				}
			}
		})
		b.Run(fmt.Sprintf("policies=%d/cedar-go", n), func(b *testing.B) {
			b.ReportAllocs()
			entities := overlay{a.set.Entities(), r}
			for b.Loop() {
				if d, _ := cedar.Authorize(all, entities, r.cedar); d != cedar.Allow {
					b.Fatal("refused")
				}
			}
		})
	}
}

// BenchmarkAdmit is the whole of AdmitLaunch: request, decision, record on disk.
func BenchmarkAdmit(b *testing.B) {
	for _, n := range []int{10, 10_000} {
		e := large(b, n)
		b.Run(fmt.Sprintf("policies=%d", n), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := e.AdmitLaunch(b.Context(), signed("web")); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkAuthorize is a permitted reading call, as of "tero ps".
func BenchmarkAuthorize(b *testing.B) {
	e := large(b, 10_000)
	b.ReportAllocs()
	for b.Loop() {
		if err := e.Authorize(b.Context(), root, "list", "Node", ""); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkLoad reads and checks a policy set.
func BenchmarkLoad(b *testing.B) {
	files := []bundle.File{{Name: "a.cedar", Content: []byte(rootAPI + manyPolicies(10_000))}}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := compile(files); err != nil {
			b.Fatal(err)
		}
	}
}
