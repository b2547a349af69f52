package life

import (
	"fmt"
	"strings"

	runtimev1 "tero.internal/api/runtime/v1"
	"tero.internal/cmd/tero/internal/render"
)

// Details tells how the life of a container goes on, to people.
func Details(c *runtimev1.Container) [][2]string {
	return [][2]string{
		{"Present limits", presentLimits(c)},
		{"Restart", restart(c)},
		{"Last exit", lastExit(c)},
		{"Health check", healthCheck(c.GetSpec().GetHealth())},
		{"Health", healthText(c.GetHealth())},
	}
}

// Limits tells limits of a container.
func Limits(pids, milliCPU, memory int64) string {
	l := []string{fmt.Sprintf("%d tasks", pids)}
	if milliCPU > 0 {
		l = append(l, fmt.Sprintf("%g cores", float64(milliCPU)/1000))
	}
	if memory > 0 {
		l = append(l, render.Size(memory)+" memory")
	}
	return render.List(l)
}

// presentLimits tells the limits when an update changed them since the launch.
func presentLimits(c *runtimev1.Container) string {
	p, s := c.GetLimits(), c.GetSpec()
	if p == nil || p.GetPids() == s.GetPids() && p.GetMilliCpu() == s.GetMilliCpu() && p.GetMemoryBytes() == s.GetMemoryBytes() {
		return ""
	}
	return Limits(p.GetPids(), p.GetMilliCpu(), p.GetMemoryBytes())
}

func restart(c *runtimev1.Container) string {
	text := c.GetRestart()
	if n := c.GetRestartCount(); n > 0 {
		text += fmt.Sprintf(", %d so far", n)
	}
	if t := c.GetNextRestart(); t != nil {
		text += ", next at " + render.Time(t)
	}
	if e := c.GetRestartEnded(); e != "" {
		text += ", ended: " + e
	}
	return text
}

// lastExit tells the exit before a container runs again, or is about to.
func lastExit(c *runtimev1.Container) string {
	e := c.GetExit()
	if e == nil {
		return ""
	}
	text := fmt.Sprintf("code %d at %s", e.GetCode(), render.Time(e.GetAt()))
	if e.GetOomKilled() {
		text += ", out of memory"
	}
	if m := e.GetMessage(); m != "" {
		text += ", " + m
	}
	return text
}

func healthCheck(h *runtimev1.HealthCheck) string {
	if len(h.GetCommand()) == 0 {
		return ""
	}
	text := fmt.Sprintf("%s, every %s, timeout %s, unhealthy after %d", strings.Join(h.GetCommand(), " "),
		h.GetInterval().AsDuration(), h.GetTimeout().AsDuration(), h.GetRetries())
	if a := h.GetOnFailure(); a != "" && a != "none" {
		text += ", then " + a
	}
	return text
}

func healthText(h *runtimev1.Health) string {
	if h.GetStatus() == "" {
		return ""
	}
	text := h.GetStatus()
	if n := h.GetFailing(); n > 0 {
		text += fmt.Sprintf(", %d failures in a row", n)
	}
	if log := h.GetLog(); len(log) > 0 {
		last := log[len(log)-1]
		text += fmt.Sprintf("; last check at %s: code %d, %s", render.Time(last.GetStart()), last.GetCode(), strings.TrimSpace(last.GetOutput()))
	}
	return text
}
