package workload

import (
	"strings"
	"testing"
)

func TestLabels(t *testing.T) {
	for _, c := range []struct {
		appArmor, seLinux string
		file              string
		bad               bool
	}{
		{},
		{appArmor: "unconfined"},
		{appArmor: "docker-default"},
		{appArmor: "/usr/bin/web"},
		{appArmor: "a b", bad: true},
		{appArmor: ":ns:a", bad: true},
		{appArmor: "a\nexec b", bad: true},
		{appArmor: strings.Repeat("a", 257), bad: true},
		{seLinux: "system_u:system_r:container_t:s0:c1,c2", file: "system_u:object_r:container_file_t:s0:c1,c2"},
		{seLinux: "u:r:t", file: "u:object_r:container_file_t"},
		{seLinux: "u:r", bad: true},
		{seLinux: "u:r:t:s0 context=x", bad: true},
	} {
		s := Spec{Name: "a", Image: "i", Network: "none", AppArmor: c.appArmor, SELinux: c.seLinux}
		if err := s.Validate(); (err != nil) != c.bad {
			t.Errorf("%q, %q: %v", c.appArmor, c.seLinux, err)
		}
		if got := s.FileContext(); !c.bad && got != c.file {
			t.Errorf("%q: files %q, want %q", c.seLinux, got, c.file)
		}
	}
}
