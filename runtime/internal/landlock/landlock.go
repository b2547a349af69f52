// Package landlock says what the Landlock layer of a container allows.
//
// Landlock (landlock(7)) is a fence that a process puts around itself and its
// children, beside namespaces, mount flags and seccomp, and that nothing takes
// away again. Files are allowed by what they lie below, whichever way a process
// came to them. So what lies outside of the container's root is refused also to
// one that got hold of a folder of the host: by a leaked descriptor, by the
// working directory or root of another process, by a mount that should not be
// there. Once fenced, a process mounts nothing, and sees neither memory, root nor
// descriptors of a process that is not fenced with it.
package landlock

import (
	"path/filepath"
	"slices"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// Annotation is set to Off in a configuration to leave the layer out.
const (
	Annotation = "internal.tero.landlock"
	Off        = "off"
)

// MinABI is the oldest version that containers can live with. In version 1
// (Linux 5.13 to 5.18) no fenced process moves or links a file from one folder
// to another: that is EXDEV, and ordinary programs break.
const MinABI = 2

// The rights by what they are for. What no rule can allow is handled too, so
// that nobody has it: making device nodes.
const (
	read     = unix.LANDLOCK_ACCESS_FS_EXECUTE | unix.LANDLOCK_ACCESS_FS_READ_FILE | unix.LANDLOCK_ACCESS_FS_READ_DIR
	change   = unix.LANDLOCK_ACCESS_FS_WRITE_FILE | unix.LANDLOCK_ACCESS_FS_TRUNCATE
	populate = unix.LANDLOCK_ACCESS_FS_REMOVE_DIR | unix.LANDLOCK_ACCESS_FS_REMOVE_FILE | unix.LANDLOCK_ACCESS_FS_MAKE_DIR |
		unix.LANDLOCK_ACCESS_FS_MAKE_REG | unix.LANDLOCK_ACCESS_FS_MAKE_SOCK | unix.LANDLOCK_ACCESS_FS_MAKE_FIFO |
		unix.LANDLOCK_ACCESS_FS_MAKE_SYM | unix.LANDLOCK_ACCESS_FS_REFER
	devices = unix.LANDLOCK_ACCESS_FS_MAKE_CHAR | unix.LANDLOCK_ACCESS_FS_MAKE_BLOCK
	ioctl   = unix.LANDLOCK_ACCESS_FS_IOCTL_DEV

	// ofFiles are the rights that mean something for what is no folder.
	ofFiles = unix.LANDLOCK_ACCESS_FS_EXECUTE | unix.LANDLOCK_ACCESS_FS_READ_FILE | change | ioctl
)

// Rule allows something for a path of the container and all below it.
type Rule struct {
	Path   string
	Access uint64
}

// Ruleset is the layer of a container.
type Ruleset struct {
	// Handled are the rights that are refused unless a rule allows them.
	Handled uint64
	Rules   []Rule
	// Stream is what is allowed for the files that the standard streams are: a
	// process that opens /dev/stdout means them, wherever they lie.
	Stream uint64
}

// ForFile gives the part of a rule's rights that a rule for a plain file may have.
func (r Rule) ForFile() uint64 { return r.Access & ofFiles }

// ABI is the version of Landlock in the kernel; 0 when there is none, or when
// it was left out at boot.
func ABI() int {
	abi, _, errno := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, 0, 0, unix.LANDLOCK_CREATE_RULESET_VERSION)
	if errno != 0 {
		return 0
	}
	return int(abi)
}

// handled gives the rights that a version knows.
func handled(abi int) uint64 {
	rights := uint64(read | unix.LANDLOCK_ACCESS_FS_WRITE_FILE | populate | devices)
	if abi >= 3 {
		rights |= unix.LANDLOCK_ACCESS_FS_TRUNCATE
	}
	if abi >= 5 {
		rights |= ioctl
	}
	return rights
}

// Rules gives the layer for a configuration, or nil when there is to be none.
// All that is in the container may be read and executed, as its files' modes and
// mounts have it; it is changed only where the configuration mounts something
// that can be written.
func Rules(config *specs.Spec, abi int) *Ruleset {
	if abi < MinABI || config.Annotations[Annotation] == Off {
		return nil
	}
	r := &Ruleset{Handled: handled(abi)}
	r.Stream = (unix.LANDLOCK_ACCESS_FS_READ_FILE | change | ioctl) & r.Handled
	root := uint64(read)
	if config.Root != nil && !config.Root.Readonly {
		root |= change | populate
	}
	r.allow("/", root)
	r.allow("/dev", change|ioctl)
	for i := range config.Mounts {
		m := &config.Mounts[i]
		switch {
		case slices.Contains(m.Options, "ro"):
		case m.Type == "proc", m.Type == "sysfs": // nothing can be made there
			r.allow(m.Destination, change)
		case m.Type == "mqueue":
			// mq_open(3) goes to the file system itself and by no path, so that it
			// passes no folder above; whatever that allows has to be said once more.
			r.add(Rule{filepath.Join("/", m.Destination), (read | change | populate) & r.Handled})
		default:
			r.allow(m.Destination, change|populate)
		}
	}
	if config.Linux != nil {
		for i := range config.Linux.Devices {
			r.allow(config.Linux.Devices[i].Path, change|ioctl)
		}
	}
	return r
}

// allow adds a rule, unless those for the folders above say it already.
func (r *Ruleset) allow(path string, access uint64) {
	path, access = filepath.Join("/", path), access&r.Handled
	missing := access
	for _, rule := range r.Rules {
		if rule.Path == "/" || strings.HasPrefix(path+"/", rule.Path+"/") {
			missing &^= rule.Access
		}
	}
	if missing != 0 {
		r.add(Rule{path, access})
	}
}

// add adds a rule, or its rights to one for the same path.
func (r *Ruleset) add(rule Rule) {
	at := slices.IndexFunc(r.Rules, func(o Rule) bool { return o.Path == rule.Path })
	if at < 0 {
		r.Rules = append(r.Rules, rule)
		return
	}
	r.Rules[at].Access |= rule.Access
}
