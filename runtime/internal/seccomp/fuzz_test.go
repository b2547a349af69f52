package seccomp

import (
	"encoding/json"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// FuzzCompile feeds profiles of any kind, which users write and pull: the
// compiler gives an error, or a program that the kernel takes and that means
// what the profile says.
func FuzzCompile(f *testing.F) {
	seed, err := json.Marshal(DefaultProfile())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(seed, uint32(41), uint64(40), uint64(0))
	f.Add([]byte(`{"defaultAction":"SCMP_ACT_ALLOW","architectures":["SCMP_ARCH_X86","SCMP_ARCH_X32"],"syscalls":[{"names":["socket","semop"],"action":"SCMP_ACT_TRAP","args":[{"index":1,"value":7,"op":"SCMP_CMP_GT"},{"index":1,"value":2,"op":"SCMP_CMP_LE"}]}]}`), uint32(102), uint64(1), uint64(8))
	f.Fuzz(func(t *testing.T, profile []byte, nr uint32, first, second uint64) {
		var p specs.LinuxSeccomp
		if json.Unmarshal(profile, &p) != nil {
			return
		}
		program, err := Compile(&p)
		if err != nil {
			return
		}
		if err := checkProgram(program); err != nil {
			t.Fatal(err)
		}
		e := newEvaluator(&p, nativeABI)
		for _, arch := range []uint32{nativeABI.audit(), unix.AUDIT_ARCH_I386, unix.AUDIT_ARCH_ARM} {
			in := invocation{nr: nr, arch: arch, args: [6]uint64{first, second, second, first, first, second}}
			got, err := simulate(program, in)
			if err != nil {
				t.Fatal(err)
			}
			if want := e.evaluate(in); got != want {
				t.Fatalf("%+v: got %#x, want %#x", in, got, want)
			}
		}
	})
}
