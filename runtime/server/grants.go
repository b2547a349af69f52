package server

import (
	runtimev1 "tero.internal/api/runtime/v1"
	"tero.internal/common/workload"
)

// mountTypes has the names that a spec's JSON has for the types of mounts.
var mountTypes = map[runtimev1.Mount_Type]workload.MountType{
	runtimev1.Mount_TYPE_BIND:   workload.MountBind,
	runtimev1.Mount_TYPE_VOLUME: workload.MountVolume,
	runtimev1.Mount_TYPE_TMPFS:  workload.MountTmpfs,
}

// grantsFromProto reads what the container is given beside its image, and its
// limits. The spec's own check tells what of it cannot be.
func grantsFromProto(p *runtimev1.ContainerSpec, s *workload.Spec) {
	for _, m := range p.GetMounts() {
		s.Mounts = append(s.Mounts, workload.Mount{
			Type: mountTypes[m.GetType()], Source: m.GetSource(), Target: m.GetTarget(), ReadOnly: m.GetReadOnly(),
			Exec: m.GetExec(), SizeBytes: m.GetSizeBytes(), Mode: m.GetMode(),
		})
	}
	for _, d := range p.GetDevices() {
		s.Devices = append(s.Devices, workload.Device{Source: d.GetSource(), Target: d.GetTarget(), Access: d.GetAccess()})
	}
	for _, u := range p.GetUlimits() {
		s.Ulimits = append(s.Ulimits, workload.Ulimit{Name: u.GetName(), Soft: u.GetSoft(), Hard: u.GetHard()})
	}
	s.Sysctls, s.ShmBytes = p.GetSysctls(), p.GetShmBytes()
	r := &s.Resources
	r.CPUShares, r.CPUSet, r.IOWeight = p.GetCpuShares(), p.GetCpuSet(), p.GetIoWeight()
	r.MemoryReservation, r.MemorySwap = p.GetMemoryReservationBytes(), p.GetMemorySwapBytes()
	for _, l := range p.GetIoLimits() {
		r.IO = append(r.IO, workload.IOLimit{
			Device: l.GetDevice(), ReadBps: l.GetReadBps(), WriteBps: l.GetWriteBps(), ReadIOPS: l.GetReadIops(), WriteIOPS: l.GetWriteIops(),
		})
	}
}

// grantsToProto is the inverse.
func grantsToProto(s workload.Spec, p *runtimev1.ContainerSpec) {
	for _, m := range s.Mounts {
		out := &runtimev1.Mount{
			Source: m.Source, Target: m.Target, ReadOnly: m.ReadOnly, Exec: m.Exec, SizeBytes: m.SizeBytes, Mode: m.Mode,
		}
		for t, name := range mountTypes {
			if name == m.Type {
				out.Type = t
			}
		}
		p.Mounts = append(p.Mounts, out)
	}
	for _, d := range s.Devices {
		p.Devices = append(p.Devices, &runtimev1.Device{Source: d.Source, Target: d.Target, Access: d.Access})
	}
	for _, u := range s.Ulimits {
		p.Ulimits = append(p.Ulimits, &runtimev1.Ulimit{Name: u.Name, Soft: u.Soft, Hard: u.Hard})
	}
	p.Sysctls, p.ShmBytes = s.Sysctls, s.ShmBytes
	r := &s.Resources
	p.CpuShares, p.CpuSet, p.IoWeight = r.CPUShares, r.CPUSet, r.IOWeight
	p.MemoryReservationBytes, p.MemorySwapBytes = r.MemoryReservation, r.MemorySwap
	for _, l := range r.IO {
		p.IoLimits = append(p.IoLimits, &runtimev1.IoLimit{
			Device: l.Device, ReadBps: l.ReadBps, WriteBps: l.WriteBps, ReadIops: l.ReadIOPS, WriteIops: l.WriteIOPS,
		})
	}
}
