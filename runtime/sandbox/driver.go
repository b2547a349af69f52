package sandbox

import (
	"context"
	"os"
	"slices"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"tero.internal/common/fault"
	"tero.internal/common/workload"
)

// Driver makes the sandboxes of one isolation class. Every driver passes the
// suite of package sandboxtest; what it declares not to do is refused there, and
// what it declares is tried.
type Driver interface {
	Launcher
	Controller
	Streams
	// Capabilities declare what the class does.
	Capabilities() Capabilities
}

// Launcher makes sandboxes and removes them.
type Launcher interface {
	// Configure gives the OCI runtime configuration that Create will apply; a
	// fault of kind Unsupported when the spec asks for what the class lacks.
	Configure(spec workload.Spec, image workload.Image) (*specs.Spec, error)
	// Create makes the sandbox; nothing of the image runs yet. netns is a path to
	// its network namespace that holds until Destroy.
	Create(ctx context.Context, id workload.ID, config *specs.Spec, image workload.Image) (netns string, err error)
	// Start executes the process, with the endpoint's addresses (nil: no network).
	Start(ctx context.Context, id workload.ID, endpoint *workload.Endpoint) error
	// Destroy removes everything; it is nil for an unknown container.
	Destroy(ctx context.Context, id workload.ID) error
}

// Controller works with sandboxes that run.
type Controller interface {
	Signal(ctx context.Context, id workload.ID, sig unix.Signal) error
	// Wait gives the exit, also when it was long ago.
	Wait(ctx context.Context, id workload.ID) (Exit, error)
	List(ctx context.Context) ([]Status, error)
	Exec(ctx context.Context, id workload.ID, spec ExecSpec) (*Process, error)
	// LogPath gives the file with the container's output.
	LogPath(id workload.ID) string
}

// Streams are the sandboxes' standard streams.
type Streams interface {
	// Input gives the write end of standard input, or the terminal.
	Input(ctx context.Context, id workload.ID) (*os.File, error)
	CloseInput(ctx context.Context, id workload.ID) error
	Resize(ctx context.Context, id workload.ID, rows, cols uint16) error
}

// Feature is something that a launch can ask for and that not every class can do.
type Feature string

// The features.
const (
	Terminals      Feature = "a terminal"
	OpenInput      Feature = "an open standard input"
	WritableRoots  Feature = "a writable root file system"
	KeptPrivileges Feature = "capabilities"
	BindMounts     Feature = "bind mounts"
	Volumes        Feature = "volumes"
	Tmpfs          Feature = "file systems in memory"
	HostDevices    Feature = "devices of the node"
	KernelValues   Feature = "kernel parameters"
	ProcessLimits  Feature = "resource limits of processes"
	SecurityLabels Feature = "AppArmor and SELinux labels"
)

// Features are all of them.
func Features() []Feature {
	return []Feature{
		Terminals, OpenInput, WritableRoots, KeptPrivileges, BindMounts, Volumes, Tmpfs, HostDevices, KernelValues, ProcessLimits,
		SecurityLabels,
	}
}

// Capabilities are what an isolation class does, declared so that what it cannot
// do is an answer and not a surprise.
type Capabilities struct {
	// Class is its name, as --isolation takes it.
	Class string
	// Features are what it can do.
	Features []Feature
}

// Asked gives the features that a spec asks for.
func Asked(spec workload.Spec) []Feature {
	mounts := func(kind workload.MountType) bool {
		return slices.ContainsFunc(spec.Mounts, func(m workload.Mount) bool { return m.Type == kind })
	}
	var list []Feature
	for _, f := range []struct {
		feature Feature
		asked   bool
	}{
		{Terminals, spec.Terminal},
		{OpenInput, spec.OpenStdin},
		{WritableRoots, spec.WritableRootfs},
		{KeptPrivileges, len(spec.CapAdd) > 0},
		{BindMounts, mounts(workload.MountBind)},
		{Volumes, mounts(workload.MountVolume)},
		{Tmpfs, mounts(workload.MountTmpfs)},
		{HostDevices, len(spec.Devices) > 0},
		{KernelValues, len(spec.Sysctls) > 0},
		{ProcessLimits, len(spec.Ulimits) > 0},
		{SecurityLabels, spec.AppArmor != "" || spec.SELinux != ""},
	} {
		if f.asked {
			list = append(list, f.feature)
		}
	}
	return list
}

// Check refuses a spec that asks for another class, or for what the class lacks.
func (c Capabilities) Check(spec workload.Spec) error {
	if spec.Isolation != "" && spec.Isolation != c.Class {
		return fault.New(fault.Unsupported, "this node has no isolation class %q, only %q", spec.Isolation, c.Class).
			WithHint("leave --isolation away; \"tero doctor\" tells about the other classes")
	}
	var lacks []string
	for _, f := range Asked(spec) {
		if !slices.Contains(c.Features, f) {
			lacks = append(lacks, string(f))
		}
	}
	if len(lacks) > 0 {
		return fault.New(fault.Unsupported, "the isolation class %q does not do %s", c.Class, strings.Join(lacks, ", ")).
			WithHint("leave it out, or choose another class with --isolation")
	}
	return nil
}

// Capabilities declare what the native class does: everything.
func (n *Native) Capabilities() Capabilities {
	return Capabilities{Class: workload.IsolationNative, Features: Features()}
}

var _ Driver = (*Native)(nil)
