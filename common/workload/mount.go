package workload

import (
	"fmt"
	"path"
	"slices"
	"strings"
	"unicode"
)

// MountType says what a Mount shows.
type MountType string

// The types of mounts.
const (
	// MountBind shows a file or folder of the node.
	MountBind MountType = "bind"
	// MountVolume shows a named volume, which outlives the container.
	MountVolume MountType = "volume"
	// MountTmpfs is a file system in memory, which ends with the container.
	MountTmpfs MountType = "tmpfs"
)

// Mount is a file system that the container sees beside its image. All are
// mounted without set-user-id bits and device nodes, and what can be written
// cannot be executed unless Exec says so.
type Mount struct {
	Type MountType `json:"type"`
	// Source is an absolute path on the node without symbolic links for a
	// bind mount, and a name for a volume.
	Source string `json:"source,omitempty"`
	// Target is the absolute path inside.
	Target   string `json:"target"`
	ReadOnly bool   `json:"readOnly,omitempty"`
	// Exec lets programs be executed from a mount that can be written.
	Exec bool `json:"exec,omitempty"`
	// SizeBytes bounds a tmpfs; DefaultTmpfsBytes when 0.
	SizeBytes int64 `json:"sizeBytes,omitempty"`
	// Mode has the permission bits of a tmpfs; 01777 when 0.
	Mode uint32 `json:"mode,omitempty"`
}

// DefaultTmpfsBytes is the size of a tmpfs that says none.
const DefaultTmpfsBytes = 256 << 20

// maxMounts, maxDevices and the like bound what one request can make a node do.
const (
	maxMounts  = 64
	maxDevices = 64
	maxPath    = 4095 // PATH_MAX without its NUL
)

func (m *Mount) validate() error {
	if err := validatePath(m.Target); err != nil {
		return fmt.Errorf("mount point %w", err)
	}
	if err := mayMountOn(m.Target); err != nil {
		return err
	}
	switch m.Type {
	case MountBind:
		if err := validatePath(m.Source); err != nil {
			return fmt.Errorf("source of the mount on %s: %w", m.Target, err)
		}
		if m.Source == "/" {
			return fmt.Errorf("the whole file system of the node cannot be mounted on %s: name a folder in it", m.Target)
		}
	case MountVolume:
		if err := ValidateName(m.Source); err != nil {
			return fmt.Errorf("volume for %s: %w", m.Target, err)
		}
	case MountTmpfs:
		if m.Source != "" {
			return fmt.Errorf("the tmpfs on %s has no source, but %q was given", m.Target, m.Source)
		}
	default:
		return fmt.Errorf("mount on %s: type %q is not bind, volume or tmpfs", m.Target, m.Type)
	}
	switch {
	case m.Type != MountTmpfs && (m.SizeBytes != 0 || m.Mode != 0):
		return fmt.Errorf("mount on %s: only a tmpfs takes a size or a mode", m.Target)
	case m.SizeBytes < 0 || m.SizeBytes > 0 && m.SizeBytes < 4096:
		return fmt.Errorf("the tmpfs on %s is to have %d bytes, less than a page", m.Target, m.SizeBytes)
	case m.Mode > 0o1777:
		return fmt.Errorf("the tmpfs on %s: mode %o is not one of 1 to 1777", m.Target, m.Mode)
	}
	return nil
}

// validatePath wants one spelling of each path, so that what policies compare
// is what is mounted.
func validatePath(p string) error {
	switch {
	case !strings.HasPrefix(p, "/"):
		return fmt.Errorf("%q is not an absolute path", p)
	case len(p) > maxPath:
		return fmt.Errorf("%.40q... is longer than %d bytes", p, maxPath)
	case strings.ContainsFunc(p, unicode.IsControl) || strings.ToValidUTF8(p, "") != p:
		return fmt.Errorf("%q holds control characters", p)
	case path.Clean(p) != p:
		return fmt.Errorf("%q is not in its shortest form, %q", p, path.Clean(p))
	}
	return nil
}

// mayMountOn keeps users away from what the sandbox itself is made of.
func mayMountOn(target string) error {
	if target == "/" {
		return fmt.Errorf("nothing can be mounted on /: the image is there")
	}
	for _, p := range []string{"/proc", "/sys", "/dev"} {
		if target == p || strings.HasPrefix(target, p+"/") {
			return fmt.Errorf("nothing can be mounted on %s: %s belongs to the sandbox", target, p)
		}
	}
	if slices.Contains([]string{"/etc", "/etc/hosts", "/etc/hostname", "/etc/resolv.conf"}, target) {
		return fmt.Errorf("nothing can be mounted on %s: the node writes the container's host names there", target)
	}
	return nil
}

// Device is a device of the node that a container may use.
type Device struct {
	// Source is its path on the node, below /dev and without symbolic links.
	Source string `json:"source"`
	// Target is its path inside, below /dev.
	Target string `json:"target"`
	// Access is what may be done: some of r, w and m, in this order.
	Access string `json:"access"`
}

// validate checks a device. No pseudo-terminal and nothing of the sandbox's own
// /dev may be covered.
func (d *Device) validate() error {
	for _, p := range []string{d.Source, d.Target} {
		if err := validatePath(p); err != nil {
			return fmt.Errorf("device %w", err)
		}
		if !strings.HasPrefix(p, "/dev/") {
			return fmt.Errorf("device %s does not lie below /dev", p)
		}
	}
	for _, own := range []string{"pts", "shm", "mqueue", "fd"} {
		if d.Target == "/dev/"+own || strings.HasPrefix(d.Target, "/dev/"+own+"/") {
			return fmt.Errorf("device %s: /dev/%s belongs to the sandbox", d.Target, own)
		}
	}
	for _, own := range []string{"null", "zero", "full", "random", "urandom", "tty", "console", "ptmx", "stdin", "stdout", "stderr"} {
		if d.Target == "/dev/"+own {
			return fmt.Errorf("device %s: every container has one of its own", d.Target)
		}
	}
	rest := d.Access
	for _, c := range []string{"r", "w", "m"} {
		rest = strings.TrimPrefix(rest, c)
	}
	if d.Access == "" || rest != "" {
		return fmt.Errorf("device %s: access %q is not some of r, w and m, in this order", d.Source, d.Access)
	}
	return nil
}

// validateGrants checks what the container is given beside its image.
func (s *Spec) validateGrants() error {
	if len(s.Mounts) > maxMounts || len(s.Devices) > maxDevices {
		return fmt.Errorf("%d mounts and %d devices are more than %d and %d", len(s.Mounts), len(s.Devices), maxMounts, maxDevices)
	}
	seen := map[string]bool{}
	once := func(target string) error {
		if seen[target] {
			return fmt.Errorf("two things are to be mounted on %s", target)
		}
		seen[target] = true
		return nil
	}
	for i := range s.Mounts {
		if err := s.Mounts[i].validate(); err != nil {
			return err
		}
		if err := once(s.Mounts[i].Target); err != nil {
			return err
		}
	}
	for i := range s.Devices {
		if err := s.Devices[i].validate(); err != nil {
			return err
		}
		if err := once(s.Devices[i].Target); err != nil {
			return err
		}
	}
	return nil
}
