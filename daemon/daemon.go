// Package daemon is the composition root: the one place where the modules meet.
// It builds, starts and stops everything, in one order, and decides nothing.
package daemon

import (
	"context"
	"errors"
	"log/slog"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/timestamppb"

	attestationv1 "tero.internal/api/attestation/v1"
	networkv1 "tero.internal/api/network/v1"
	nodev1 "tero.internal/api/node/v1"
	pluginv1 "tero.internal/api/plugin/v1"
	policyv1 "tero.internal/api/policy/v1"
	runtimev1 "tero.internal/api/runtime/v1"
	"tero.internal/attestation/evidence"
	"tero.internal/attestation/issue"
	attestationserver "tero.internal/attestation/server"
	"tero.internal/common/buildinfo"
	"tero.internal/common/eventbus"
	"tero.internal/common/fault"
	"tero.internal/common/ocilayout"
	"tero.internal/common/rpc"
	"tero.internal/common/spiffeid"
	"tero.internal/common/undo"
	"tero.internal/common/workload"
	"tero.internal/network-manager/network"
	networkserver "tero.internal/network-manager/server"
	"tero.internal/plugin-manager/host"
	pluginserver "tero.internal/plugin-manager/server"
	"tero.internal/policy/engine"
	policyserver "tero.internal/policy/server"
	"tero.internal/runtime/image"
	"tero.internal/runtime/launch"
	"tero.internal/runtime/sandbox"
	runtimeserver "tero.internal/runtime/server"
	"tero.internal/runtime/state"
	"tero.internal/runtime/supervise"
	"tero.internal/runtime/volume"
)

// node is everything that runs in this process.
type node struct {
	config      Config
	log         *slog.Logger
	started     time.Time
	trustDomain spiffeid.TrustDomain
	spiffeID    string
	bus         *eventbus.Bus

	policy     *engine.Engine
	images     *image.Store
	plugins    *host.Host
	evidence   *evidence.Log
	issuer     *issue.Issuer
	network    *network.Manager
	volumes    *volume.Store
	sandboxes  *sandbox.Native
	state      *state.Store
	supervisor *supervise.Supervisor

	// ended is closed, by end, when somebody asked the node to end and all is removed.
	ended   chan struct{}
	endOnce sync.Once
	// ending is set from then on: no request is taken any more.
	ending atomic.Bool
}

// Run runs a node until ctx ends, which leaves its containers running, or until
// somebody asks it to remove everything and end.
func Run(ctx context.Context, c Config, log *slog.Logger) (err error) {
	var open undo.Stack // what to close, last first
	defer func() { err = errors.Join(err, open.Run(ctx)) }()
	lock, err := lockState(c.StateDir)
	if err != nil {
		return err
	}
	open.Push("lock", func(context.Context) error { return lock.Close() })
	n := &node{config: c, log: log, started: time.Now(), bus: &eventbus.Bus{}, ended: make(chan struct{})}
	if err := n.name(); err != nil {
		return err
	}
	for _, start := range []func(context.Context, *undo.Stack) error{
		n.openDecisions, n.openTrust, n.recordPolicy, n.openMachine, n.openRuntime, n.serve,
	} {
		if err := start(ctx, &open); err != nil {
			return err
		}
	}
	log.InfoContext(ctx, "node is up", slog.String("name", c.NodeName), slog.String("level", n.evidence.Level().String()),
		slog.String("socket", c.Socket), slog.String("address", c.Address))
	select {
	case <-ctx.Done():
	case <-n.ended:
	}
	return nil
}

// name gives the node its identity.
func (n *node) name() (err error) {
	if n.trustDomain, err = spiffeid.ParseTrustDomain(n.config.TrustDomain); err != nil {
		return err
	}
	n.spiffeID, err = n.trustDomain.Node(n.config.NodeName)
	return err
}

// openDecisions opens what says yes or no: policy and plugins.
func (n *node) openDecisions(ctx context.Context, open *undo.Stack) (err error) {
	c := n.config
	if n.policy, err = engine.Open(ctx, engine.Config{
		Dir: c.PolicyDir, StateDir: filepath.Join(c.StateDir, "decisions"), Bus: n.bus, Log: n.log,
	}); err != nil {
		return err
	}
	open.Push("policy", func(context.Context) error { return n.policy.Close() })
	if n.plugins, err = host.Open(ctx, host.Config{
		StateDir: filepath.Join(c.StateDir, "plugins"), TrustDir: filepath.Join(c.TrustDir, "plugins"), Bus: n.bus, Log: n.log,
	}); err != nil {
		return err
	}
	open.Push("plugins", n.plugins.Close)
	return nil
}

// openTrust opens what proves: the launch log and the issuer of identities.
func (n *node) openTrust(ctx context.Context, open *undo.Stack) (err error) {
	c := n.config
	if n.evidence, err = evidence.Open(ctx, evidence.Config{
		StateDir: filepath.Join(c.StateDir, "attestation"), NodeName: c.NodeName, SPIFFEID: n.spiffeID, TPM: c.TPM, Log: n.log,
	}); err != nil {
		return err
	}
	open.Push("launch log", func(context.Context) error { return n.evidence.Close() })
	if n.issuer, err = issue.Open(ctx, issue.Config{
		StateDir: filepath.Join(c.StateDir, "identity"), TrustDomain: n.trustDomain, Log: n.log,
	}); err != nil {
		return err
	}
	return nil
}

// recordPolicy puts the policy set in force, and each that follows it, into the
// launch log. A log that takes no records must not keep the node from starting
// and telling so: every launch is refused then, and names its policy anyway.
func (n *node) recordPolicy(ctx context.Context, open *undo.Stack) error {
	changes := n.bus.Subscribe()
	watch, stop := context.WithCancel(context.WithoutCancel(ctx))
	done := make(chan struct{})
	record := func(ctx context.Context) {
		set, _ := n.policy.Current()
		if err := n.evidence.RecordPolicy(ctx, set.Digest); err != nil {
			n.log.ErrorContext(ctx, "policy set not recorded in the launch log", slog.String("error", err.Error()))
		}
	}
	record(ctx)
	go func() {
		defer close(done)
		for {
			e, missed, err := changes.Next(watch)
			if err != nil {
				return
			}
			if e.Type == "policy.changed" || missed > 0 { // what was missed may have been such a change
				record(watch)
			}
		}
	}()
	open.Push("policy watch", func(context.Context) error {
		stop()
		<-done
		changes.Close()
		return nil
	})
	return nil
}

// openMachine opens what touches the kernel, and the images.
func (n *node) openMachine(ctx context.Context, open *undo.Stack) (err error) {
	c := n.config
	if n.state, err = state.Open(filepath.Join(c.StateDir, "containers")); err != nil {
		return err
	}
	open.Push("container records", func(context.Context) error { return n.state.Close() })
	if n.images, err = image.Open(ctx, image.Config{
		Root: filepath.Join(c.StateDir, "images"), TrustDir: filepath.Join(c.TrustDir, "images"), InUse: n.state.UsersOf, Log: n.log,
		Removed: func(path string) {
			if n.sandboxes != nil { // is opened later
				n.sandboxes.Forget(path)
			}
		},
	}); err != nil {
		return err
	}
	open.Push("images", func(context.Context) error { return n.images.Close() })
	if n.network, err = network.Open(ctx, network.Config{
		StateDir: filepath.Join(c.StateDir, "network"), RunDir: filepath.Join(c.RunDir, "network"),
		Pool: c.Network.Pool, Table: c.Network.Table, InterfacePrefix: c.Network.InterfacePrefix, Bus: n.bus, Log: n.log,
	}); err != nil {
		return err
	}
	open.Push("network", func(context.Context) error { return n.network.Close() })
	if n.volumes, err = volume.Open(filepath.Join(c.StateDir, "volumes")); err != nil {
		return err
	}
	n.volumes.Restore(n.state.List())
	if n.sandboxes, err = sandbox.OpenNative(ctx, sandbox.Config{
		StateDir: filepath.Join(c.StateDir, "sandboxes"), RunDir: filepath.Join(c.RunDir, "sandboxes"),
		InitPath: c.InitPath, CgroupParent: c.CgroupParent, Pool: c.Pool, Volumes: n.volumes, Log: n.log,
		Protected: []string{c.StateDir, c.RunDir, c.Socket, c.TrustDir, c.PolicyDir, DefaultFile},
	}); err != nil {
		return err
	}
	open.Push("sandboxes", func(context.Context) error { return n.sandboxes.Close() })
	return nil
}

// openRuntime connects the launch pipeline and takes the containers up.
func (n *node) openRuntime(ctx context.Context, open *undo.Stack) (err error) {
	pipeline := &launch.Pipeline{
		Images: n.images, Plugins: n.plugins, Policy: n.policy, Attestor: n.evidence, Identities: n.issuer,
		Sandboxes: n.sandboxes, Ender: n.sandboxes, Network: n.network, TrustDomain: n.trustDomain,
	}
	boot, err := supervise.BootID()
	if err != nil {
		return err
	}
	if n.supervisor, err = supervise.Open(ctx, supervise.Config{
		Launcher: pipeline, Sandboxes: n.sandboxes, Processes: n.sandboxes, Logs: n.sandboxes, Boot: boot, Network: n.network, Identities: n.issuer, State: n.state, Bus: n.bus, Log: n.log,
	}); err != nil {
		return err
	}
	open.Push("supervisor", func(context.Context) error { n.supervisor.Close(); return nil })
	return nil
}

func (n *node) cniSocket() string { return filepath.Join(n.config.RunDir, "cni.sock") }

// register adds every service of the API to a server.
func (n *node) register(s grpc.ServiceRegistrar) {
	runtimev1.RegisterRuntimeServiceServer(s, runtimeserver.NewRuntime(n.supervisor, n.sandboxes, n.config.InitPath))
	runtimev1.RegisterImageServiceServer(s, runtimeserver.NewImages(n.images))
	runtimev1.RegisterVolumeServiceServer(s, runtimeserver.NewVolumes(n.volumes))
	networkv1.RegisterNetworkServiceServer(s, networkserver.New(n.network))
	pluginv1.RegisterPluginServiceServer(s, pluginserver.New(n.plugins))
	policyv1.RegisterPolicyServiceServer(s, policyserver.New(n.policy))
	attestationv1.RegisterAttestationServiceServer(s, &attestationserver.Server{Log: n.evidence, Node: n.evidence, Issuer: n.issuer})
	nodev1.RegisterNodeServiceServer(s, &runtimeserver.Node{Describe: n.describe, End: n.end, Bus: n.bus})
}

// describe tells what the node is.
func (n *node) describe(context.Context) (*nodev1.StatusResponse, error) {
	set, _ := n.policy.Current()
	records, diverged := n.evidence.State()
	r := &nodev1.StatusResponse{
		Name: n.config.NodeName, SpiffeId: n.spiffeID, TrustDomain: n.trustDomain.String(),
		Level: n.evidence.Level().String(), LevelDescription: n.evidence.Level().Describe(), Version: buildinfo.Version(),
		Socket: n.config.Socket, Address: n.config.Address, StateDir: n.config.StateDir, Started: timestamppb.New(n.started),
		LaunchRecords: records, LaunchLogFault: diverged, PolicyDigest: string(set.Digest), CniSocket: n.cniSocket(),
	}
	for _, c := range n.state.List() {
		r.Containers++
		if c.Phase == state.Running {
			r.ContainersRunning++
		}
	}
	for _, p := range n.plugins.List() {
		if p.State == host.Active {
			r.PluginsActive++
		}
	}
	return r, nil
}

// end removes every container and everything in the kernel.
func (n *node) end(ctx context.Context) ([]string, error) {
	n.ending.Store(true)
	names, err := n.supervisor.RemoveAll(ctx)
	if err == nil {
		err = errors.Join(n.network.Down(ctx), n.sandboxes.Shutdown(ctx))
	}
	if err != nil {
		n.ending.Store(false)
		return names, err
	}
	n.endOnce.Do(func() { close(n.ended) })
	return names, nil
}

// containerName gives the name of the container that key finds, else key.
func (n *node) containerName(key string) string {
	if c, err := n.state.Find(key); err == nil {
		return c.Spec.Name
	}
	return key
}

// imageName gives the full form of an image's reference, else what was given.
func imageName(reference string) string {
	if r, err := ocilayout.ParseReference(reference); err == nil {
		return r.String()
	}
	return reference
}

// mayEnter lets policy decide on each request, until the node ends.
func (n *node) mayEnter() rpc.Guard {
	decide := guard(n.policy, names{node: n.config.NodeName, container: n.containerName, image: imageName})
	return func(ctx context.Context, caller workload.Principal, method string, request any) error {
		if n.ending.Load() {
			return fault.New(fault.Unavailable, "the node is going down")
		}
		return decide(ctx, caller, method, request)
	}
}
