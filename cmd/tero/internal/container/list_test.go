package container

import (
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	runtimev1 "tero.internal/api/runtime/v1"
)

func TestState(t *testing.T) {
	now := time.Date(2026, 7, 1, 12, 0, 0, 0, time.UTC)
	at := func(d time.Duration) *timestamppb.Timestamp { return timestamppb.New(now.Add(d)) }
	for want, c := range map[string]*runtimev1.Container{
		"running 5m (starting)": {State: runtimev1.State_STATE_RUNNING, Started: at(-5 * time.Minute), Health: &runtimev1.Health{Status: "starting"}},
		"paused 5m":             {State: runtimev1.State_STATE_PAUSED, Started: at(-5 * time.Minute)},
		"restarting (3) in 6s":  {State: runtimev1.State_STATE_RESTARTING, Exit: &runtimev1.Exit{Code: 3}, NextRestart: at(6 * time.Second)},
		"exited (3) 5m ago":     {State: runtimev1.State_STATE_EXITED, Exit: &runtimev1.Exit{Code: 3, At: at(-5 * time.Minute)}},
		"creating":              {State: runtimev1.State_STATE_CREATING},
	} {
		if got := state(c, now); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}
