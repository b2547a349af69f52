package engine

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"tero.internal/common/fault"
	"tero.internal/common/workload"
	"tero.internal/policy/bundle"
)

// members gives roles to two users, for the default policies about roles.
const members = `[{"uid":{"type":"Tero::User","id":"uid:1000"},"parents":[{"type":"Tero::Role","id":"operator"}]},
	{"uid":{"type":"Tero::User","id":"uid:1001"},"parents":[{"type":"Tero::Role","id":"auditor"}]}]`

var (
	bindMount = []workload.Mount{{Type: workload.MountBind, Source: "/srv", Target: "/srv"}}
	fuse      = []workload.Device{{Source: "/dev/fuse", Target: "/dev/fuse", Access: "rw"}}
)

// outcomes decides a table of requests by a set; one letter each.
func outcomes(t *testing.T, files []bundle.File) string {
	t.Helper()
	a, err := compile(files)
	if err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	decide := func(r *request, err error) {
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&out, "%c", mark(a.decide(r).allowed))
	}
	for _, change := range []func(*workload.Admission){
		func(*workload.Admission) {},
		func(a *workload.Admission) { a.Image.Signers = nil },
		func(a *workload.Admission) { a.Spec.CapAdd = []string{"CAP_NET_RAW"} },
		func(a *workload.Admission) { a.Spec.MinLevel, a.NodeLevel = workload.L2, workload.L1 },
		func(a *workload.Admission) { a.Spec.MinLevel, a.NodeLevel = workload.L2, workload.L2 },
		func(a *workload.Admission) { a.Spec.MinLevel, a.NodeLevel = workload.L0, workload.L1 },
		func(a *workload.Admission) { a.Caller.UID = 1000 },
		func(a *workload.Admission) { a.Spec.Mounts = bindMount },
		func(a *workload.Admission) { a.Spec.Mounts, a.Caller.UID = bindMount, 1000 },
		func(a *workload.Admission) { a.Spec.Devices = fuse },
		func(a *workload.Admission) { a.Spec.Devices, a.Caller.UID = fuse, 1000 },
	} {
		admission := signed("web")
		change(&admission)
		decide(launchRequest(admission, a.set.Entities()))
	}
	for _, uid := range []uint32{0, 1000, 1001, 1002} {
		for _, call := range [][2]string{{"logs", "Container"}, {"stop", "Container"}, {"policyWrite", "PolicySet"}} {
			decide(callRequest(workload.Principal{Local: true, UID: uid}, call[0], call[1], "x", a.set.Entities()))
		}
	}
	return out.String()
}

// TestMutatedDefaults removes or turns round each part of the default
// policies: the table above must notice each, or it would not hold them.
func TestMutatedDefaults(t *testing.T) {
	files, err := bundle.Default()
	if err != nil {
		t.Fatal(err)
	}
	files = append(files, bundle.File{Name: bundle.EntitiesFile, Content: []byte(members)})
	want := outcomes(t, files)
	if want != "+---++++-+-"+"+++"+"++-"+"+--"+"---" {
		t.Fatalf("outcomes %s", want)
	}
	for _, m := range [][2]string{
		{"context.signed &&", "true &&"},
		{"context.signed &&", "!context.signed &&"},
		{"context.capabilities.isEmpty() &&", "true &&"},
		{"context.capabilities.isEmpty() &&", "!context.capabilities.isEmpty() &&"},
		{`(context.bindMounts.isEmpty() || principal == Tero::User::"uid:0") &&`, ""},
		{`(context.bindMounts.isEmpty() || principal == Tero::User::"uid:0") &&`, "context.bindMounts.isEmpty() &&"},
		{`(context.bindMounts.isEmpty() || principal == Tero::User::"uid:0") &&`, `principal == Tero::User::"uid:0" &&`},
		{`(context.devices.isEmpty() || principal == Tero::User::"uid:0") &&`, ""},
		{`(context.devices.isEmpty() || principal == Tero::User::"uid:0") &&`, "context.devices.isEmpty() &&"},
		{"context.nodeLevel >= context.minLevel", "true"},
		{"context.nodeLevel >= context.minLevel", "context.nodeLevel > context.minLevel"},
		{"context.nodeLevel >= context.minLevel", "context.nodeLevel <= context.minLevel"},
		{"context.nodeLevel >= context.minLevel", "context.nodeLevel == context.minLevel"},
		{`principal == Tero::User::"uid:0"`, "principal"},
		{`principal == Tero::User::"uid:0"`, `principal == Tero::User::"uid:1002"`},
		{`action in Tero::Action::"api"`, `action in Tero::Action::"read"`},
		{`action in Tero::Action::"api"`, `action in Tero::Action::"operate"`},
		{`principal in Tero::Role::"operator"`, "principal"},
		{`principal in Tero::Role::"operator"`, `principal in Tero::Role::"auditor"`},
		{`[Tero::Action::"read", Tero::Action::"operate"]`, `[Tero::Action::"read"]`},
		{`[Tero::Action::"read", Tero::Action::"operate"]`, `[Tero::Action::"operate"]`},
		{`[Tero::Action::"read", Tero::Action::"operate"]`, `[Tero::Action::"api"]`},
		{`principal in Tero::Role::"auditor"`, "principal"},
		{"  action in Tero::Action::\"read\",", "  action in Tero::Action::\"api\","},
		{"permit (\n  principal in Tero::Role::\"auditor\"", "forbid (\n  principal in Tero::Role::\"auditor\""},
	} {
		var mutated []bundle.File
		found := false
		for _, f := range files {
			text := string(f.Content)
			if i := strings.Index(text, m[0]); i >= 0 && !found {
				found = true
				// A reason about a condition that is gone would be refused at load.
				text = noReasons(text[:i]) + m[1] + text[i+len(m[0]):]
			}
			mutated = append(mutated, bundle.File{Name: f.Name, Content: []byte(text)})
		}
		if !found {
			t.Errorf("%q is not in the default policies", m[0])
			continue
		}
		if got := outcomes(t, mutated); got == want {
			t.Errorf("%q instead of %q goes unnoticed", m[1], m[0])
		}
	}
}

func noReasons(text string) string {
	var out strings.Builder
	for line := range strings.Lines(text) {
		if !strings.HasPrefix(line, "@reason_") {
			out.WriteString(line)
		}
	}
	return out.String()
}

func TestDefaultLaunchPolicy(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(*workload.Admission)
		want   string // message of the refusal; permitted when empty
		miss   string
	}{
		{"signed", func(*workload.Admission) {}, "", ""},
		{
			"unsigned", func(a *workload.Admission) { *a = unsigned("web") },
			`launch of "web" refused by policy: image localhost/rogue:v1 is not signed by a trusted key`,
			"allow-signed: 1 of 5 conditions failed: context.signed",
		},
		{
			"capabilities", func(a *workload.Admission) { a.Spec.CapAdd = []string{"net_raw", "CAP_CHOWN"} },
			`launch of "web" refused by policy: it asks for the capabilities CAP_CHOWN, CAP_NET_RAW, and this policy permits none`,
			"allow-signed: 1 of 5 conditions failed: context.capabilities.isEmpty()",
		},
		{
			"level", func(a *workload.Admission) { a.Spec.MinLevel = workload.L2; a.NodeLevel = workload.L1 },
			`launch of "web" refused by policy: it asks for assurance level L2, and this node has L1`,
			"allow-signed: 1 of 5 conditions failed: context.nodeLevel >= context.minLevel",
		},
		{
			"files of the node, for root", func(a *workload.Admission) {
				a.Spec.Mounts = []workload.Mount{{Type: workload.MountBind, Source: "/srv", Target: "/srv"}}
				a.Spec.Devices = []workload.Device{{Source: "/dev/fuse", Target: "/dev/fuse", Access: "rw"}}
			}, "", "",
		},
		{
			"files of the node", func(a *workload.Admission) {
				a.Caller.UID = 1000
				a.Spec.Mounts = []workload.Mount{{Type: workload.MountBind, Source: "/srv", Target: "/srv", ReadOnly: true}}
			},
			`launch of "web" refused by policy: it mounts /srv of the node, and this policy permits that to root only`,
			`allow-signed: 1 of 5 conditions failed: context.bindMounts.isEmpty() || principal == Tero::User::"uid:0"`,
		},
		{
			"devices", func(a *workload.Admission) {
				a.Caller.UID = 1000
				a.Spec.Devices = []workload.Device{{Source: "/dev/fuse", Target: "/dev/fuse", Access: "rw"}}
			},
			`launch of "web" refused by policy: it asks for the devices /dev/fuse, and this policy permits those to root only`,
			`allow-signed: 1 of 5 conditions failed: context.devices.isEmpty() || principal == Tero::User::"uid:0"`,
		},
		{
			"volumes and the like", func(a *workload.Admission) {
				a.Caller.UID = 1000
				a.Spec.Mounts = []workload.Mount{{Type: workload.MountVolume, Source: "data", Target: "/d"}, {Type: workload.MountTmpfs, Target: "/t"}}
				a.Spec.Sysctls = map[string]string{"net.core.somaxconn": "1"}
			}, "", "",
		},
		{
			"two things", func(a *workload.Admission) { *a = unsigned("web"); a.Spec.CapAdd = []string{"CAP_CHOWN"} },
			`launch of "web" refused by policy: image localhost/rogue:v1 is not signed by a trusted key; it asks for the capabilities CAP_CHOWN, and this policy permits none`,
			"allow-signed: 2 of 5 conditions failed: context.signed; context.capabilities.isEmpty()",
		},
		{
			"escape sequence", func(a *workload.Admission) { *a = unsigned("web"); a.Image.Reference = "localhost/\x1b[2J" },
			"launch of \"web\" refused by policy: image localhost/\uFFFD[2J is not signed by a trusted key",
			"allow-signed: 1 of 5 conditions failed: context.signed",
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			e, _ := folder(t, nil)
			a := signed("web")
			c.change(&a)
			grant, err := e.AdmitLaunch(t.Context(), a)
			if c.want == "" {
				set, _ := e.Current()
				if err != nil || !slices.Equal(grant.Policies, []string{"allow-signed"}) || grant.PolicyDigest != set.Digest || grant.DecisionID == "" {
					t.Fatalf("%+v, %v", grant, err)
				}
				return
			}
			if fault.KindOf(err) != fault.Denied || err.Error() != c.want {
				t.Fatalf("got  %v\nwant %s", err, c.want)
			}
			d, explained := e.Explain("")
			if explained != nil {
				t.Fatal(explained)
			}
			if len(d.NearMisses) != 1 || d.NearMisses[0].String() != c.miss || d.Allowed || d.Message != c.want {
				t.Errorf("%+v", d)
			}
			if hint := fault.HintOf(err); !strings.Contains(hint, c.miss) || !strings.Contains(hint, `"tero policy why `+d.ID+`"`) {
				t.Errorf("hint %q", hint)
			}
			if d.RequestDigest.Validate() != nil || !slices.Contains(d.Parents, `Tero::Network::"default"`) || d.Labels["tier"] != "front" {
				t.Errorf("%+v", d)
			}
		})
	}
}
