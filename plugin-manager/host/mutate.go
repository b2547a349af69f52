package host

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	pluginv1 "tero.internal/api/plugin/v1"
	"tero.internal/common/pluginpkg"
	"tero.internal/common/workload"
	"tero.internal/plugin-manager/plugin"
)

// maxMutations is how many changes one answer may hold.
const maxMutations = 256

// mutate makes a plugin's changes, or none and a refusal.
func (a *admission) mutate(ctx context.Context, e *entry, spec workload.Spec, mutations []*pluginv1.Mutation) (workload.Spec, error) {
	hook, _ := e.pkg.Manifest.Hook(pluginpkg.PointMutate)
	changed, err := apply(spec, mutations, hook.Writes)
	if err != nil {
		e.plugin.CountFailure()
		return spec, a.failed(ctx, e, spec, &plugin.Failure{Code: plugin.CodeMutation, Reason: err.Error()})
	}
	v := a.verdict(e)
	for _, m := range mutations {
		v.Changed = append(v.Changed, m.GetPath())
	}
	return changed, nil
}

// apply gives spec with the mutations made, all of which writes must cover.
// spec itself stays as it is.
func apply(spec workload.Spec, mutations []*pluginv1.Mutation, writes []string) (workload.Spec, error) {
	if len(mutations) == 0 {
		return spec, nil
	}
	if len(mutations) > maxMutations {
		return spec, fmt.Errorf("it wants %d changes, more than %d", len(mutations), maxMutations)
	}
	out := spec
	out.Labels, out.Env = maps.Clone(spec.Labels), slices.Clone(spec.Env)
	for _, m := range mutations {
		path := m.GetPath()
		if !slices.ContainsFunc(writes, func(w string) bool { return pluginpkg.Matches(w, path) }) {
			return spec, fmt.Errorf("it wants to write %s, which its manifest does not declare", clean(path, 128))
		}
		if err := set(&out, path, []byte(m.GetValue())); err != nil {
			return spec, fmt.Errorf("it wants to write %s: %w", clean(path, 128), err)
		}
	}
	if err := out.Validate(); err != nil {
		return spec, fmt.Errorf("its changes make the launch invalid: %w", err)
	}
	return out, nil
}

// set puts a JSON value where a pointer says.
func set(spec *workload.Spec, path string, value []byte) error {
	switch path {
	case "/env/-":
		var v string
		if err := decodeInto(value, &v); err != nil {
			return err
		}
		spec.Env = append(spec.Env, v)
		return nil
	case "/resources/milliCpu":
		return decodeInto(value, &spec.Resources.MilliCPU)
	case "/resources/memoryBytes":
		return decodeInto(value, &spec.Resources.MemoryBytes)
	case "/resources/pids":
		return decodeInto(value, &spec.Resources.Pids)
	}
	token, ok := strings.CutPrefix(path, "/labels/")
	if !ok || token == "" || strings.Contains(token, "/") {
		return fmt.Errorf("no plugin may")
	}
	var v string
	if err := decodeInto(value, &v); err != nil {
		return err
	}
	if spec.Labels == nil {
		spec.Labels = map[string]string{}
	}
	spec.Labels[pluginpkg.Unescape(token)] = v
	return nil
}

func decodeInto(value []byte, into any) error {
	if string(value) == "null" {
		return fmt.Errorf("null is no value for it")
	}
	if err := json.Unmarshal(value, into); err != nil {
		return fmt.Errorf("%s is no value for it", clean(string(value), 64))
	}
	return nil
}
