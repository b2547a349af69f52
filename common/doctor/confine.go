package doctor

import (
	"errors"
	"strings"

	"golang.org/x/sys/unix"
)

// landlockABI is the oldest version that containers are fenced with: before it,
// nothing fenced moves a file from one folder to another.
const landlockABI = 2

func landlockCheck() Check {
	c := check("kernel", "landlock", "a second fence around a container's files")
	abi, _, errno := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, 0, 0, unix.LANDLOCK_CREATE_RULESET_VERSION)
	switch {
	case errno != 0:
		return c.warn("boot with lsm=landlock,...; containers run without it", "%s", reason(errno))
	case abi < landlockABI:
		return c.warn("use Linux 5.19 or newer; containers run without it", "ABI %d, which refuses to move files", abi)
	}
	return c.ok("ABI %d, for every container", abi)
}

func appArmorCheck() Check {
	c := check("kernel", "AppArmor", "--security-opt apparmor=PROFILE; nothing else asks for it")
	if readTrimmed("/sys/module/apparmor/parameters/enabled") != "Y" {
		return c.ok("not there: who asks for a profile is refused")
	}
	return c.ok("yes")
}

func seLinuxCheck() Check {
	c := check("kernel", "SELinux", "--security-opt label=...; nothing else asks for it")
	var st unix.Statfs_t
	if unix.Statfs("/sys/fs/selinux", &st) != nil || uint32(st.Type) != unix.SELINUX_MAGIC { //nolint:gosec // a number of 32 bits
		return c.ok("not there: who asks for a label is refused")
	}
	if readTrimmed("/sys/fs/selinux/enforce") != "1" {
		return c.warn("setenforce 1", "permissive: labels are given, and nothing is refused by them")
	}
	return c.ok("enforcing")
}

// callsCheck tries the system calls that a node asks for before it starts.
func callsCheck() Check {
	c := check("kernel", "system calls", "paths that stay inside, descriptors that do not leak, mounts that are mapped")
	var lacking []string
	for name, call := range map[string]func() error{
		"openat2": func() error {
			_, err := unix.Openat2(unix.AT_FDCWD, "/", &unix.OpenHow{Resolve: 1 << 40}) // refused for its flags
			return err
		},
		"close_range": func() error { return unix.CloseRange(1<<30, 1<<30, unix.CLOSE_RANGE_CLOEXEC) },
		"mount_setattr": func() error {
			return unix.MountSetattr(-1, "", unix.AT_EMPTY_PATH, &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY})
		},
	} {
		if err := call(); errors.Is(err, unix.ENOSYS) || name == "close_range" && err != nil {
			lacking = append(lacking, name)
		}
	}
	if lacking != nil {
		return c.missing("use Linux 5.19 or newer, outside of a filter that hides them", "without %s", strings.Join(lacking, ", "))
	}
	return c.ok("openat2, close_range, mount_setattr")
}
