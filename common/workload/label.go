package workload

import (
	"fmt"
	"regexp"
	"strings"
)

// profilePattern is what a name of an AppArmor profile can be: no spaces, so
// that nothing follows it in what the kernel reads, and no namespace (":ns:name").
var profilePattern = regexp.MustCompile(`^[A-Za-z0-9_./][A-Za-z0-9_./@+-]{0,255}$`)

// contextPattern is an SELinux context: user, role and type, then sensitivity
// and categories ("s0:c1,c2", "s0-s0:c0.c1023").
var contextPattern = regexp.MustCompile(`^[A-Za-z0-9_]+:[A-Za-z0-9_]+:[A-Za-z0-9_]+(:[A-Za-z0-9:,._-]+)?$`)

// maxContext bounds an SELinux context; the kernel takes a page.
const maxContext = 1024

func (s *Spec) validateLabels() error {
	if s.AppArmor != "" && !profilePattern.MatchString(s.AppArmor) {
		return fmt.Errorf("AppArmor profile %q is not a name: 1 to 256 of letters, digits, and _./@+-", s.AppArmor)
	}
	if s.SELinux != "" && (len(s.SELinux) > maxContext || !contextPattern.MatchString(s.SELinux)) {
		return fmt.Errorf("SELinux context %q is not user:role:type:level", s.SELinux)
	}
	return nil
}

// FileContext gives the SELinux context of the files of a container whose
// processes have the context of s: the type that policies for containers give
// to what such processes may change.
func (s *Spec) FileContext() string {
	parts := strings.SplitN(s.SELinux, ":", 4)
	if len(parts) < 3 {
		return ""
	}
	parts[1], parts[2] = "object_r", "container_file_t"
	return strings.Join(parts, ":")
}
