package manifest

import (
	"encoding/json"
	"strings"
	"time"

	"tero.internal/common/fault"
	"tero.internal/common/workload"
)

// dockerHealth is the part of an image's configuration that Docker added to
// OCI's: the health check, whose times are in nanoseconds and whose 0 is unset.
type dockerHealth struct {
	Config struct {
		Shell       []string
		Healthcheck *struct {
			// Test is {}, {"NONE"}, {"CMD", argv...} or {"CMD-SHELL", command}.
			Test                                          []string
			Interval, Timeout, StartPeriod, StartInterval time.Duration
			Retries                                       int
		}
	} `json:"config"`
}

// parseHealth reads an image's health check; nil when it has none.
func parseHealth(b []byte, what string) (*workload.Health, error) {
	var c dockerHealth
	if err := json.Unmarshal(b, &c); err != nil {
		return nil, fault.New(fault.Invalid, "%s: health check: %w", what, err)
	}
	h := c.Config.Healthcheck
	if h == nil || len(h.Test) == 0 || h.Test[0] == "NONE" {
		return nil, nil //nolint:nilnil // none is an answer
	}
	command := h.Test[1:]
	switch {
	case len(command) == 0 || command[0] == "":
		return nil, fault.New(fault.Invalid, "%s: its health check names no command", what)
	case h.Test[0] == "CMD":
	case h.Test[0] == "CMD-SHELL" && len(command) == 1:
		shell := c.Config.Shell
		if len(shell) == 0 {
			shell = []string{"/bin/sh", "-c"}
		}
		command = append(append([]string{}, shell...), command[0])
	default:
		return nil, fault.New(fault.Invalid, "%s: a health check of the form %q is not known", what, h.Test[0])
	}
	for _, arg := range command {
		if strings.ContainsRune(arg, 0) {
			return nil, fault.New(fault.Invalid, "%s: health check: %q holds a NUL byte", what, arg)
		}
	}
	out := &workload.Health{
		Command: command, Interval: h.Interval, Timeout: h.Timeout, StartPeriod: h.StartPeriod, StartInterval: h.StartInterval, Retries: h.Retries,
	}
	if err := out.Validate(); err != nil {
		return nil, fault.New(fault.Invalid, "%s: %w", what, err)
	}
	return out, nil
}
