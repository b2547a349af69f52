package ocilayout

import (
	"fmt"
	"strings"

	"github.com/opencontainers/go-digest"

	"tero.internal/common/fault"
)

// LocalRegistry is the registry of names that do not say one: images that were
// made here and never left.
const LocalRegistry = "localhost"

// DefaultTag is the tag of names that say neither tag nor digest.
const DefaultTag = "latest"

// Limits of the grammar (the OCI distribution specification, section Pull).
const (
	maxRepository = 255
	maxTag        = 128
)

// Reference is an image's full name: a registry, a repository in it, and a tag,
// a digest or both. The digest decides where both are given.
type Reference struct {
	Registry   string
	Repository string
	Tag        string
	Digest     digest.Digest
}

// ParseReference reads a name in Docker's way, except that a name without a
// registry is of LocalRegistry and not of anybody's hub: "web" is
// localhost/web:latest. A fault of kind Invalid tells what is wrong where.
func ParseReference(s string) (Reference, error) {
	var r Reference
	if s == "" {
		return r, fault.New(fault.Invalid, "image reference is empty").WithHint("%s", referenceHint)
	}
	rest := s
	if i := strings.IndexByte(s, '@'); i >= 0 {
		d, err := digest.Parse(s[i+1:])
		if err != nil || d.Algorithm() != digest.SHA256 {
			return r, malformed(s, i+1, "the digest after \"@\" is not sha256: and 64 lower-case hexadecimal digits")
		}
		r.Digest, rest = d, s[:i]
	}
	slash := strings.LastIndexByte(rest, '/')
	if i := strings.LastIndexByte(rest, ':'); i > slash {
		r.Tag = rest[i+1:]
		if at, why := checkTag(r.Tag); why != "" {
			return r, malformed(s, i+1+at, why)
		}
		rest = rest[:i]
	}
	if r.Tag == "" && r.Digest == "" {
		r.Tag = DefaultTag
	}
	r.Registry, r.Repository = LocalRegistry, rest
	offset := 0
	if i := strings.IndexByte(rest, '/'); i >= 0 && isRegistry(rest[:i]) {
		r.Registry, r.Repository, offset = rest[:i], rest[i+1:], i+1
		if at, why := checkRegistry(r.Registry); why != "" {
			return r, malformed(s, at, why)
		}
	}
	if at, why := checkRepository(r.Repository); why != "" {
		return r, malformed(s, offset+at, why)
	}
	return r, nil
}

// Name gives registry and repository: what cosign calls the docker-reference.
func (r Reference) Name() string { return r.Registry + "/" + r.Repository }

// String gives the full form, which ParseReference reads back to the same.
func (r Reference) String() string {
	s := r.Name()
	if r.Tag != "" {
		s += ":" + r.Tag
	}
	if r.Digest != "" {
		s += "@" + string(r.Digest)
	}
	return s
}

const referenceHint = "a reference is [registry/]repository[:tag][@sha256:digest], for example web, web:v1 or registry.example:5000/team/web:v1"

func malformed(s string, at int, why string) error {
	return fault.New(fault.Invalid, "image reference %q is malformed at character %d: %s", s, at+1, why).WithHint("%s", referenceHint)
}

// isRegistry tells a registry from a repository's first part, as Docker does.
func isRegistry(s string) bool {
	return s == LocalRegistry || strings.ContainsAny(s, ".:") || strings.ToLower(s) != s
}

func checkTag(tag string) (at int, why string) {
	if tag == "" {
		return 0, "the tag after \":\" is empty"
	}
	if len(tag) > maxTag {
		return maxTag, fmt.Sprintf("the tag is longer than %d characters", maxTag)
	}
	for i := range len(tag) {
		c := tag[i]
		if alphanumeric(c, true) || c == '_' || (i > 0 && (c == '.' || c == '-')) {
			continue
		}
		return i, fmt.Sprintf("%q cannot stand there in a tag", c)
	}
	return 0, ""
}

func checkRegistry(registry string) (at int, why string) {
	host, port, hasPort := strings.Cut(registry, ":")
	if host == "" {
		return 0, "the registry has no host"
	}
	label := 0
	for i := range len(host) {
		switch c := host[i]; {
		case alphanumeric(c, true):
			label++
		case c == '-' && label > 0:
			label++
		case c == '.' && label > 0 && host[i-1] != '-':
			label = 0
		default:
			return i, fmt.Sprintf("%q cannot stand there in a registry's host", c)
		}
	}
	if last := host[len(host)-1]; last == '.' || last == '-' {
		return len(host) - 1, fmt.Sprintf("a registry's host cannot end with %q", last)
	}
	if !hasPort {
		return 0, ""
	}
	if port == "" || len(port) > 5 {
		return len(host) + 1, "the registry's port is not a number of 1 to 5 digits"
	}
	for i := range len(port) {
		if port[i] < '0' || port[i] > '9' {
			return len(host) + 1 + i, fmt.Sprintf("%q cannot stand in a registry's port", port[i])
		}
	}
	return 0, ""
}

// checkRepository holds the grammar of the distribution specification:
// [a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*, joined by slashes.
func checkRepository(repository string) (at int, why string) {
	if repository == "" {
		return 0, "the repository is empty"
	}
	if len(repository) > maxRepository {
		return maxRepository, fmt.Sprintf("the repository is longer than %d characters", maxRepository)
	}
	offset := 0
	for part := range strings.SplitSeq(repository, "/") {
		if part == "" {
			return offset, "a part of the repository is empty"
		}
		for i := 0; i < len(part); {
			c := part[i]
			if alphanumeric(c, false) {
				i++
				continue
			}
			n := 1
			for i+n < len(part) && part[i+n] == c {
				n++
			}
			separates := c == '-' || (c == '.' && n == 1) || (c == '_' && n <= 2)
			if !separates || i == 0 || i+n == len(part) || !alphanumeric(part[i+n], false) {
				if c >= 'A' && c <= 'Z' {
					return offset + i, fmt.Sprintf("%q is upper case; repositories are lower case", c)
				}
				return offset + i, fmt.Sprintf("%q cannot stand there in a repository", c)
			}
			i += n
		}
		offset += len(part) + 1
	}
	return 0, ""
}

func alphanumeric(c byte, upper bool) bool {
	return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || (upper && c >= 'A' && c <= 'Z')
}
