package server

import (
	"fmt"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	runtimev1 "tero.internal/api/runtime/v1"
	"tero.internal/common/fault"
	"tero.internal/common/workload"
	"tero.internal/runtime/state"
)

// specFromProto reads a request's spec and checks its form.
func specFromProto(p *runtimev1.ContainerSpec) (workload.Spec, error) {
	s := workload.Spec{
		Name: p.GetName(), Image: p.GetImage(), Entrypoint: p.GetEntrypoint(), Args: p.GetArgs(), Env: p.GetEnv(),
		WorkingDir: p.GetWorkingDir(), User: p.GetUser(), Hostname: p.GetHostname(), Labels: p.GetLabels(),
		Terminal: p.GetTerminal(), OpenStdin: p.GetOpenStdin(), WritableRootfs: p.GetWritableRootfs(),
		CapAdd: p.GetCapAdd(), Network: p.GetNetwork(), StopSignal: p.GetStopSignal(), AutoRemove: p.GetAutoRemove(),
		AppArmor: p.GetApparmor(), SELinux: p.GetSelinux(), NoLandlock: p.GetNoLandlock(), Isolation: p.GetIsolation(),
		Resources: workload.Resources{MilliCPU: p.GetMilliCpu(), MemoryBytes: p.GetMemoryBytes(), Pids: p.GetPids()},
	}
	grantsFromProto(p, &s)
	if err := lifeFromProto(p, &s); err != nil {
		return s, fault.New(fault.Invalid, "the launch request is not valid: %w", err)
	}
	if s.Network == "" {
		s.Network = workload.NetworkDefault
	}
	s.Log = workload.LogLimits{MaxBytes: p.GetLogMaxBytes(), MaxFiles: int(p.GetLogMaxFiles())}
	if s.Name == "" {
		s.Name = madeUpName(s.Image)
	}
	if l := p.GetMinLevel(); l != "" {
		level, err := workload.ParseLevel(l)
		if err != nil {
			return s, fault.New(fault.Invalid, "%w", err)
		}
		s.MinLevel = level
	}
	if err := s.Validate(); err != nil {
		return s, fault.New(fault.Invalid, "the launch request is not valid: %w", err).
			WithHint("\"tero run --help\" describes each flag")
	}
	return s, nil
}

// madeUpName gives "web-3f9a" for "localhost/web:v1".
func madeUpName(image string) string {
	base := image[strings.LastIndexByte(image, '/')+1:]
	base, _, _ = strings.Cut(base, "@")
	base, _, _ = strings.Cut(base, ":")
	base = strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= '0' && r <= '9' {
			return r
		}
		return '-'
	}, strings.ToLower(base))
	base = strings.Trim(base[:min(len(base), 50)], "-")
	if base == "" {
		base = "container"
	}
	return fmt.Sprintf("%s-%s", base, workload.NewID()[:4])
}

func specToProto(s workload.Spec) *runtimev1.ContainerSpec {
	out := &runtimev1.ContainerSpec{
		Name: s.Name, Image: s.Image, Entrypoint: s.Entrypoint, Args: s.Args, Env: s.Env,
		WorkingDir: s.WorkingDir, User: s.User, Hostname: s.Hostname, Labels: s.Labels,
		Terminal: s.Terminal, OpenStdin: s.OpenStdin, WritableRootfs: s.WritableRootfs, CapAdd: s.CapAdd,
		MilliCpu: s.Resources.MilliCPU, MemoryBytes: s.Resources.MemoryBytes, Pids: s.Resources.Pids,
		Network: s.Network, StopSignal: s.StopSignal, AutoRemove: s.AutoRemove, MinLevel: s.MinLevel.String(),
		LogMaxBytes: s.Log.MaxBytes, LogMaxFiles: int32(s.Log.MaxFiles), //nolint:gosec // at most 1000
		Apparmor: s.AppArmor, Selinux: s.SELinux, NoLandlock: s.NoLandlock, Isolation: s.Isolation,
	}
	lifeToProto(s, out)
	grantsToProto(s, out)
	return out
}

var states = map[state.Phase]runtimev1.State{
	state.Creating:   runtimev1.State_STATE_CREATING,
	state.Running:    runtimev1.State_STATE_RUNNING,
	state.Restarting: runtimev1.State_STATE_RESTARTING,
	state.Exited:     runtimev1.State_STATE_EXITED,
}

func containerToProto(c state.Container) *runtimev1.Container {
	out := &runtimev1.Container{
		Id: string(c.ID), Name: c.Spec.Name, Spec: specToProto(c.Spec), ImageDigest: string(c.Image.Digest),
		State: states[c.Phase], Created: timestamp(c.Created), Started: timestamp(c.Started),
		SpiffeId: c.Identity.SPIFFEID, Level: c.Evidence.Level.String(),
		RecordSequence: c.Evidence.Sequence, RecordDigest: string(c.Evidence.Record),
		Policies: c.Grant.Policies, PolicyDigest: string(c.Grant.PolicyDigest), DecisionId: c.Grant.DecisionID,
	}
	for _, s := range c.Image.Signers {
		out.Signers = append(out.Signers, s.Name)
	}
	for _, v := range c.Verdicts {
		out.Plugins = append(out.Plugins, &runtimev1.PluginVerdict{
			Plugin: v.Plugin, Digest: string(v.Digest), Ticks: v.Ticks, Changed: v.Changed,
		})
	}
	if e := c.Endpoint; e != nil {
		out.Endpoint = &runtimev1.Endpoint{
			Network: e.Network, Interface: e.Interface, Address: e.Address.String(),
			Gateway: e.Gateway.String(), Mac: e.MAC, HostInterface: e.HostInterface,
		}
	}
	if c.Exit != nil {
		out.Exit = exitToProto(*c.Exit)
	}
	return out
}

func exitToProto(e state.Exit) *runtimev1.Exit {
	return &runtimev1.Exit{
		Code: int32(e.Code), Signal: int32(e.Signal), OomKilled: e.OOMKilled, //nolint:gosec // exit codes and signals are 0 to 255
		At: timestamp(e.At), Message: e.Message,
	}
}

func timestamp(t time.Time) *timestamppb.Timestamp {
	if t.IsZero() {
		return nil
	}
	return timestamppb.New(t)
}
