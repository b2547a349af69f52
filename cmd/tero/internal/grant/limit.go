package grant

import (
	"slices"
	"strconv"
	"strings"

	runtimev1 "tero.internal/api/runtime/v1"
	"tero.internal/common/config"
	"tero.internal/common/fault"
	"tero.internal/common/workload"
)

// Device reads --device SOURCE[:TARGET[:ACCESS]]. Without a word on it a device
// may be read and written; making nodes of it ("m") no container can anyway.
func Device(text string) (*runtimev1.Device, error) {
	wrong := func(format string, args ...any) error {
		return fault.New(fault.Invalid, "--device %q: "+format, append([]any{text}, args...)...).
			WithHint("write /dev/name, or /dev/name:/dev/other-name:r")
	}
	parts := strings.Split(text, ":")
	if len(parts) > 3 {
		return nil, wrong("there are more than three parts")
	}
	d := &runtimev1.Device{Source: parts[0], Target: parts[0], Access: "rw"}
	switch {
	case len(parts) == 3:
		d.Target, d.Access = parts[1], parts[2]
	case len(parts) == 2 && strings.HasPrefix(parts[1], "/"):
		d.Target = parts[1]
	case len(parts) == 2:
		d.Access = parts[1]
	}
	if d.GetSource() == "" || d.GetTarget() == "" {
		return nil, wrong("a path is empty")
	}
	var access strings.Builder
	for _, c := range "rwm" {
		if strings.ContainsRune(d.GetAccess(), c) {
			access.WriteRune(c)
		}
	}
	if access.Len() == 0 || access.Len() != len(d.GetAccess()) {
		return nil, wrong("access %q is not some of r, w and m", d.GetAccess())
	}
	d.Source, d.Target, d.Access = target(d.GetSource()), target(d.GetTarget()), access.String()
	return d, nil
}

// Ulimit reads --ulimit NAME=SOFT[:HARD]; -1 and unlimited are no limit.
func Ulimit(text string) (*runtimev1.Ulimit, error) {
	wrong := func(format string, args ...any) error {
		return fault.New(fault.Invalid, "--ulimit %q: "+format, append([]any{text}, args...)...).
			WithHint("write nofile=1024:4096, or nofile=4096 for both the soft and the hard limit")
	}
	name, value, ok := strings.Cut(text, "=")
	if !ok || !slices.Contains(workload.UlimitNames(), name) {
		return nil, wrong("it does not begin with one of %s", strings.Join(workload.UlimitNames(), ", "))
	}
	soft, hard, two := strings.Cut(value, ":")
	if !two {
		hard = soft
	}
	u := &runtimev1.Ulimit{Name: name}
	for _, part := range []struct {
		text string
		to   *int64
	}{{soft, &u.Soft}, {hard, &u.Hard}} {
		n, err := strconv.ParseInt(part.text, 10, 64)
		if part.text == "unlimited" {
			n, err = workload.Unlimited, nil
		}
		if err != nil || n < workload.Unlimited {
			return nil, wrong("%q is not a number, -1 or unlimited", part.text)
		}
		*part.to = n
	}
	if u.GetHard() != workload.Unlimited && (u.GetSoft() == workload.Unlimited || u.GetSoft() > u.GetHard()) {
		return nil, wrong("the soft limit is above the hard limit")
	}
	return u, nil
}

// rate reads DEVICE:RATE for a limit of block IO; bytes takes units.
func rate(name, text string, bytes bool) (device string, n uint64, err error) {
	i := strings.LastIndexByte(text, ':')
	if i > 0 {
		var size config.Size
		device = target(text[:i])
		if bytes {
			size, err = config.ParseSize(text[i+1:])
			n = uint64(max(size, 0))
		} else {
			n, err = strconv.ParseUint(text[i+1:], 10, 63)
		}
	}
	if i <= 0 || err != nil || n == 0 {
		return "", 0, fault.New(fault.Invalid, "--%s %q is not DEVICE:RATE", name, text).
			WithHint("write /dev/name:1m for bytes, or /dev/name:1000 for operations, a second")
	}
	return device, n, nil
}

// swap reads --memory-swap: memory and swap together, or -1 for no limit.
func swap(text string) (int64, error) {
	if text == "-1" {
		return workload.Unlimited, nil
	}
	return bytesOf("memory-swap", text)
}

func bytesOf(name, text string) (int64, error) {
	if text == "" {
		return 0, nil
	}
	n, err := config.ParseSize(text)
	if err != nil || n <= 0 {
		return 0, fault.New(fault.Invalid, "--%s %q is not a size such as 64MiB", name, text)
	}
	return int64(n), nil
}
