package life

import (
	"encoding/json"
	"strings"
	"time"

	"github.com/spf13/pflag"
	"google.golang.org/protobuf/types/known/durationpb"

	runtimev1 "tero.internal/api/runtime/v1"
	"tero.internal/common/fault"
)

// Flags are the flags of run about the life of the container beyond one run.
type Flags struct {
	restart                                       string
	stopTimeout                                   int32
	healthCmd                                     string
	noHealth                                      bool
	onFailure                                     string
	retries                                       int32
	interval, timeout, startPeriod, startInterval time.Duration
	flags                                         *pflag.FlagSet
}

// Add adds them.
func (o *Flags) Add(f *pflag.FlagSet) {
	o.flags = f
	f.StringVar(&o.restart, "restart", "", "when to launch it again: no, on-failure[:N], always, unless-stopped (no)")
	f.Int32Var(&o.stopTimeout, "stop-timeout", 0, "seconds that stop waits before SIGKILL; 0 is at once, negative never (10)")
	f.StringVar(&o.healthCmd, "health-cmd", "", "command that tells by exit code 0 that the container is healthy, run by its /bin/sh, or [\"argv\", ...] (the image's)")
	f.BoolVar(&o.noHealth, "no-healthcheck", false, "ignore the image's health check")
	f.DurationVar(&o.interval, "health-interval", 0, "time between two checks (the image's, else 30s)")
	f.DurationVar(&o.timeout, "health-timeout", 0, "when a check counts as failed (the image's, else 30s)")
	f.DurationVar(&o.startPeriod, "health-start-period", 0, "time after the start in which failures do not count (the image's)")
	f.DurationVar(&o.startInterval, "health-start-interval", 0, "time between two checks meanwhile (the image's, else 5s)")
	f.Int32Var(&o.retries, "health-retries", 0, "failures in a row that make it unhealthy (the image's, else 3)")
	f.StringVar(&o.onFailure, "health-on-failure", "", "what to do when it becomes unhealthy: none, kill, stop, restart (none)")
}

// Build puts what they say into spec.
func (o *Flags) Build(spec *runtimev1.ContainerSpec) error {
	spec.Restart = o.restart
	if o.flags.Changed("stop-timeout") {
		spec.StopTimeoutSeconds = &o.stopTimeout
	}
	h := &runtimev1.HealthCheck{
		Disabled: o.noHealth, Interval: span(o.interval), Timeout: span(o.timeout), StartPeriod: span(o.startPeriod),
		StartInterval: span(o.startInterval), Retries: o.retries, OnFailure: o.onFailure,
	}
	set := false
	o.flags.Visit(func(f *pflag.Flag) {
		set = set || strings.HasPrefix(f.Name, "health-") || f.Name == "no-healthcheck"
	})
	if !set {
		return nil
	}
	switch {
	case strings.HasPrefix(o.healthCmd, "["):
		if err := json.Unmarshal([]byte(o.healthCmd), &h.Command); err != nil || len(h.GetCommand()) == 0 {
			return fault.New(fault.Invalid, "--health-cmd %q is not a list of strings", o.healthCmd).WithHint("write [\"/check\",\"-v\"], or a command for a shell")
		}
	case o.healthCmd != "":
		h.Command = []string{"/bin/sh", "-c", o.healthCmd}
	}
	spec.Health = h
	return nil
}

func span(d time.Duration) *durationpb.Duration {
	if d == 0 {
		return nil
	}
	return durationpb.New(d)
}
