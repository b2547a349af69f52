package manifest

import (
	"encoding/json"
	"maps"
	"runtime"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"tero.internal/common/fault"
	"tero.internal/common/workload"
)

// parseConfig reads an image's configuration and checks what a launch relies on.
func parseConfig(b []byte, what string) (v1.Image, error) {
	var c v1.Image
	if err := json.Unmarshal(b, &c); err != nil {
		return c, fault.New(fault.Invalid, "%s: configuration: %w", what, err)
	}
	if c.OS != "linux" || c.Architecture != runtime.GOARCH {
		return c, fault.New(fault.Unsupported, "%s is for %s; this node is linux/%s", what, platformName(c.Platform), runtime.GOARCH)
	}
	if c.RootFS.Type != "layers" {
		return c, fault.New(fault.Unsupported, "%s: root filesystem of type %q is not \"layers\"", what, c.RootFS.Type)
	}
	for _, d := range c.RootFS.DiffIDs {
		if err := d.Validate(); err != nil || d.Algorithm() != digest.SHA256 {
			return c, fault.New(fault.Invalid, "%s: diff id %q is not a SHA-256 digest", what, string(d))
		}
	}
	for _, v := range slices.Concat(c.Config.Entrypoint, c.Config.Cmd, c.Config.Env, []string{c.Config.WorkingDir, c.Config.User, c.Config.StopSignal}) {
		if strings.ContainsRune(v, 0) {
			return c, fault.New(fault.Invalid, "%s: configuration: %q holds a NUL byte", what, v)
		}
	}
	return c, nil
}

func launchConfig(c v1.ImageConfig) workload.ImageConfig {
	return workload.ImageConfig{
		Entrypoint: c.Entrypoint, Cmd: c.Cmd, Env: c.Env, WorkingDir: c.WorkingDir, User: c.User,
		StopSignal: c.StopSignal, Labels: c.Labels, ExposedPorts: slices.Sorted(maps.Keys(c.ExposedPorts)),
	}
}
