// Package spiffeid makes the SPIFFE IDs that TERO gives (SPIFFE-ID spec,
// section 2): spiffe://TRUST-DOMAIN/node/NAME, .../workload/NAME, .../user/NAME.
package spiffeid

import (
	"fmt"
	"strings"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// TrustDomain is a SPIFFE trust domain ("node1.tero").
type TrustDomain struct{ td spiffeid.TrustDomain }

// ParseTrustDomain reads a trust domain's name.
func ParseTrustDomain(s string) (TrustDomain, error) {
	td, err := spiffeid.TrustDomainFromString(s)
	if err != nil {
		return TrustDomain{}, fmt.Errorf("trust domain %q: %w", s, err)
	}
	return TrustDomain{td}, nil
}

// String gives the name.
func (t TrustDomain) String() string { return t.td.Name() }

// Workload gives the ID of the workload with that name.
func (t TrustDomain) Workload(name string) (string, error) { return t.id("workload", name) }

// WorkloadName is the inverse of Workload: it gives the name in a workload's ID
// of this trust domain, and an error for every other ID.
func (t TrustDomain) WorkloadName(id string) (string, error) {
	parsed, err := spiffeid.FromString(id)
	if err != nil {
		return "", fmt.Errorf("SPIFFE ID %q: %w", id, err)
	}
	name, ok := strings.CutPrefix(parsed.Path(), "/workload/")
	if !ok || strings.Contains(name, "/") || !parsed.MemberOf(t.td) {
		return "", fmt.Errorf("SPIFFE ID %q is not that of a workload of the trust domain %q", id, t)
	}
	return name, nil
}

// Node gives the ID of the node with that name.
func (t TrustDomain) Node(name string) (string, error) { return t.id("node", name) }

// User gives the ID of the person or machine with that name that calls the API.
func (t TrustDomain) User(name string) (string, error) { return t.id("user", name) }

func (t TrustDomain) id(kind, name string) (string, error) {
	id, err := spiffeid.FromSegments(t.td, kind, name)
	if err != nil {
		return "", fmt.Errorf("SPIFFE ID of %s %q: %w", kind, name, err)
	}
	return id.String(), nil
}
