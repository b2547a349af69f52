package container

import (
	"testing"

	runtimev1 "tero.internal/api/runtime/v1"
	"tero.internal/common/fault"
)

func TestSecure(t *testing.T) {
	for name, c := range map[string]struct {
		options           []string
		appArmor, seLinux string
		noLandlock, bad   bool
	}{
		"nothing":         {},
		"profile":         {options: []string{"apparmor=web"}, appArmor: "web"},
		"older form":      {options: []string{"apparmor:unconfined"}, appArmor: "unconfined"},
		"type":            {options: []string{"label=type:web_t"}, seLinux: "system_u:system_r:web_t:s0"},
		"type and level":  {options: []string{"label=type:web_t", "label=level:s0:c1,c2"}, seLinux: "system_u:system_r:web_t:s0:c1,c2"},
		"whole context":   {options: []string{"label=a_u:b_r:c_t:s0:c7"}, seLinux: "a_u:b_r:c_t:s0:c7"},
		"disabled":        {options: []string{"label=type:web_t", "label=disable"}},
		"landlock off":    {options: []string{"landlock=off"}, noLandlock: true},
		"landlock on":     {options: []string{"landlock=on"}, bad: true},
		"no value":        {options: []string{"apparmor="}, bad: true},
		"no key":          {options: []string{"web"}, bad: true},
		"half a context":  {options: []string{"label=a_u:b_r"}, bad: true},
		"unknown":         {options: []string{"colour=red"}, bad: true},
		"part with no :":  {options: []string{"label=type"}, bad: true},
		"everything else": {options: []string{"apparmor=a", "label=role:b_r", "landlock=off"}, appArmor: "a", seLinux: "system_u:b_r:container_t:s0", noLandlock: true},
	} {
		t.Run(name, func(t *testing.T) {
			var spec runtimev1.ContainerSpec
			err := secure(&spec, c.options)
			if (err != nil) != c.bad || err != nil && (fault.KindOf(err) != fault.Invalid || fault.HintOf(err) == "") {
				t.Fatalf("%v", err)
			}
			if err == nil && (spec.GetApparmor() != c.appArmor || spec.GetSelinux() != c.seLinux || spec.GetNoLandlock() != c.noLandlock) {
				t.Errorf("%v", &spec)
			}
		})
	}
}
