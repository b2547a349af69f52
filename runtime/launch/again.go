package launch

import (
	"context"
	"fmt"
	"strings"

	"github.com/opencontainers/go-digest"

	"tero.internal/common/workload"
)

// Again launches a container that ran before, by the same steps as Run: the
// image is checked, plugins and policy decide anew, and a new launch record is
// made before anything runs. It runs the image that it ran, whatever the
// reference names by now, and goes on with its log and writable layer; these are
// left, too, when it fails.
func (p *Pipeline) Again(
	ctx context.Context, caller workload.Principal, container workload.ID, spec workload.Spec, image digest.Digest,
) (*Launched, error) {
	if err := p.Ender.End(ctx, container); err != nil {
		return nil, err
	}
	return p.run(ctx, caller, container, spec, func(ctx context.Context, reference string) (workload.Image, error) {
		return p.pinned(ctx, reference, image)
	}, p.Ender.End)
}

// pinned resolves a reference whose image must be the one with that digest. A
// name that means another by now gets the digest appended, as policy shall see it.
func (p *Pipeline) pinned(ctx context.Context, reference string, want digest.Digest) (workload.Image, error) {
	img, err := p.Images.Resolve(ctx, reference)
	if err == nil && img.Digest == want {
		return img, nil
	}
	if err == nil {
		p.Images.Release(img)
	}
	name, _, _ := strings.Cut(reference, "@")
	return p.Images.Resolve(ctx, name+"@"+string(want))
}

// Readmit decides on a change of a container that runs, as on a launch of what
// it would be then. It gives the specification as plugins left it, of which the
// caller applies what can change. Nothing is measured: nothing is launched.
func (p *Pipeline) Readmit(
	ctx context.Context, caller workload.Principal, spec workload.Spec, image workload.Image,
) (workload.Spec, workload.Grant, error) {
	spec, verdicts, err := p.Plugins.Admit(ctx, spec, image)
	if err != nil {
		return spec, workload.Grant{}, err
	}
	spiffeID, err := p.TrustDomain.Workload(spec.Name)
	if err != nil {
		return spec, workload.Grant{}, fmt.Errorf("identity of %s: %w", spec.Name, err)
	}
	grant, err := p.Policy.AdmitLaunch(ctx, workload.Admission{
		Caller: caller, Spec: spec, Image: image, SPIFFEID: spiffeID, NodeLevel: p.Attestor.Level(), Plugins: verdicts,
	})
	return spec, grant, err
}
