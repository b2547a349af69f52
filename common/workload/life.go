package workload

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

// RestartPolicy says when a container that has ended is launched again.
type RestartPolicy string

// The restart policies.
const (
	// RestartNo is never. It is the default, and the empty policy means it too.
	RestartNo RestartPolicy = "no"
	// RestartOnFailure is after an exit with a code other than 0.
	RestartOnFailure RestartPolicy = "on-failure"
	// RestartAlways is after every exit, and at each boot of the machine.
	RestartAlways RestartPolicy = "always"
	// RestartUnlessStopped is as always, but not at boot when somebody had stopped it.
	RestartUnlessStopped RestartPolicy = "unless-stopped"
)

// Restart is a restart policy with its bound.
type Restart struct {
	Policy RestartPolicy `json:"policy,omitempty"`
	// MaxRetries bounds the restarts of on-failure; 0 is no bound.
	MaxRetries int `json:"maxRetries,omitempty"`
}

// ParseRestart reads "no", "on-failure", "on-failure:3", "always" or "unless-stopped".
func ParseRestart(s string) (Restart, error) {
	name, bound, bounded := strings.Cut(s, ":")
	r := Restart{Policy: RestartPolicy(name)}
	if bounded {
		n, err := strconv.Atoi(bound)
		if err != nil || n < 1 {
			return r, fmt.Errorf("restart policy %q: %q is not a number of retries", s, bound)
		}
		r.MaxRetries = n
	}
	return r, r.validate()
}

// String gives the form that ParseRestart reads.
func (r Restart) String() string {
	switch {
	case r.Policy == "":
		return string(RestartNo)
	case r.MaxRetries > 0:
		return fmt.Sprintf("%s:%d", r.Policy, r.MaxRetries)
	}
	return string(r.Policy)
}

// AtBoot tells whether the policy starts containers when the machine does.
func (r Restart) AtBoot() bool { return r.Policy == RestartAlways || r.Policy == RestartUnlessStopped }

// Never tells whether the policy restarts nothing.
func (r Restart) Never() bool { return r.Policy == "" || r.Policy == RestartNo }

func (r Restart) validate() error {
	if !slices.Contains([]RestartPolicy{"", RestartNo, RestartOnFailure, RestartAlways, RestartUnlessStopped}, r.Policy) {
		return fmt.Errorf("restart policy %q is not one of no, on-failure[:N], always, unless-stopped", r.Policy)
	}
	if r.MaxRetries < 0 || r.MaxRetries > 0 && r.Policy != RestartOnFailure {
		return fmt.Errorf("only the restart policy on-failure has a number of retries")
	}
	return nil
}

// HealthAction is what is done with a container that became unhealthy.
type HealthAction string

// The health actions. The container's restart policy judges the exit that they
// make: stop counts as somebody's stop, kill and restart do not.
const (
	HealthNone    HealthAction = "none"
	HealthKill    HealthAction = "kill"
	HealthStop    HealthAction = "stop"
	HealthRestart HealthAction = "restart"
)

// Health is a command that tells whether a container does its work: exit code 0
// for healthy. It runs inside, as confined as the container.
type Health struct {
	// Command is the argv; there is no check when it is empty.
	Command []string `json:"command,omitempty"`
	// Disabled ignores the image's check.
	Disabled bool `json:"disabled,omitempty"`
	// Interval is from the end of one check to the begin of the next; Timeout is
	// when one counts as failed.
	Interval time.Duration `json:"interval,omitempty"`
	Timeout  time.Duration `json:"timeout,omitempty"`
	// StartPeriod is how long after the start failures do not count; a check
	// that succeeds ends it. StartInterval is the interval meanwhile.
	StartPeriod   time.Duration `json:"startPeriod,omitempty"`
	StartInterval time.Duration `json:"startInterval,omitempty"`
	// Retries is how many failures in a row make a container unhealthy.
	Retries int `json:"retries,omitempty"`
	// OnFailure is done once, when the container becomes unhealthy.
	OnFailure HealthAction `json:"onFailure,omitempty"`
}

// The values of a Health's fields that nobody set.
const (
	DefaultHealthInterval      = 30 * time.Second
	DefaultHealthTimeout       = 30 * time.Second
	DefaultHealthStartInterval = 5 * time.Second
	DefaultHealthRetries       = 3
)

// minHealthTime is the shortest interval or timeout: a check is a process.
const minHealthTime = time.Millisecond

// Validate checks the forms of the fields.
func (h Health) Validate() error {
	if h.Disabled && len(h.Command) > 0 {
		return fmt.Errorf("a health check is given and disabled")
	}
	for _, d := range []time.Duration{h.Interval, h.Timeout, h.StartInterval, h.StartPeriod} {
		if d < 0 || d > 0 && d < minHealthTime {
			return fmt.Errorf("a time of %v in a health check is not 1 ms or more", d)
		}
	}
	if h.Retries < 0 {
		return fmt.Errorf("%d retries of a health check make no sense", h.Retries)
	}
	if !slices.Contains([]HealthAction{"", HealthNone, HealthKill, HealthStop, HealthRestart}, h.OnFailure) {
		return fmt.Errorf("health action %q is not one of none, kill, stop, restart", h.OnFailure)
	}
	return nil
}

// complete fills in what the image and the defaults say. Without a command there
// is no check, whatever else was set.
func (h Health) complete(image *Health) Health {
	if h.Disabled {
		return Health{Disabled: true}
	}
	from := Health{}
	if image != nil {
		from = *image
	}
	if len(h.Command) == 0 {
		h.Command = slices.Clone(from.Command)
	}
	if len(h.Command) == 0 {
		return Health{}
	}
	h.Interval = orTime(h.Interval, from.Interval, DefaultHealthInterval)
	h.Timeout = orTime(h.Timeout, from.Timeout, DefaultHealthTimeout)
	h.StartPeriod = orTime(h.StartPeriod, from.StartPeriod, 0)
	h.StartInterval = orTime(h.StartInterval, from.StartInterval, DefaultHealthStartInterval)
	for _, n := range []int{from.Retries, DefaultHealthRetries} {
		if h.Retries == 0 {
			h.Retries = n
		}
	}
	if h.OnFailure == "" {
		h.OnFailure = HealthNone
	}
	return h
}

func orTime(times ...time.Duration) time.Duration {
	for _, t := range times {
		if t != 0 {
			return t
		}
	}
	return 0
}

// DefaultStopTimeout is how many seconds a container has to obey its stop signal.
const DefaultStopTimeout = 10

// StopPatience is how long stop waits before SIGKILL; negative is for ever.
func (s *Spec) StopPatience() time.Duration {
	if s.StopTimeout == nil {
		return DefaultStopTimeout * time.Second
	}
	return time.Duration(*s.StopTimeout) * time.Second
}
