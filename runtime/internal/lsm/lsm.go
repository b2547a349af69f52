// Package lsm tells which of the security modules that label processes this
// machine has: AppArmor and SELinux.
package lsm

import (
	"bytes"
	"os"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"tero.internal/common/fault"
)

// Unconfined is the AppArmor profile that confines nothing.
const Unconfined = "unconfined"

// AppArmor tells whether AppArmor is in the kernel and was not left out at boot.
func AppArmor() bool {
	b, err := os.ReadFile("/sys/module/apparmor/parameters/enabled")
	return err == nil && bytes.Equal(bytes.TrimSpace(b), []byte("Y"))
}

// SELinux tells whether SELinux is in the kernel and has a policy.
func SELinux() bool {
	var st unix.Statfs_t
	return unix.Statfs("/sys/fs/selinux", &st) == nil && uint32(st.Type) == unix.SELINUX_MAGIC //nolint:gosec // a number of 32 bits
}

// Profile gives the AppArmor profile that a process asks for; "" for none.
func Profile(p *specs.Process) string {
	if p.ApparmorProfile == Unconfined {
		return ""
	}
	return p.ApparmorProfile
}

// Check refuses a configuration whose labels nothing here would enforce.
func Check(config *specs.Spec) error { return check(config, AppArmor, SELinux) }

func check(config *specs.Spec, appArmor, seLinux func() bool) error {
	p := config.Process
	for _, label := range []string{p.ApparmorProfile, p.SelinuxLabel, config.Linux.MountLabel} {
		if strings.ContainsAny(label, "\x00\n") {
			return fault.New(fault.Invalid, "the security label %q holds a control character", label)
		}
	}
	if name := Profile(p); name != "" && !appArmor() {
		return fault.New(fault.Unsupported, "the container asks for the AppArmor profile %q, and this kernel has no AppArmor", name).
			WithHint("boot with apparmor among lsm=, or launch without --security-opt apparmor=; \"tero doctor\" says what confines containers here")
	}
	label := p.SelinuxLabel
	if label == "" {
		label = config.Linux.MountLabel
	}
	if label != "" && !seLinux() {
		return fault.New(fault.Unsupported, "the container asks for the SELinux label %q, and this kernel has no SELinux with a policy", label).
			WithHint("boot with selinux among lsm= and load a policy, or launch without --security-opt label=; \"tero doctor\" says what confines containers here")
	}
	return nil
}
