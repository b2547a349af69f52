// Package launch is the one way in: the pipeline from a request to a running,
// measured, identified and connected container. It owns the interfaces of the
// steps; daemon connects them to the modules.
//
// Each step needs a value that an earlier one made, so that a wrong order
// rarely compiles; each leaves nothing behind when it fails, and what earlier
// steps did is undone in reverse.
package launch

import (
	"context"
	"fmt"
	"sync"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"tero.internal/common/spiffeid"
	"tero.internal/common/undo"
	"tero.internal/common/workload"
)

// Images finds, checks and unpacks images.
type Images interface {
	// Resolve gives the image that reference names now, with its trusted
	// signers, and holds it: nothing of it is removed before Release.
	Resolve(ctx context.Context, reference string) (workload.Image, error)
	// Release ends the hold of one Resolve.
	Release(image workload.Image)
}

// Plugins runs the admission plugins.
type Plugins interface {
	// Admit lets plugins change the spec, then judge it. A refusal is a fault
	// of kind Denied that names the plugin and its reason.
	Admit(ctx context.Context, spec workload.Spec, image workload.Image) (workload.Spec, []workload.PluginVerdict, error)
}

// Policy decides.
type Policy interface {
	// AdmitLaunch permits one launch, or gives a fault of kind Denied that
	// names the policy, or the one that was nearest to permitting.
	AdmitLaunch(ctx context.Context, admission workload.Admission) (workload.Grant, error)
}

// Attestor keeps the launch log.
type Attestor interface {
	// Level is what this node's evidence is worth.
	Level() workload.Level
	// Measure records the launch and extends the register. When it returns
	// without an error, the record is durable and cannot be taken back.
	Measure(ctx context.Context, m workload.Measurement) (workload.Evidence, error)
}

// Identities names workloads.
type Identities interface {
	// Enrol binds a SPIFFE ID to a measured launch.
	Enrol(ctx context.Context, container workload.ID, spiffeID string, evidence workload.Evidence) (workload.Identity, error)
	// Revoke ends the identity; it is nil for one that is not enrolled.
	Revoke(ctx context.Context, container workload.ID) error
}

// Sandboxes makes isolated process trees.
type Sandboxes interface {
	// Configure gives the OCI runtime configuration that Create will apply,
	// whole and without anything that varies between equal launches.
	Configure(spec workload.Spec, image workload.Image) (*specs.Spec, error)
	// Create makes namespaces, cgroup and rootfs; nothing of the image runs yet.
	// netns is a path to the network namespace that holds until Destroy.
	Create(ctx context.Context, container workload.ID, config *specs.Spec, image workload.Image) (netns string, err error)
	// Start writes the endpoint's addresses and name servers into the
	// container's files (nil: no network) and executes the process.
	Start(ctx context.Context, container workload.ID, endpoint *workload.Endpoint) error
	// Destroy kills what is left and removes everything; it is nil for an
	// unknown container.
	Destroy(ctx context.Context, container workload.ID) error
}

// Ender ends the sandboxes of containers that will be launched again.
type Ender interface {
	// End is Destroy, but for what the next Create goes on with: the log and the
	// writable layer.
	End(ctx context.Context, container workload.ID) error
}

// Network connects containers.
type Network interface {
	// Attach makes the interface, with policy in the kernel before it is up.
	Attach(ctx context.Context, attachment workload.Attachment) (workload.Endpoint, error)
	// Detach removes it and its lease; it is nil for one that is not attached.
	Detach(ctx context.Context, container workload.ID) error
}

// Pipeline holds the steps. All fields must be set.
type Pipeline struct {
	Images      Images
	Plugins     Plugins
	Policy      Policy
	Attestor    Attestor
	Identities  Identities
	Sandboxes   Sandboxes
	Ender       Ender
	Network     Network
	TrustDomain spiffeid.TrustDomain
}

// Launched is a container that runs, with everything that was decided about it.
type Launched struct {
	Container workload.ID
	// Spec is the final one, as plugins left it and policy admitted it.
	Spec     workload.Spec
	Image    workload.Image
	Verdicts []workload.PluginVerdict
	Grant    workload.Grant
	Evidence workload.Evidence
	Identity workload.Identity
	// Endpoint is nil on network "none".
	Endpoint *workload.Endpoint
	// Release ends the launch's hold of Image. It must be called once a record
	// names the image, or the container is gone.
	Release func()
}

// Run launches spec as container. On an error nothing of it is left but the
// launch record, if it came that far. On success the image is still held, until
// the caller calls Launched.Release.
func (p *Pipeline) Run(ctx context.Context, caller workload.Principal, container workload.ID, spec workload.Spec) (*Launched, error) {
	return p.run(ctx, caller, container, spec, p.Images.Resolve, p.Sandboxes.Destroy)
}

// run launches spec with the image that resolve gives; destroy undoes the sandbox.
func (p *Pipeline) run(
	ctx context.Context, caller workload.Principal, container workload.ID, spec workload.Spec,
	resolve func(context.Context, string) (workload.Image, error), destroy func(context.Context, workload.ID) error,
) (_ *Launched, err error) {
	var done undo.Stack
	defer func() {
		if err != nil {
			if undone := done.Run(ctx); undone != nil {
				err = fmt.Errorf("%w (and clean-up failed: %w)", err, undone)
			}
		}
	}()
	l := &Launched{Container: container}

	if l.Image, err = resolve(ctx, spec.Image); err != nil {
		return nil, err
	}
	l.Release = sync.OnceFunc(func() { p.Images.Release(l.Image) })
	done.Push("hold image", func(context.Context) error { l.Release(); return nil })
	if spec, err = spec.Complete(l.Image); err != nil {
		return nil, err
	}
	if l.Spec, l.Verdicts, err = p.Plugins.Admit(ctx, spec, l.Image); err != nil {
		return nil, err
	}
	l.Spec.TerminalSize = spec.TerminalSize // which plugins do not see
	spiffeID, err := p.TrustDomain.Workload(l.Spec.Name)
	if err != nil {
		return nil, err
	}
	if l.Grant, err = p.Policy.AdmitLaunch(ctx, workload.Admission{
		Caller: caller, Spec: l.Spec, Image: l.Image, SPIFFEID: spiffeID,
		NodeLevel: p.Attestor.Level(), Plugins: l.Verdicts,
	}); err != nil {
		return nil, err
	}
	config, err := p.Sandboxes.Configure(l.Spec, l.Image)
	if err != nil {
		return nil, err
	}
	netns, err := p.record(ctx, l, spiffeID, config, &done, destroy)
	if err != nil {
		return nil, err
	}
	if l.Identity, err = p.Identities.Enrol(ctx, container, spiffeID, l.Evidence); err != nil {
		return nil, err
	}
	done.Push("enrol", func(ctx context.Context) error { return p.Identities.Revoke(ctx, container) })

	if l.Spec.Network != workload.NetworkNone {
		endpoint, err := p.Network.Attach(ctx, workload.Attachment{
			Container: container, Name: l.Spec.Name, Network: l.Spec.Network,
			SPIFFEID: l.Identity.SPIFFEID, Labels: l.Spec.Labels, NetNS: netns, Interface: "eth0",
		})
		if err != nil {
			return nil, err
		}
		done.Push("attach network", func(ctx context.Context) error { return p.Network.Detach(ctx, container) })
		l.Endpoint = &endpoint
	}
	if err := p.Sandboxes.Start(ctx, container, l.Endpoint); err != nil {
		return nil, err
	}
	done.Keep()
	return l, nil
}

// record makes the launch record durable while the sandbox is made: both wait
// for the kernel most of their time. Nothing runs before both are there.
func (p *Pipeline) record(
	ctx context.Context, l *Launched, spiffeID string, config *specs.Spec, done *undo.Stack, destroy func(context.Context, workload.ID) error,
) (netns string, err error) {
	var making sync.WaitGroup
	var created error
	making.Go(func() { netns, created = p.Sandboxes.Create(ctx, l.Container, sized(config, l.Spec), l.Image) })
	measurement, err := measure(l.Container, l, spiffeID, config)
	if err == nil {
		l.Evidence, err = p.Attestor.Measure(ctx, measurement)
	}
	making.Wait()
	if created == nil {
		done.Push("create sandbox", func(ctx context.Context) error { return destroy(ctx, l.Container) })
	}
	if err == nil {
		err = created
	}
	return netns, err
}

// sized gives the configuration with the size of the terminal, which is no part
// of what is measured.
func sized(config *specs.Spec, spec workload.Spec) *specs.Spec {
	size := spec.TerminalSize
	if !spec.Terminal || size == (workload.TerminalSize{}) {
		return config
	}
	with, process := *config, *config.Process
	process.ConsoleSize = &specs.Box{Height: uint(size.Rows), Width: uint(size.Columns)}
	with.Process = &process
	return &with
}

// measure gives what the launch record binds together.
func measure(container workload.ID, l *Launched, spiffeID string, config *specs.Spec) (workload.Measurement, error) {
	configDigest, err := workload.CanonicalDigest(config)
	if err != nil {
		return workload.Measurement{}, fmt.Errorf("digest of the configuration: %w", err)
	}
	mounts, err := workload.CanonicalDigest(config.Mounts)
	if err != nil {
		return workload.Measurement{}, fmt.Errorf("digest of the mounts: %w", err)
	}
	return workload.Measurement{
		Container: container, Name: l.Spec.Name, ImageRef: l.Image.Reference, Image: l.Image.Digest,
		Config: configDigest, Mounts: mounts, Policy: l.Grant.PolicyDigest, SPIFFEID: spiffeID,
	}, nil
}
