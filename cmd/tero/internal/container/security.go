package container

import (
	"strings"

	runtimev1 "tero.internal/api/runtime/v1"
	"tero.internal/common/fault"
)

// securityHelp describes --security-opt.
const securityHelp = "apparmor=PROFILE, label=type:T (or user, role, level), landlock=off (loosens the sandbox)"

// secure sets what the values of --security-opt ask for, in the forms that
// Docker has for them.
func secure(spec *runtimev1.ContainerSpec, options []string) error {
	// The context of containers in the policies that have them (container-selinux).
	label := [4]string{"system_u", "system_r", "container_t", "s0"}
	labelled := false
	for _, o := range options {
		key, value, ok := strings.Cut(o, "=")
		if !ok {
			key, value, ok = strings.Cut(o, ":") // Docker's older form
		}
		switch {
		case !ok || value == "":
			return fault.New(fault.Invalid, "--security-opt %q is not of the form KEY=VALUE", o).WithHint("the options are: %s", securityHelp)
		case key == "apparmor":
			spec.Apparmor = value
		case key == "landlock" && value == "off":
			spec.NoLandlock = true
		case key == "label" && value == "disable":
			labelled = false
		case key == "label":
			if err := setLabel(&label, value); err != nil {
				return err
			}
			labelled = true
		default:
			return fault.New(fault.Invalid, "--security-opt %q is not known", o).WithHint("the options are: %s", securityHelp)
		}
	}
	if labelled {
		spec.Selinux = strings.Join(label[:], ":")
	}
	return nil
}

// setLabel sets a part of an SELinux context, or all of it.
func setLabel(label *[4]string, value string) error {
	key, part, _ := strings.Cut(value, ":")
	for i, name := range []string{"user", "role", "type", "level"} {
		if key == name && part != "" {
			label[i] = part
			return nil
		}
	}
	whole := strings.SplitN(value, ":", 4)
	if len(whole) < 4 {
		return fault.New(fault.Invalid, "--security-opt label=%s is no part of an SELinux context", value).
			WithHint("write label=type:container_t, or a whole context user:role:type:level")
	}
	copy(label[:], whole)
	return nil
}
