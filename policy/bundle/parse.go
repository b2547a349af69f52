package bundle

import (
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	cedar "github.com/cedar-policy/cedar-go"
	"github.com/cedar-policy/cedar-go/types"

	"tero.internal/policy/internal/cedarx"
)

// Limits on what is read. They bound the recursion of the parser and of the
// evaluation, which both follow the nesting of the text.
const (
	maxFiles     = 1000
	maxFile      = 16 << 20
	maxPolicy    = 64 << 10
	maxNesting   = 100
	maxOperators = 5000
	maxPolicies  = 100_000
)

var (
	fileName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$`)
	policyID = regexp.MustCompile(`^[a-z0-9][a-z0-9._-]{0,127}$`)
	// parserAt is where cedar-go's parser tells the place of an error.
	parserAt = regexp.MustCompile(`<input>:(\d+):(\d+):? ?`)
	// quoted is what the validator puts in backquotes.
	quoted      = regexp.MustCompile("`([^`]+)`")
	placeholder = regexp.MustCompile(`\{([^{}]*)\}`)
)

// reader gathers policies and problems over all files.
type reader struct {
	schema   *cedarx.Schema
	set      *Set
	seen     map[string]Policy
	problems []Problem
}

func (r *reader) problem(p Problem) { r.problems = append(r.problems, p) }

func (r *reader) files(files []File) {
	if len(files) > maxFiles {
		r.problem(Problem{Message: fmt.Sprintf("%d files are more than %d", len(files), maxFiles)})
		return
	}
	r.set.entities = r.schema.ActionEntities()
	names := map[string]bool{}
	for _, f := range files {
		switch {
		case !fileName.MatchString(f.Name):
			r.problem(Problem{File: strconv.Quote(f.Name), Message: "a file's name must be letters, digits, dot, underscore and dash, without a folder"})
		case names[f.Name]:
			r.problem(Problem{File: f.Name, Message: "the file is given twice"})
		case len(f.Content) > maxFile:
			r.problem(Problem{File: f.Name, Message: fmt.Sprintf("the file is larger than %d bytes", maxFile)})
		case isPolicyFile(f.Name):
			r.policyFile(f)
		case f.Name == EntitiesFile:
			r.entitiesFile(f)
		default:
			r.problem(Problem{File: f.Name, Message: "not a policy file: it is neither *.cedar nor " + EntitiesFile})
		}
		names[f.Name] = true
	}
	if len(r.set.policies) > maxPolicies {
		r.problem(Problem{Message: fmt.Sprintf("%d policies are more than %d", len(r.set.policies), maxPolicies)})
	}
}

func (r *reader) policyFile(f File) {
	if !utf8.Valid(f.Content) {
		r.problem(Problem{File: f.Name, Message: "the file is not UTF-8 text"})
		return
	}
	text := string(f.Content)
	if p := checkLimits(f.Name, text); p != nil {
		r.problem(*p)
		return
	}
	list, err := cedar.NewPolicyListFromBytes(f.Name, f.Content)
	if err != nil {
		r.problem(syntaxProblem(f.Name, err))
		return
	}
	for _, p := range list {
		r.policy(f.Name, text, p)
	}
}

// syntaxProblem takes the place out of the parser's words.
func syntaxProblem(file string, err error) Problem {
	p := Problem{File: file, Message: strings.TrimPrefix(err.Error(), "parser error: ")}
	if m := parserAt.FindStringSubmatchIndex(p.Message); m != nil {
		p.Line, _ = strconv.Atoi(p.Message[m[2]:m[3]])
		p.Column, _ = strconv.Atoi(p.Message[m[4]:m[5]])
		p.Message = p.Message[m[1]:]
	}
	p.Message = "not Cedar: " + strings.TrimSpace(p.Message)
	return p
}

// policy checks and adds one policy.
func (r *reader) policy(file, text string, parsed *cedar.Policy) {
	at := parsed.Position()
	p := Policy{
		Effect: "forbid", Mode: Enforce, Reasons: map[string]string{},
		File: file, Line: at.Line, parsed: parsed, Text: statement(text[min(at.Offset, len(text)):]),
	}
	if parsed.Effect() == cedar.Permit {
		p.Effect = "permit"
	}
	before := len(r.problems)
	r.annotations(&p)
	if p.ID == "" {
		r.problem(Problem{File: file, Line: at.Line, Column: at.Column, Message: `the policy has no name: put @id("some-name") before it`})
		return
	}
	if other, taken := r.seen[p.ID]; taken {
		r.problem(Problem{File: file, Line: at.Line, Column: at.Column, Policy: p.ID, Message: fmt.Sprintf("the name is taken by the policy at %s:%d", other.File, other.Line)})
		return
	}
	r.seen[p.ID] = p
	if err := r.schema.Policy(p.ID, parsed); err != nil {
		r.problem(p.schemaProblem(err))
	}
	if len(r.problems) == before {
		r.set.policies = append(r.set.policies, p)
	}
}

// schemaProblem puts the validator's words to the line that they are about.
func (p *Policy) schemaProblem(err error) Problem {
	message, _, _ := strings.Cut(err.Error(), "\n")
	message = strings.TrimPrefix(message, fmt.Sprintf("for policy `%s`, ", p.ID))
	out := Problem{File: p.File, Line: p.Line, Policy: p.ID, Message: message}
	if m := quoted.FindStringSubmatch(message); m != nil {
		if i := indexWord(p.Text, m[1]); i >= 0 {
			out.Line = p.Line + strings.Count(p.Text[:i], "\n")
			out.Column = i - strings.LastIndexByte(p.Text[:i], '\n')
		}
	}
	return out
}

// indexWord finds word in text where no letter or digit is beside it.
func indexWord(text, word string) int {
	re, err := regexp.Compile(`(?:^|[^\pL\pN_])(` + regexp.QuoteMeta(word) + `)(?:$|[^\pL\pN_])`)
	if err != nil {
		return -1
	}
	m := re.FindStringSubmatchIndex(text)
	if m == nil {
		return -1
	}
	return m[2]
}

// annotations reads what stands before a policy. An unknown one is refused: a
// misspelt @mode would otherwise enforce what was meant to be tried.
func (r *reader) annotations(p *Policy) {
	attributes := cedarx.PolicyAttributes(p.parsed)
	given := p.parsed.Annotations()
	fail := func(key, format string, args ...any) {
		line := p.Line
		if i := strings.Index(p.Text, "@"+key); i >= 0 {
			line += strings.Count(p.Text[:i], "\n")
		}
		r.problem(Problem{File: p.File, Line: line, Policy: string(given["id"]), Message: fmt.Sprintf(format, args...)})
	}
	keys := make([]string, 0, len(given))
	for k := range given {
		keys = append(keys, string(k))
	}
	slices.Sort(keys)
	for _, key := range keys {
		value := string(given[types.AnnotationKey(key)])
		attribute, specific := strings.CutPrefix(key, "reason_")
		switch {
		case key == "id":
			if p.ID = value; !policyID.MatchString(value) {
				fail(key, "the name %q is not 1 to 128 of a-z, 0-9, dot, underscore and dash, beginning with a letter or digit", value)
			}
		case key == "doc":
		case key == "mode":
			if p.Mode = Mode(value); p.Mode != Enforce && p.Mode != Audit {
				fail(key, `@mode(%q) is neither "enforce" nor "audit"`, value)
			}
		case key == "reason", specific:
			if specific && !slices.Contains(attributes, attribute) {
				fail(key, "@%s is about context.%s, which the policy does not read", key, attribute)
			}
			if bad := r.unknownPlaceholder(value); bad != "" {
				fail(key, "@%s names {%s}, which is no attribute of a launch's context, nor name, principal, action, resource", key, bad)
			}
			if specific {
				p.Reasons[attribute] = value
			} else {
				p.Reason = value
			}
		default:
			fail(key, "unknown annotation @%s; known are @id, @reason, @reason_ATTRIBUTE, @doc and @mode", key)
		}
	}
}

func (r *reader) unknownPlaceholder(text string) string {
	launch := types.NewEntityUID(Namespace+"::Action", "launch")
	for _, m := range placeholder.FindAllStringSubmatch(text, -1) {
		switch m[1] {
		case "name", "principal", "action", "resource":
			continue
		}
		if !r.schema.HasContext(launch, m[1]) {
			return m[1]
		}
	}
	return ""
}

// Fill puts values into the placeholders of a reason ("{image.reference}").
func Fill(text string, value func(path string) (string, bool)) string {
	return placeholder.ReplaceAllStringFunc(text, func(m string) string {
		if v, ok := value(m[1 : len(m)-1]); ok {
			return v
		}
		return m
	})
}
