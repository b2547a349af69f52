package segment_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"tero.internal/common/fault"
	"tero.internal/network-manager/segment"
)

const two = `# who reaches the shop
kind: Segment
name: web-from-client
to: {workload: web}
from:
  - workload: client
  - labels: {tier: front, zone: "1"}
ports:
  - {protocol: tcp, port: 8080}
  - {protocol: icmp}
---
kind: Segment
name: db
network: back
to: {labels: {role: db}}
from: [{workload: web, labels: {tier: front}}]
ports: [{protocol: udp, port: 53}]
---
`

func TestParse(t *testing.T) {
	got, err := segment.Parse("shop.yaml", []byte(two))
	if err != nil {
		t.Fatal(err)
	}
	want := []segment.Segment{
		{
			Name: "web-from-client", Network: "default", To: segment.Selector{Workload: "web"}, Source: "shop.yaml:2",
			From:  []segment.Selector{{Workload: "client"}, {Labels: map[string]string{"tier": "front", "zone": "1"}}},
			Ports: []segment.Port{{Protocol: "tcp", Port: 8080}, {Protocol: "icmp"}},
		},
		{
			Name: "db", Network: "back", To: segment.Selector{Labels: map[string]string{"role": "db"}}, Source: "shop.yaml:12",
			From:  []segment.Selector{{Workload: "web", Labels: map[string]string{"tier": "front"}}},
			Ports: []segment.Port{{Protocol: "udp", Port: 53}},
		},
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
}

func TestParseTellsFileAndLine(t *testing.T) {
	good := "kind: Segment\nname: a\nto: {workload: b}\nfrom: [{workload: c}]\nports: [{protocol: tcp, port: 1}]\n"
	for name, c := range map[string]struct{ yaml, want string }{
		"nothing":         {"", "f.yaml: holds no segment"},
		"not YAML":        {"kind: [", "f.yaml: yaml: line 1"},
		"not a mapping":   {"- a", "f.yaml:1: segment is not a mapping"},
		"unknown field":   {good + "form: []\n", `f.yaml:6: segment has no field "form"`},
		"field twice":     {good + "name: b\n", `f.yaml:6: segment has the field "name" twice`},
		"no ports":        {"kind: Segment\nname: a\nto: {workload: b}\nfrom: [{workload: c}]\n", `f.yaml:1: segment lacks the field "ports"`},
		"other kind":      {strings.Replace(good, "kind: Segment", "kind: Pod", 1), `f.yaml:1: kind is "Pod"`},
		"bad name":        {strings.Replace(good, "name: a", "name: A_B", 1), `f.yaml:2: name: name "A_B" is not a DNS label`},
		"declared twice":  {good + "---\n" + good, `f.yaml:8: segment "a" is declared on line 2 already`},
		"empty to":        {strings.Replace(good, "{workload: b}", "{}", 1), "f.yaml:3: to selects nothing"},
		"null to":         {strings.Replace(good, "{workload: b}", "", 1), "f.yaml:3: to is not a mapping"},
		"empty workload":  {strings.Replace(good, "{workload: b}", `{workload: ""}`, 1), "f.yaml:3: to.workload is empty"},
		"empty labels":    {strings.Replace(good, "{workload: b}", `{labels: {}}`, 1), "f.yaml:3: to.labels is not a mapping of at least one"},
		"empty from":      {strings.Replace(good, "[{workload: c}]", "[]", 1), "f.yaml:4: from is not a list of at least one"},
		"from a mapping":  {strings.Replace(good, "[{workload: c}]", "{workload: c}", 1), "f.yaml:4: from is not a list"},
		"bad protocol":    {strings.Replace(good, "tcp", "http", 1), `f.yaml:5: protocol "http" is not one of`},
		"no port":         {strings.Replace(good, ", port: 1", "", 1), "f.yaml:5: tcp needs a port"},
		"port 0":          {strings.Replace(good, "port: 1", "port: 0", 1), `f.yaml:5: port "0" is not a number from 1 to 65535`},
		"port too large":  {strings.Replace(good, "port: 1", "port: 65536", 1), `f.yaml:5: port "65536"`},
		"port of icmp":    {strings.Replace(good, "tcp", "icmp", 1), "f.yaml:5: icmp has no port"},
		"two at a time":   {strings.Replace(strings.Replace(good, "tcp", "http", 1), "kind: Segment", "kind: Pod", 1), "f.yaml:5: protocol"},
		"too large":       {strings.Repeat("#", segment.MaxFile+1), "a file of segments has at most"},
		"alias as a name": {"kind: Segment\nname: &x a\nto: *x\n", "f.yaml:3: to is not a mapping"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := segment.Parse("f.yaml", []byte(c.yaml))
			if fault.KindOf(err) != fault.Invalid || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error: %v\nwant one with: %s", err, c.want)
			}
		})
	}
}

func members() []segment.Member {
	return []segment.Member{
		{Network: "default", Name: "web", Mark: 1, Address: [4]byte{10, 0, 0, 2}},
		{Network: "default", Name: "web", Mark: 1, Address: [4]byte{10, 0, 0, 3}},
		{Network: "default", Name: "client", Mark: 2, Address: [4]byte{10, 0, 0, 4}},
		{Network: "default", Name: "shop", Labels: map[string]string{"tier": "front", "zone": "1"}, Mark: 3, Address: [4]byte{10, 0, 0, 5}},
		{Network: "default", Name: "shop", Labels: map[string]string{"tier": "front"}, Mark: 4, Address: [4]byte{10, 0, 0, 6}},
		{Network: "back", Name: "client", Mark: 5, Address: [4]byte{10, 1, 0, 2}},
	}
}

func TestCompile(t *testing.T) {
	segments, err := segment.Parse("shop.yaml", []byte(two))
	if err != nil {
		t.Fatal(err)
	}
	got := segment.Compile(segments, members())
	want := map[segment.Entry][]string{}
	for _, mark := range []uint32{2, 3} {
		for _, last := range []byte{2, 3} {
			a := [4]byte{10, 0, 0, last}
			want[segment.Entry{Mark: mark, Address: a, Protocol: 6, Port: 8080}] = []string{"web-from-client"}
			want[segment.Entry{Mark: mark, Address: a, Protocol: 1}] = []string{"web-from-client"}
		}
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
	if got := segment.Compile(segments, nil); len(got) != 0 {
		t.Errorf("entries of nobody: %v", got)
	}
}

func TestExplain(t *testing.T) {
	segments, err := segment.Parse("shop.yaml", []byte(two))
	if err != nil {
		t.Fatal(err)
	}
	m := members()
	web, client, other, back := &m[0], &m[2], &m[4], &m[5]
	tcp := func(p uint16) segment.Port { return segment.Port{Protocol: "tcp", Port: p} }
	for name, c := range map[string]struct {
		from, to *segment.Member
		port     segment.Port
		want     string
	}{
		"source":     {other, web, tcp(8080), "no segment allows shop to reach web on tcp/8080; nearest: web-from-client allows from {workload: client} or {labels: {tier: front, zone: 1}}"},
		"port":       {client, web, tcp(80), "no segment allows client to reach web on tcp/80; nearest: web-from-client allows on tcp/8080, icmp"},
		"both":       {other, web, tcp(80), "no segment allows shop to reach web on tcp/80; nearest: web-from-client allows from {workload: client} or {labels: {tier: front, zone: 1}} and allows on tcp/8080, icmp"},
		"target":     {client, other, tcp(8080), "no segment allows client to reach shop on tcp/8080; nearest: web-from-client allows to {workload: web}"},
		"networks":   {back, web, tcp(8080), "no segment allows client to reach web on tcp/8080: it is on network back and web on default"},
		"no segment": {web, other, segment.Port{Protocol: "icmp"}, "no segment allows web to reach shop on icmp; no segment of network default has anything to do with either"},
	} {
		if got := segment.Explain(segments, c.from, c.to, c.port); got != c.want {
			t.Errorf("%s:\n got %s\nwant %s", name, got, c.want)
		}
	}
	if got := segment.AnyReach(segments, client, web); !cmp.Equal(got, []string{"web-from-client"}) {
		t.Errorf("AnyReach: %v", got)
	}
	if got := segment.Allowing(segments, client, web, tcp(8080)); !cmp.Equal(got, []string{"web-from-client"}) {
		t.Errorf("Allowing: %v", got)
	}
	if got := segment.Allowing(segments, client, web, tcp(80)); got != nil {
		t.Errorf("Allowing on another port: %v", got)
	}
	if got := segment.AnyReach(segments, back, web); got != nil {
		t.Errorf("AnyReach over networks: %v", got)
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(two))
	f.Add([]byte("kind: Segment\nname: &x a\nto: *x\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		segments, err := segment.Parse("f.yaml", b)
		if err != nil {
			if fault.KindOf(err) != fault.Invalid {
				t.Errorf("kind of %v", err)
			}
			return
		}
		for _, s := range segments {
			if s.Name == "" || len(s.From) == 0 || len(s.Ports) == 0 || s.To.String() == "{}" {
				t.Errorf("incomplete: %+v", s)
			}
		}
	})
}
