package host

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"unicode"

	"google.golang.org/protobuf/proto"

	pluginv1 "tero.internal/api/plugin/v1"
	"tero.internal/common/fault"
	"tero.internal/common/workload"
	"tero.internal/plugin-manager/plugin"
)

// Admit lets the active plugins change spec, each in what its manifest
// declares, and then judge the result. A refusal, and any failure of a plugin,
// is a fault of kind Denied. Without plugins it costs nothing.
func (h *Host) Admit(ctx context.Context, spec workload.Spec, image workload.Image) (workload.Spec, []workload.PluginVerdict, error) {
	c := h.acquire()
	if c.empty() {
		return spec, nil, nil
	}
	defer c.users.Done()
	if c.closed {
		return spec, nil, errClosing()
	}
	if b := c.blocked; b != nil {
		return spec, nil, fault.New(fault.Denied, "launch of %q refused: plugin %s is quarantined: %s", spec.Name, b.record.Name, b.reason).
			WithHint("see \"tero plugin inspect %s\"; without \"tero plugin rm %s\" nothing can be launched", b.record.Name, b.record.Name)
	}
	a := &admission{host: h, image: image, at: map[string]int{}}
	for _, e := range c.mutators {
		answer, err := a.ask(ctx, e, pluginv1.HookPoint_HOOK_POINT_ADMISSION_MUTATE, spec)
		if err != nil {
			return spec, nil, err
		}
		if spec, err = a.mutate(ctx, e, spec, answer.GetMutations()); err != nil {
			return spec, nil, err
		}
	}
	for _, e := range c.validators {
		answer, err := a.ask(ctx, e, pluginv1.HookPoint_HOOK_POINT_ADMISSION_VALIDATE, spec)
		if err != nil {
			return spec, nil, err
		}
		if n := len(answer.GetMutations()); n > 0 {
			e.plugin.CountFailure()
			return spec, nil, a.failed(ctx, e, spec, &plugin.Failure{
				Code: plugin.CodeMutation, Reason: fmt.Sprintf("it wants to change %s, at a time when nothing may be changed any more", answer.GetMutations()[0].GetPath()),
			})
		}
	}
	return spec, a.verdicts, nil
}

// acquire gives the chain in force. Unless it is empty, the caller is one of its users.
func (h *Host) acquire() *chain {
	h.mu.Lock()
	defer h.mu.Unlock()
	if !h.chain.empty() {
		h.chain.users.Add(1)
	}
	return h.chain
}

// admission is one launch on its way through the chain.
type admission struct {
	host     *Host
	image    workload.Image
	verdicts []workload.PluginVerdict
	at       map[string]int // index into verdicts, by plugin
}

// verdict gives the verdict of a plugin, a new one at first.
func (a *admission) verdict(e *entry) *workload.PluginVerdict {
	i, ok := a.at[e.record.Name]
	if !ok {
		i = len(a.verdicts)
		a.at[e.record.Name] = i
		a.verdicts = append(a.verdicts, workload.PluginVerdict{Plugin: e.record.Name, Digest: e.record.Digest})
	}
	return &a.verdicts[i]
}

// ask calls a plugin and gives its answer if that is yes.
func (a *admission) ask(ctx context.Context, e *entry, hook pluginv1.HookPoint, spec workload.Spec) (*pluginv1.AdmitResponse, error) {
	in, err := proto.Marshal(request(spec, a.image))
	if err != nil {
		return nil, fault.New(fault.Invalid, "launch of %q cannot be shown to plugin %s: %w", spec.Name, e.record.Name, err).
			WithHint("its strings must be UTF-8")
	}
	out, ticks, err := e.plugin.Call(ctx, hook, in)
	if err != nil {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		return nil, a.failed(ctx, e, spec, err)
	}
	a.verdict(e).Ticks += ticks
	answer, err := decode(out)
	if err != nil {
		e.plugin.CountFailure()
		return nil, a.failed(ctx, e, spec, err)
	}
	if answer.GetAllow() {
		return answer, nil
	}
	e.plugin.CountDenial()
	code, reason := clean(answer.GetCode(), 64), clean(answer.GetReason(), 512)
	a.host.config.Log.InfoContext(ctx, "plugin refused a launch", slog.String("plugin", e.record.Name), slog.String("workload", spec.Name),
		slog.String("code", code), slog.String("reason", reason), slog.Int64("ticks", ticks))
	a.host.publish("plugin.denied", e, fmt.Sprintf("refused %q: %s (%s)", spec.Name, reason, code))
	return nil, fault.New(fault.Denied, "launch of %q refused by plugin %s: %s (%s)", spec.Name, e.record.Name, reason, code).
		WithHint("change the launch so that the plugin accepts it; \"tero plugin inspect %s\" shows the plugin's settings", e.record.Name)
}

// failed gives the refusal that follows from a plugin's failure.
func (a *admission) failed(ctx context.Context, e *entry, spec workload.Spec, err error) error {
	code, reason := plugin.CodeAnswer, err.Error()
	if f, ok := errors.AsType[*plugin.Failure](err); ok {
		code, reason = f.Code, f.Reason
	}
	a.host.config.Log.WarnContext(ctx, "plugin failed", slog.String("plugin", e.record.Name), slog.String("workload", spec.Name),
		slog.String("code", code), slog.String("error", errorChain(err)))
	a.host.publish("plugin.failed", e, fmt.Sprintf("failed on %q: %s (%s)", spec.Name, reason, code))
	return fault.New(fault.Denied, "launch of %q refused: plugin %s failed: %s (%s)", spec.Name, e.record.Name, reason, code).
		WithHint("the node's log has the details; an admission plugin that fails refuses until it is repaired, or removed with \"tero plugin rm %s\"", e.record.Name)
}

// errorChain gives a failure with its cause, for the log.
func errorChain(err error) string {
	if cause := errors.Unwrap(err); cause != nil {
		return err.Error() + ": " + cause.Error()
	}
	return err.Error()
}

// decode reads an answer.
func decode(b []byte) (*pluginv1.AdmitResponse, error) {
	answer := &pluginv1.AdmitResponse{}
	if err := proto.Unmarshal(b, answer); err != nil {
		return nil, &plugin.Failure{Code: plugin.CodeAnswer, Reason: "its answer is not an AdmitResponse", Cause: err}
	}
	if !answer.GetAllow() && answer.GetCode() == "" {
		return nil, &plugin.Failure{Code: plugin.CodeAnswer, Reason: "it refused without a code"}
	}
	return answer, nil
}

// clean makes a guest's text fit for people's eyes: no control characters, and
// not too long.
func clean(s string, most int) string {
	s = strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return ' '
	}, s)
	if len(s) > most {
		s = strings.ToValidUTF8(s[:most], "") + "..."
	}
	return s
}

// request shows a launch to plugins.
func request(s workload.Spec, image workload.Image) *pluginv1.AdmitRequest {
	var signers []string
	for _, k := range image.Signers {
		signers = append(signers, k.Name)
	}
	return &pluginv1.AdmitRequest{
		Name: s.Name, Image: s.Image, Reference: image.Reference, Digest: image.Digest.String(), Signers: signers, ImageLabels: image.Config.Labels,
		Args: s.Args, Env: s.Env, WorkingDir: s.WorkingDir, User: s.User, Hostname: s.Hostname, Labels: s.Labels, Terminal: s.Terminal,
		WritableRootfs: s.WritableRootfs, CapAdd: s.CapAdd, MilliCpu: s.Resources.MilliCPU, MemoryBytes: s.Resources.MemoryBytes,
		Pids: s.Resources.Pids, Network: s.Network, StopSignal: s.StopSignal, AutoRemove: s.AutoRemove, MinLevel: s.MinLevel.String(),
	}
}
