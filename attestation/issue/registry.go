package issue

import (
	"cmp"
	"context"
	"crypto/x509"
	"maps"
	"slices"
	"time"

	"tero.internal/common/fault"
	"tero.internal/common/workload"
)

// Enrolled is one identity: a name bound to a container and to its proof.
type Enrolled struct {
	Identity  workload.Identity `json:"identity"`
	Container workload.ID       `json:"container"`
	Evidence  workload.Evidence `json:"evidence"`
}

// Enrol binds a SPIFFE ID to a measured launch. A name has one holder at a time.
func (i *Issuer) Enrol(_ context.Context, container workload.ID, spiffeID string, evidence workload.Evidence) (workload.Identity, error) {
	if err := container.Validate(); err != nil {
		return workload.Identity{}, fault.New(fault.Invalid, "enrol: %w", err)
	}
	if err := evidence.Record.Validate(); err != nil {
		return workload.Identity{}, fault.New(fault.Invalid, "enrol %s: no launch record stands behind it: %w", spiffeID, err)
	}
	if _, err := i.cfg.TrustDomain.WorkloadName(spiffeID); err != nil {
		return workload.Identity{}, fault.New(fault.Invalid, "enrol: %w", err)
	}
	identity := workload.Identity{SPIFFEID: spiffeID, Record: evidence.Record, Enrolled: i.cfg.Now().UTC()}
	return identity, i.bind(Enrolled{Identity: identity, Container: container, Evidence: evidence})
}

// Restore binds an identity again after a restart, as it was enrolled before:
// the container's own record keeps it, so that the two cannot disagree.
func (i *Issuer) Restore(_ context.Context, container workload.ID, identity workload.Identity, evidence workload.Evidence) error {
	return i.bind(Enrolled{Identity: identity, Container: container, Evidence: evidence})
}

func (i *Issuer) bind(e Enrolled) error {
	i.mu.Lock()
	defer i.mu.Unlock()
	if holder, taken := i.bySPIFFEID[e.Identity.SPIFFEID]; taken {
		return fault.New(fault.Exists, "identity %s is held by container %s", e.Identity.SPIFFEID, holder.Short()).
			WithHint("a name has one holder at a time: stop that container, or run this one under another name")
	}
	if held, taken := i.byContainer[e.Container]; taken {
		return fault.New(fault.Exists, "container %s holds the identity %s", e.Container.Short(), held.Identity.SPIFFEID)
	}
	i.byContainer[e.Container], i.bySPIFFEID[e.Identity.SPIFFEID] = e, e.Container
	return nil
}

// Revoke ends the identity of a container; nothing is minted for it any more.
// It is nil for one that is not enrolled.
func (i *Issuer) Revoke(_ context.Context, container workload.ID) error {
	i.mu.Lock()
	defer i.mu.Unlock()
	e, ok := i.byContainer[container]
	if !ok {
		return nil
	}
	delete(i.byContainer, container)
	delete(i.bySPIFFEID, e.Identity.SPIFFEID)
	return nil
}

// List gives the enrolled identities, sorted by name.
func (i *Issuer) List() []Enrolled {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.sorted()
}

func (i *Issuer) sorted() []Enrolled {
	return slices.SortedFunc(maps.Values(i.byContainer), func(a, b Enrolled) int {
		return cmp.Compare(a.Identity.SPIFFEID, b.Identity.SPIFFEID)
	})
}

// SVID is a minted X.509-SVID.
type SVID struct {
	SPIFFEID string
	// Certificate and Bundle are DER: the leaf, and the trust domain's authority.
	Certificate, Bundle []byte
	Expires             time.Time
}

// IssueSVID mints an X.509-SVID for an enrolled container, for the key of a
// PKCS #10 request (DER) that stays with the asker.
func (i *Issuer) IssueSVID(_ context.Context, container workload.ID, csr []byte) (*SVID, error) {
	public, err := requestedKey(csr)
	if err != nil {
		return nil, err
	}
	i.mu.Lock() // held while signing, so that nothing is minted after Revoke returned
	defer i.mu.Unlock()
	e, ok := i.byContainer[container]
	if !ok {
		return nil, fault.New(fault.Denied, "container %s has no identity: it was never enrolled, or was revoked", container.Short()).
			WithHint("\"tero inspect\" shows the container's state")
	}
	id := e.Identity.SPIFFEID
	der, expires, err := i.sign(leaf{
		spiffeID: id, ttl: WorkloadTTL, usage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}, public)
	if err != nil {
		return nil, err
	}
	return &SVID{SPIFFEID: id, Certificate: der, Bundle: i.cert.Raw, Expires: expires}, nil
}
