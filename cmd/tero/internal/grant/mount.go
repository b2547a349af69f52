// Package grant reads the flags of run that give a container something of its
// node, by the names and in the forms that Docker has for them.
package grant

import (
	"path"
	"strconv"
	"strings"

	runtimev1 "tero.internal/api/runtime/v1"
	"tero.internal/common/config"
	"tero.internal/common/fault"
)

// Volume reads -v SOURCE:TARGET[:OPTION,...]. A source that begins with a slash
// or a dot is a path, relative to dir; any other is the name of a volume.
func Volume(text, dir string) (*runtimev1.Mount, error) {
	wrong := func(format string, args ...any) error {
		return fault.New(fault.Invalid, "--volume %q: "+format, append([]any{text}, args...)...).
			WithHint("write /path/on/node:/path/inside or volume-name:/path/inside, then :ro if it shall not be written")
	}
	parts := strings.Split(text, ":")
	switch {
	case len(parts) == 1:
		return nil, wrong("volumes without a name are not made: nobody would find them again")
	case len(parts) > 3:
		return nil, wrong("there are more than three parts; --mount takes paths with colons")
	case parts[0] == "" || parts[1] == "":
		return nil, wrong("the source or the target is empty")
	}
	m := &runtimev1.Mount{Type: runtimev1.Mount_TYPE_VOLUME, Source: parts[0], Target: target(parts[1])}
	if strings.HasPrefix(parts[0], "/") || strings.HasPrefix(parts[0], ".") {
		m.Type, m.Source = runtimev1.Mount_TYPE_BIND, absolute(parts[0], dir)
	}
	if len(parts) < 3 {
		return m, nil
	}
	for o := range strings.SplitSeq(parts[2], ",") {
		switch o {
		case "ro", "readonly":
			m.ReadOnly = true
		case "exec":
			m.Exec = true
		case "rw", "noexec", "nosuid", "nodev", "private", "rprivate": // as it is
		case "z", "Z", "U":
			return nil, wrong("%q would change files of the node; ids are mapped without that", o)
		default:
			return nil, wrong("there is no option %q: there are ro, rw, exec and noexec", o)
		}
	}
	return m, nil
}

// target gives a mount point its shortest form; a relative one stays wrong.
func target(p string) string { return path.Clean(p) }

func absolute(p, dir string) string {
	if strings.HasPrefix(p, "/") {
		return path.Clean(p)
	}
	return path.Join(dir, p)
}

// Mount reads --mount type=bind|volume|tmpfs,KEY=value,...
func Mount(text, dir string) (*runtimev1.Mount, error) {
	m := &runtimev1.Mount{Type: runtimev1.Mount_TYPE_VOLUME}
	wrong := func(format string, args ...any) error {
		return fault.New(fault.Invalid, "--mount %q: "+format, append([]any{text}, args...)...).
			WithHint("write type=bind,source=/path/on/node,target=/path/inside, or type=volume with a name, or type=tmpfs with tmpfs-size and tmpfs-mode")
	}
	for field := range strings.SplitSeq(text, ",") {
		key, value, given := strings.Cut(field, "=")
		if err := set(m, key, value, given); err != nil {
			return nil, wrong("%s", err)
		}
	}
	switch {
	case m.GetTarget() == "":
		return nil, wrong("it has no target")
	case m.GetSource() == "" && m.GetType() != runtimev1.Mount_TYPE_TMPFS:
		return nil, wrong("it has no source")
	case m.GetType() == runtimev1.Mount_TYPE_BIND:
		m.Source = absolute(m.GetSource(), dir)
	}
	return m, nil
}

// set reads one field of --mount.
func set(m *runtimev1.Mount, key, value string, given bool) error {
	switch key {
	case "type":
		kinds := map[string]runtimev1.Mount_Type{
			"bind": runtimev1.Mount_TYPE_BIND, "volume": runtimev1.Mount_TYPE_VOLUME, "tmpfs": runtimev1.Mount_TYPE_TMPFS,
		}
		kind, ok := kinds[value]
		if !ok {
			return fault.New(fault.Invalid, "type %q is not bind, volume or tmpfs", value)
		}
		m.Type = kind
	case "source", "src":
		m.Source = value
	case "target", "dst", "destination":
		if value == "" {
			return fault.New(fault.Invalid, "the target is empty")
		}
		m.Target = target(value)
	case "readonly", "ro":
		return flag(&m.ReadOnly, key, value, given)
	case "exec":
		return flag(&m.Exec, key, value, given)
	case "tmpfs-size":
		return size(&m.SizeBytes, value)
	case "tmpfs-mode":
		return mode(&m.Mode, value)
	default:
		return fault.New(fault.Invalid, "there is no option %q", key)
	}
	return nil
}

func flag(to *bool, key, value string, given bool) error {
	if !given {
		*to = true
		return nil
	}
	v, err := strconv.ParseBool(value)
	if err != nil {
		return fault.New(fault.Invalid, "%s=%q is neither true nor false", key, value)
	}
	*to = v
	return nil
}

func size(to *int64, value string) error {
	n, err := config.ParseSize(value)
	if err != nil {
		return err
	}
	if n <= 0 {
		return fault.New(fault.Invalid, "a size of %q is none", value)
	}
	*to = int64(n)
	return nil
}

func mode(to *uint32, value string) error {
	n, err := strconv.ParseUint(value, 8, 32)
	if err != nil || n == 0 || n > 0o1777 {
		return fault.New(fault.Invalid, "mode %q is not one of 1 to 1777 in octal digits", value)
	}
	*to = uint32(n)
	return nil
}

// Tmpfs reads --tmpfs TARGET[:size=..,mode=..].
func Tmpfs(text string) (*runtimev1.Mount, error) {
	at, options, _ := strings.Cut(text, ":")
	m := &runtimev1.Mount{Type: runtimev1.Mount_TYPE_TMPFS, Target: target(at)}
	wrong := func(format string, args ...any) error {
		return fault.New(fault.Invalid, "--tmpfs %q: "+format, append([]any{text}, args...)...).
			WithHint("write /path/inside, or /path/inside:size=64m,mode=1777")
	}
	if at == "" {
		return nil, wrong("it has no target")
	}
	if options == "" {
		return m, nil
	}
	for o := range strings.SplitSeq(options, ",") {
		var err error
		switch key, value, _ := strings.Cut(o, "="); key {
		case "size":
			err = size(&m.SizeBytes, value)
		case "mode":
			err = mode(&m.Mode, value)
		case "ro":
			m.ReadOnly = true
		case "exec":
			m.Exec = true
		case "rw", "noexec", "nosuid", "nodev": // as it is
		default:
			err = fault.New(fault.Invalid, "there is no option %q: there are size, mode, ro, rw, exec and noexec", o)
		}
		if err != nil {
			return nil, wrong("%s", err)
		}
	}
	return m, nil
}
