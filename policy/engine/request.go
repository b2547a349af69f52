package engine

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	cedar "github.com/cedar-policy/cedar-go"
	"github.com/cedar-policy/cedar-go/types"

	"tero.internal/common/fault"
	"tero.internal/common/workload"
	"tero.internal/policy/bundle"
)

// request is what Cedar is asked, with the entities that it is asked about.
type request struct {
	cedar     cedar.Request
	principal types.Entity
	resource  types.Entity
}

// overlay puts the two entities of a request over those of the set.
type overlay struct {
	base types.EntityMap
	r    *request
}

// Get gives the entity with a UID.
func (o overlay) Get(uid types.EntityUID) (types.Entity, bool) {
	switch uid {
	case o.r.principal.UID:
		return o.r.principal, true
	case o.r.resource.UID:
		return o.r.resource, true
	}
	e, ok := o.base[uid]
	return e, ok
}

func entityType(name string) types.EntityType {
	return types.EntityType(bundle.Namespace + "::" + name)
}

func actionUID(name string) types.EntityUID {
	return types.NewEntityUID(entityType("Action"), types.String(name))
}

// caller gives the entity of who asks, with the roles that the set gives it.
func caller(p workload.Principal, entities types.EntityMap) (types.Entity, error) {
	uid, err := callerUID(p)
	if err != nil {
		return types.Entity{}, err
	}
	e, err := bundle.Caller(uid, entities[uid].Parents)
	if err != nil {
		return types.Entity{}, fault.New(fault.Unauthenticated, "the caller cannot be named: %w", err)
	}
	return e, nil
}

func callerUID(p workload.Principal) (types.EntityUID, error) {
	if p.Local {
		return types.NewEntityUID(bundle.TypeUser, types.String("uid:"+strconv.FormatUint(uint64(p.UID), 10))), nil
	}
	if p.SPIFFEID == "" {
		return types.EntityUID{}, fault.New(fault.Unauthenticated, "the caller did not prove who it is").
			WithHint("use the local socket, or a client certificate with a SPIFFE ID")
	}
	rest, ok := strings.CutPrefix(p.SPIFFEID, "spiffe://")
	parts := strings.SplitN(rest, "/", 3)
	kind := bundle.TypeUser
	if !ok || len(parts) != 3 {
		parts = []string{"", "", ""}
	}
	switch parts[1] {
	case "user":
	case "workload":
		kind = bundle.TypeWorkload
	case "node":
		kind = bundle.TypeNode
	default:
		return types.EntityUID{}, fault.New(fault.Unauthenticated, "SPIFFE ID %q names no user, workload or node", p.SPIFFEID).
			WithHint("use a certificate for spiffe://DOMAIN/user/NAME")
	}
	return types.NewEntityUID(kind, types.String(p.SPIFFEID)), nil
}

// callRequest is the request for a call of the API.
func callRequest(p workload.Principal, action, kind, name string, entities types.EntityMap) (*request, error) {
	principal, err := caller(p, entities)
	if err != nil {
		return nil, err
	}
	resource := types.Entity{UID: types.NewEntityUID(entityType(kind), types.String(name))}
	if kind == "Image" {
		_, repository, _ := splitReference(name)
		resource.Parents = types.NewEntityUIDSet(repositories(repository)...)
	}
	return &request{
		cedar:     cedar.Request{Principal: principal.UID, Action: actionUID(action), Resource: resource.UID, Context: types.Record{}},
		principal: principal, resource: resource,
	}, nil
}

// launchRequest is the request for a launch.
func launchRequest(a workload.Admission, entities types.EntityMap) (*request, error) {
	principal, err := caller(a.Caller, entities)
	if err != nil {
		return nil, err
	}
	registry, repository, tag := splitReference(a.Image.Reference)
	tags := types.RecordMap{}
	for k, v := range a.Spec.Labels {
		tags[types.String(k)] = types.String(v)
	}
	parents := append(repositories(repository), types.NewEntityUID(entityType("Network"), types.String(a.Spec.Network)))
	resource := types.Entity{
		UID:        types.NewEntityUID(bundle.TypeWorkload, types.String(a.Spec.Name)),
		Parents:    types.NewEntityUIDSet(parents...),
		Attributes: types.NewRecord(types.RecordMap{"name": types.String(a.Spec.Name), "spiffeId": types.String(a.SPIFFEID)}),
		Tags:       types.NewRecord(tags),
	}
	return &request{
		cedar: cedar.Request{
			Principal: principal.UID, Action: actionUID("launch"), Resource: resource.UID,
			Context: launchContext(a, registry, repository, tag),
		},
		principal: principal, resource: resource,
	}, nil
}

func launchContext(a workload.Admission, registry, repository, tag string) types.Record {
	var names, keys, plugins, digests []string
	for _, s := range a.Image.Signers {
		names, keys = append(names, s.Name), append(keys, s.KeyID)
	}
	for _, p := range a.Plugins {
		plugins, digests = append(plugins, p.Plugin), append(digests, p.Digest.String())
	}
	image := types.RecordMap{
		"reference": types.String(a.Image.Reference), "registry": types.String(registry),
		"repository": types.String(repository), "digest": types.String(a.Image.Digest.String()),
	}
	if tag != "" {
		image["tag"] = types.String(tag)
	}
	context := types.RecordMap{
		"signed": types.Boolean(len(a.Image.Signers) > 0), "signers": set(names), "signerKeys": set(keys),
		"image": types.NewRecord(image), "capabilities": set(capabilities(a.Spec.CapAdd)),
		"writableRootfs": types.Boolean(a.Spec.WritableRootfs), "terminal": types.Boolean(a.Spec.Terminal),
		"isolation": types.String(a.Spec.Isolation),
		"landlock":  types.Boolean(!a.Spec.NoLandlock), "apparmor": types.String(a.Spec.AppArmor), "selinux": types.String(a.Spec.SELinux),
		"network": types.String(a.Spec.Network), "user": types.String(a.Spec.User), "runsAsRoot": types.Boolean(isRoot(a.Spec.User)),
		"resources": types.NewRecord(types.RecordMap{
			"milliCpu": types.Long(a.Spec.Resources.MilliCPU), "memoryBytes": types.Long(a.Spec.Resources.MemoryBytes), "pids": types.Long(a.Spec.Resources.Pids),
		}),
		"nodeLevel": types.Long(a.NodeLevel), "minLevel": types.Long(a.Spec.MinLevel),
		"plugins": set(plugins), "pluginDigests": set(digests),
	}
	addGrants(context, a.Spec)
	return types.NewRecord(context)
}

// addGrants tells what the container is given of the node.
func addGrants(context types.RecordMap, s workload.Spec) {
	var binds, writable, volumes, executable, devices, ulimits []string
	for _, m := range s.Mounts {
		switch m.Type {
		case workload.MountBind:
			binds = append(binds, m.Source)
			if !m.ReadOnly {
				writable = append(writable, m.Source)
			}
		case workload.MountVolume:
			volumes = append(volumes, m.Source)
		case workload.MountTmpfs:
		}
		if m.Exec && !m.ReadOnly {
			executable = append(executable, m.Target)
		}
	}
	for _, d := range s.Devices {
		devices = append(devices, d.Source)
	}
	for _, u := range s.Ulimits {
		ulimits = append(ulimits, u.Name)
	}
	for name, texts := range map[types.String][]string{
		"bindMounts": binds, "writableBindMounts": writable, "volumes": volumes, "executableMounts": executable,
		"devices": devices, "sysctls": slices.Collect(maps.Keys(s.Sysctls)), "ulimits": ulimits,
	} {
		context[name] = set(texts)
	}
}

func set(texts []string) types.Set {
	values := make([]types.Value, 0, len(texts))
	for _, t := range texts {
		values = append(values, types.String(t))
	}
	return types.NewSet(values...)
}

// capabilities gives the names in one form, so that no other spelling of a
// name slips past a policy.
func capabilities(names []string) []string {
	out := make([]string, 0, len(names))
	for _, n := range names {
		n = strings.ToUpper(strings.TrimSpace(n))
		if n != "ALL" && !strings.HasPrefix(n, "CAP_") {
			n = "CAP_" + n
		}
		out = append(out, n)
	}
	return out
}

// isRoot tells whether "user[:group]" is user 0 as far as the request tells.
func isRoot(user string) bool {
	name, _, _ := strings.Cut(user, ":")
	if name == "" || name == "root" {
		return true
	}
	n, err := strconv.Atoi(name)
	return err == nil && n == 0
}

// splitReference takes a full image reference apart: registry/path[:tag][@digest].
func splitReference(reference string) (registry, repository, tag string) {
	repository, _, _ = strings.Cut(reference, "@")
	if i := strings.LastIndexByte(repository, ':'); i > strings.LastIndexByte(repository, '/') {
		repository, tag = repository[:i], repository[i+1:]
	}
	registry, _, _ = strings.Cut(repository, "/")
	return registry, repository, tag
}

// repositories gives "a/b/c", "a/b" and "a" as entities.
func repositories(repository string) []types.EntityUID {
	var out []types.EntityUID
	for repository != "" {
		out = append(out, types.NewEntityUID(entityType("Repository"), types.String(repository)))
		repository = repository[:max(strings.LastIndexByte(repository, '/'), 0)]
	}
	return out
}

// text gives a value of the request for a reason's placeholder.
func (r *request) text(path string) (string, bool) {
	switch path {
	case "name", "resource":
		return printable(string(r.cedar.Resource.ID)), true
	case "principal":
		return printable(string(r.cedar.Principal.ID)), true
	case "action":
		return string(r.cedar.Action.ID), true
	}
	var v types.Value = r.cedar.Context
	for part := range strings.SplitSeq(path, ".") {
		record, ok := v.(types.Record)
		if !ok {
			return "", false
		}
		if v, ok = record.Get(types.String(part)); !ok {
			return "", false
		}
	}
	return printable(valueText(v)), true
}

func valueText(v types.Value) string {
	switch t := v.(type) {
	case types.String:
		return string(t)
	case types.Set:
		var parts []string
		for e := range t.All() {
			parts = append(parts, valueText(e))
		}
		slices.Sort(parts)
		return strings.Join(parts, ", ")
	}
	return fmt.Sprint(v)
}

// longest is how much of a request's text goes into a message or record.
const longest = 300

// printable keeps control characters of a request out of a terminal, and
// text without end out of records.
func printable(s string) string {
	return clip(strings.Map(func(r rune) rune {
		if !strconv.IsPrint(r) {
			return '\uFFFD'
		}
		return r
	}, s))
}

func clip(s string) string {
	if len(s) <= longest {
		return s
	}
	return strings.ToValidUTF8(s[:longest], "") + "..."
}
