package host

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"google.golang.org/protobuf/proto"

	pluginv1 "tero.internal/api/plugin/v1"
	"tero.internal/common/fault"
	"tero.internal/common/pluginpkg"
	"tero.internal/common/workload"
	"tero.internal/plugin-manager/plugin"
)

// selfTest runs the vectors of the signed manifest and gives their cost: a
// plugin that does not do here what its author saw it do never becomes active.
func selfTest(ctx context.Context, p *plugin.Plugin) (ticks int64, err error) {
	m := p.Manifest()
	for n, v := range m.Vectors {
		t, err := runVector(ctx, p, v)
		ticks += t
		if err != nil {
			return ticks, fault.New(fault.Invalid, "plugin %s fails its self-test %d: %w", m.Name, n, err).
				WithHint("the plugin does not do what its manifest says; ask its author")
		}
	}
	return ticks, nil
}

func runVector(ctx context.Context, p *plugin.Plugin, v pluginpkg.Vector) (int64, error) {
	hook := pluginv1.HookPoint_HOOK_POINT_ADMISSION_MUTATE
	if v.Point == pluginpkg.PointValidate {
		hook = pluginv1.HookPoint_HOOK_POINT_ADMISSION_VALIDATE
	}
	in, err := proto.Marshal(request(v.In.Spec, v.In.Image))
	if err != nil {
		return 0, fmt.Errorf("input: %w", err)
	}
	out, ticks, err := p.Test(ctx, v.Settings, hook, in)
	if err != nil {
		return ticks, err
	}
	answer, err := decode(out)
	if err != nil {
		return ticks, err
	}
	if answer.GetAllow() != v.Want.Allow || v.Want.Code != "" && answer.GetCode() != v.Want.Code {
		return ticks, fmt.Errorf("allow %t, code %q; expected allow %t, code %q", answer.GetAllow(), clean(answer.GetCode(), 64), v.Want.Allow, v.Want.Code)
	}
	return ticks, checkMutations(p.Manifest(), v, answer.GetMutations())
}

// checkMutations compares the changes with those expected.
func checkMutations(m pluginpkg.Manifest, v pluginpkg.Vector, mutations []*pluginv1.Mutation) error {
	if len(mutations) != len(v.Want.Set) {
		return fmt.Errorf("%d changes; expected %d", len(mutations), len(v.Want.Set))
	}
	hook, _ := m.Hook(v.Point)
	writable := workload.Spec{Name: "self-test", Image: "self-test", Network: workload.NetworkDefault}
	if _, err := apply(writable, mutations, hook.Writes); err != nil {
		return err
	}
	for _, c := range mutations {
		want, ok := v.Want.Set[c.GetPath()]
		if !ok {
			return fmt.Errorf("it changes %s, which was not expected", clean(c.GetPath(), 128))
		}
		if equal, err := sameJSON(want, []byte(c.GetValue())); err != nil || !equal {
			return errors.Join(fmt.Errorf("%s becomes %s; expected %s", clean(c.GetPath(), 128), clean(c.GetValue(), 64), want), err)
		}
	}
	return nil
}

func sameJSON(a, b []byte) (bool, error) {
	ca, err := workload.CanonicalJSON(json.RawMessage(a))
	if err != nil {
		return false, err
	}
	cb, err := workload.CanonicalJSON(json.RawMessage(b))
	return bytes.Equal(ca, cb), err
}
