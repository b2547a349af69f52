// Package bundle reads a folder of Cedar policies, holds it against the one
// schema, and gives a Set that nothing changes any more. A folder is taken
// whole or not at all: one faulty policy is a reason to keep the old set.
//
// A policy folder holds *.cedar files and, optionally, entities.json (who is in
// which role). Each policy carries @id; @reason, @reason_ATTRIBUTE, @doc and
// @mode("audit") are optional, and no other annotation is known.
package bundle

import (
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"fmt"
	"io/fs"
	"iter"
	"slices"
	"strings"
	"sync"

	cedar "github.com/cedar-policy/cedar-go"
	"github.com/cedar-policy/cedar-go/types"
	"github.com/opencontainers/go-digest"

	"tero.internal/common/workload"
	"tero.internal/policy/internal/cedarx"
)

// Namespace is the namespace of every entity and action.
const Namespace = "Tero"

// EntitiesFile says who is in which role.
const EntitiesFile = "entities.json"

//go:embed tero.cedarschema
var schemaText []byte

//go:embed default
var defaults embed.FS

// schema is parsed once; it is a constant of the program.
var schema = sync.OnceValues(func() (*cedarx.Schema, error) {
	return cedarx.ParseSchema("tero.cedarschema", schemaText)
})

// Schema gives the schema that all policies are held against.
func Schema() (*cedarx.Schema, error) { return schema() }

// File is one file of a policy folder.
type File struct {
	// Name has no folder ("base.cedar").
	Name    string
	Content []byte
}

// Problem is one thing wrong with a file.
type Problem struct {
	File string
	// Line and Column count from 1; 0 when unknown.
	Line, Column int
	// Policy is the id of the policy concerned, if any.
	Policy  string
	Message string
}

// String gives "file:line:column: policy id: message" as far as it is known.
func (p Problem) String() string {
	s := p.File
	if p.Line > 0 {
		s += fmt.Sprintf(":%d", p.Line)
		if p.Column > 0 {
			s += fmt.Sprintf(":%d", p.Column)
		}
	}
	if p.Policy != "" {
		s += fmt.Sprintf(": policy %q", p.Policy)
	}
	return strings.TrimPrefix(s+": "+p.Message, ": ")
}

// Mode says whether a policy decides.
type Mode string

// The modes.
const (
	// Enforce is the mode of a policy that decides.
	Enforce Mode = "enforce"
	// Audit is the mode of a policy that is evaluated and told, and decides nothing.
	Audit Mode = "audit"
)

// Policy is one rule.
type Policy struct {
	ID     string
	Effect string // "permit" or "forbid"
	Mode   Mode
	// Reason is what a refusal says; Reasons says it for a failed condition
	// that reads the attribute of context with that name.
	Reason  string
	Reasons map[string]string
	File    string
	Line    int
	// Text is the policy as it stands in the file.
	Text   string
	parsed *cedar.Policy
}

// Set is a valid policy set. It does not change.
type Set struct {
	// Digest is the SHA-256 of the canonical list of the files' names and
	// digests and the schema's digest (RFC 8785), so that sha256sum and a
	// text editor suffice to recompute it.
	Digest digest.Digest
	// BuiltIn is true for the defaults.
	BuiltIn  bool
	policies []Policy // by id
	entities types.EntityMap
}

// Policies gives the policies, sorted by id. Do not change them.
func (s *Set) Policies() []Policy { return s.policies }

// Policy gives the policy with an id.
func (s *Set) Policy(id string) (Policy, bool) {
	i, ok := slices.BinarySearchFunc(s.policies, id, func(p Policy, id string) int { return strings.Compare(p.ID, id) })
	if !ok {
		return Policy{}, false
	}
	return s.policies[i], true
}

// Mode gives the compiled policies of one mode.
func (s *Set) Mode(m Mode) iter.Seq2[cedar.PolicyID, *cedar.Policy] {
	return func(yield func(cedar.PolicyID, *cedar.Policy) bool) {
		for i := range s.policies {
			p := &s.policies[i]
			if p.Mode == m && !yield(cedar.PolicyID(p.ID), p.parsed) {
				return
			}
		}
	}
}

// Entities gives the entities of the set: roles, who is in them, and the
// actions of the schema. Do not change them.
func (s *Set) Entities() types.EntityMap { return s.entities }

// Default gives the built-in files, which hold while a folder is empty.
func Default() ([]File, error) {
	entries, err := fs.ReadDir(defaults, "default")
	if err != nil {
		return nil, fmt.Errorf("built-in policies: %w", err)
	}
	var files []File
	for _, e := range entries {
		b, err := defaults.ReadFile("default/" + e.Name())
		if err != nil {
			return nil, fmt.Errorf("built-in policies: %w", err)
		}
		files = append(files, File{Name: e.Name(), Content: b})
	}
	return files, nil
}

// Parse gives the set that the files make, or everything that is wrong with
// them. No files make the built-in set. The error is a fault of TERO itself.
func Parse(files []File) (*Set, []Problem, error) {
	s, err := Schema()
	if err != nil {
		return nil, nil, err
	}
	set := &Set{}
	if !slices.ContainsFunc(files, func(f File) bool { return isPolicyFile(f.Name) }) {
		builtIn, err := Default()
		if err != nil {
			return nil, nil, err
		}
		files, set.BuiltIn = append(builtIn, files...), true
	}
	r := reader{schema: s, set: set, seen: map[string]Policy{}}
	r.files(files)
	if len(r.problems) > 0 {
		return nil, r.problems, nil
	}
	slices.SortFunc(set.policies, func(a, b Policy) int { return strings.Compare(a.ID, b.ID) })
	if set.Digest, err = digestOf(files); err != nil {
		return nil, nil, err
	}
	return set, nil, nil
}

// digestOf is over the names and digests of the files that count, by name.
func digestOf(files []File) (digest.Digest, error) {
	type entry struct {
		Name   string `json:"name"`
		SHA256 string `json:"sha256"`
	}
	content := struct {
		Schema string  `json:"schema"`
		Files  []entry `json:"files"`
	}{Schema: hash(schemaText), Files: []entry{}}
	for _, f := range files {
		content.Files = append(content.Files, entry{f.Name, hash(f.Content)})
	}
	slices.SortFunc(content.Files, func(a, b entry) int { return strings.Compare(a.Name, b.Name) })
	return workload.CanonicalDigest(content)
}

func hash(b []byte) string {
	h := sha256.Sum256(b)
	return hex.EncodeToString(h[:])
}

func isPolicyFile(name string) bool { return strings.HasSuffix(name, ".cedar") }
