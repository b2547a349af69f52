package lsm

import (
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"tero.internal/common/fault"
)

func TestCheck(t *testing.T) {
	yes, no := func() bool { return true }, func() bool { return false }
	for name, c := range map[string]struct {
		process           specs.Process
		mount             string
		appArmor, seLinux func() bool
		want              fault.Kind
	}{
		"nothing asked":            {specs.Process{}, "", no, no, 0},
		"unconfined":               {specs.Process{ApparmorProfile: "unconfined"}, "", no, no, 0},
		"profile":                  {specs.Process{ApparmorProfile: "web"}, "", yes, no, 0},
		"profile without AppArmor": {specs.Process{ApparmorProfile: "web"}, "", no, yes, fault.Unsupported},
		"label":                    {specs.Process{SelinuxLabel: "u:r:t:s0"}, "u:object_r:f:s0", no, yes, 0},
		"label without SELinux":    {specs.Process{SelinuxLabel: "u:r:t:s0"}, "", yes, no, fault.Unsupported},
		"mount label alone":        {specs.Process{}, "u:object_r:f:s0", yes, no, fault.Unsupported},
		"two lines":                {specs.Process{ApparmorProfile: "a\nb"}, "", yes, yes, fault.Invalid},
	} {
		t.Run(name, func(t *testing.T) {
			err := check(&specs.Spec{Process: &c.process, Linux: &specs.Linux{MountLabel: c.mount}}, c.appArmor, c.seLinux)
			if (err == nil) != (c.want == 0) || err != nil && fault.KindOf(err) != c.want {
				t.Errorf("%v", err)
			}
		})
	}
}
