package issue

import (
	"bytes"
	"cmp"
	"context"
	"crypto/x509"
	"encoding/json"
	"errors"
	"io/fs"
	"maps"
	"os"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"tero.internal/common/atomicfile"
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
	i.mu.Lock()
	defer i.mu.Unlock()
	if holder, taken := i.bySPIFFEID[spiffeID]; taken {
		return workload.Identity{}, fault.New(fault.Exists, "identity %s is held by container %s", spiffeID, holder.Short()).
			WithHint("a name has one holder at a time: stop that container, or run this one under another name")
	}
	if held, taken := i.byContainer[container]; taken {
		return workload.Identity{}, fault.New(fault.Exists, "container %s holds the identity %s", container.Short(), held.Identity.SPIFFEID)
	}
	e := Enrolled{
		Identity:  workload.Identity{SPIFFEID: spiffeID, Record: evidence.Record, Enrolled: i.cfg.Now().UTC()},
		Container: container, Evidence: evidence,
	}
	i.byContainer[container], i.bySPIFFEID[spiffeID] = e, container
	if err := i.storeRegistry(); err != nil {
		delete(i.byContainer, container)
		delete(i.bySPIFFEID, spiffeID)
		return workload.Identity{}, err
	}
	return e.Identity, nil
}

// Revoke ends the identity of a container; nothing is minted for it any more.
// It is nil for one that is not enrolled. When it cannot be made durable it
// holds all the same until the next start, and the error says so.
func (i *Issuer) Revoke(_ context.Context, container workload.ID) error {
	i.mu.Lock()
	defer i.mu.Unlock()
	e, ok := i.byContainer[container]
	if !ok {
		return nil
	}
	delete(i.byContainer, container)
	delete(i.bySPIFFEID, e.Identity.SPIFFEID)
	return i.storeRegistry()
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

// registry is the file's form.
type registry struct {
	Version    int        `json:"version"`
	Identities []Enrolled `json:"identities"`
}

const registryVersion = 1

// storeRegistry writes the registry; mu is held.
func (i *Issuer) storeRegistry() error {
	b, err := json.MarshalIndent(registry{Version: registryVersion, Identities: i.sorted()}, "", " ")
	if err != nil {
		return fault.New(fault.Internal, "encode the identities: %w", err)
	}
	if err := atomicfile.Write(i.path(registryFile), append(b, '\n'), 0o600); err != nil {
		kind := fault.Internal
		if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) {
			kind = fault.Exhausted
		}
		return fault.New(kind, "store the identities: %w", err).WithHint("is the state directory's disk full?")
	}
	return nil
}

// loadRegistry reads what was enrolled before a restart.
func (i *Issuer) loadRegistry() error {
	b, err := os.ReadFile(i.path(registryFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fault.New(fault.Internal, "read the identities: %w", err)
	}
	damaged := func(why string) error {
		return fault.New(fault.Corrupt, "the registry of identities %s is damaged: %s", i.path(registryFile), why).
			WithHint("restore it from a backup; or stop all containers and move it away: then nobody is enrolled")
	}
	var r registry
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(&r); err != nil {
		return damaged(err.Error())
	}
	if r.Version != registryVersion {
		return damaged("its version is not known")
	}
	for _, e := range r.Identities {
		_, twice := i.bySPIFFEID[e.Identity.SPIFFEID]
		_, err := i.cfg.TrustDomain.WorkloadName(e.Identity.SPIFFEID)
		if twice || err != nil || e.Container.Validate() != nil {
			return damaged("the entry of " + e.Identity.SPIFFEID + " is no valid enrolment")
		}
		i.byContainer[e.Container], i.bySPIFFEID[e.Identity.SPIFFEID] = e, e.Container
	}
	return nil
}
