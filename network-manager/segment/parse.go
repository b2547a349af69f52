package segment

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"

	"tero.internal/common/fault"
	"tero.internal/common/workload"
)

// MaxFile is the most bytes a file of segments may have.
const MaxFile = 1 << 20

// Parse reads a file of segments, one a YAML document:
//
//	kind: Segment
//	name: web-from-client
//	network: default            # "default" when left out
//	to: {workload: web}
//	from:
//	  - workload: client
//	  - labels: {tier: front}
//	ports:
//	  - {protocol: tcp, port: 8080}
//
// It is strict: the error is of kind Invalid and has one line for each fault,
// with file and line.
func Parse(file string, content []byte) ([]Segment, error) {
	if len(content) > MaxFile {
		return nil, fault.New(fault.Invalid, "%s: has %d bytes; a file of segments has at most %d", file, len(content), MaxFile)
	}
	p := &parser{file: file, seen: map[string]int{}}
	d := yaml.NewDecoder(bytes.NewReader(content))
	var out []Segment
	for {
		var doc yaml.Node
		err := d.Decode(&doc)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			p.problems = append(p.problems, fmt.Errorf("%s: %w", file, err))
			break
		}
		if len(doc.Content) == 1 && doc.Content[0].Tag == "!!null" {
			continue // an empty document, as after a final "---"
		}
		if len(doc.Content) == 1 {
			out = append(out, p.segment(doc.Content[0]))
		}
	}
	if len(p.problems) == 0 && len(out) == 0 {
		p.problems = append(p.problems, fmt.Errorf("%s: holds no segment", file))
	}
	if len(p.problems) > 0 {
		return nil, fault.New(fault.Invalid, "%w", errors.Join(p.problems...)).
			WithHint("a segment has kind, name, to, from and ports; see the examples of segments")
	}
	return out, nil
}

type parser struct {
	file     string
	seen     map[string]int // name of a segment -> line
	problems []error
}

func (p *parser) problem(n *yaml.Node, format string, args ...any) {
	p.problems = append(p.problems, fmt.Errorf("%s:%d: %w", p.file, n.Line, fmt.Errorf(format, args...)))
}

// fields gives the entries of a mapping; anything but known, each at most once
// and required ones at least, is a problem.
func (p *parser) fields(n *yaml.Node, what string, required, optional []string) map[string]*yaml.Node {
	if n.Kind != yaml.MappingNode {
		p.problem(n, "%s is not a mapping of %s", what, strings.Join(append(slices.Clone(required), optional...), ", "))
		return nil
	}
	out := map[string]*yaml.Node{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		k, v := n.Content[i], n.Content[i+1]
		known := slices.Contains(required, k.Value) || slices.Contains(optional, k.Value)
		_, twice := out[k.Value]
		switch {
		case !known:
			p.problem(k, "%s has no field %q; it has %s", what, k.Value, strings.Join(append(slices.Clone(required), optional...), ", "))
		case twice:
			p.problem(k, "%s has the field %q twice", what, k.Value)
		default:
			out[k.Value] = v
		}
	}
	for _, r := range required {
		if out[r] == nil {
			p.problem(n, "%s lacks the field %q", what, r)
		}
	}
	return out
}

func (p *parser) text(n *yaml.Node, what string) string {
	if n == nil {
		return ""
	}
	if n.Kind != yaml.ScalarNode || n.Tag == "!!null" {
		p.problem(n, "%s is not a text", what)
		return ""
	}
	return n.Value
}

func (p *parser) name(n *yaml.Node, what string) string {
	s := p.text(n, what)
	if n != nil && n.Kind == yaml.ScalarNode {
		if err := workload.ValidateName(s); err != nil {
			p.problem(n, "%s: %w", what, err)
		}
	}
	return s
}

func (p *parser) segment(n *yaml.Node) Segment {
	s := Segment{Network: workload.NetworkDefault, Source: fmt.Sprintf("%s:%d", p.file, n.Line)}
	f := p.fields(n, "segment", []string{"kind", "name", "to", "from", "ports"}, []string{"network"})
	if k := f["kind"]; k != nil && k.Value != "Segment" {
		p.problem(k, "kind is %q; only Segment is known", k.Value)
	}
	if f["name"] != nil {
		s.Name = p.name(f["name"], "name")
		if line, twice := p.seen[s.Name]; twice {
			p.problem(f["name"], "segment %q is declared on line %d already", s.Name, line)
		}
		p.seen[s.Name] = f["name"].Line
	}
	if f["network"] != nil {
		s.Network = p.name(f["network"], "network")
	}
	if f["to"] != nil {
		s.To = p.selector(f["to"], "to")
	}
	for _, e := range p.list(f["from"], "from") {
		s.From = append(s.From, p.selector(e, "from"))
	}
	for _, e := range p.list(f["ports"], "ports") {
		s.Ports = append(s.Ports, p.port(e))
	}
	return s
}

func (p *parser) list(n *yaml.Node, what string) []*yaml.Node {
	if n == nil {
		return nil
	}
	if n.Kind != yaml.SequenceNode || len(n.Content) == 0 {
		p.problem(n, "%s is not a list of at least one entry", what)
		return nil
	}
	return n.Content
}

func (p *parser) selector(n *yaml.Node, what string) Selector {
	var s Selector
	f := p.fields(n, what, nil, []string{"workload", "labels"})
	if n.Kind == yaml.MappingNode && len(n.Content) == 0 {
		p.problem(n, "%s selects nothing: give workload, labels or both", what)
	}
	if f["workload"] != nil {
		s.Workload = p.text(f["workload"], what+".workload")
		if s.Workload == "" && f["workload"].Kind == yaml.ScalarNode {
			p.problem(f["workload"], "%s.workload is empty", what)
		}
	}
	if l := f["labels"]; l != nil {
		if l.Kind != yaml.MappingNode || len(l.Content) == 0 {
			p.problem(l, "%s.labels is not a mapping of at least one label", what)
			return s
		}
		s.Labels = map[string]string{}
		for i := 0; i+1 < len(l.Content); i += 2 {
			k := p.text(l.Content[i], "label")
			if _, twice := s.Labels[k]; twice {
				p.problem(l.Content[i], "label %q stands there twice", k)
			}
			s.Labels[k] = p.text(l.Content[i+1], "label "+strconv.Quote(k))
		}
	}
	return s
}

func (p *parser) port(n *yaml.Node) Port {
	var out Port
	f := p.fields(n, "port", []string{"protocol"}, []string{"port"})
	out.Protocol = p.text(f["protocol"], "protocol")
	if f["protocol"] != nil && out.Number() == 0 {
		p.problem(f["protocol"], "protocol %q is not one of tcp, udp, icmp", out.Protocol)
		return out
	}
	switch number := f["port"]; {
	case out.Protocol == "icmp" && number != nil:
		p.problem(number, "icmp has no port")
	case number != nil:
		v, err := strconv.ParseUint(p.text(number, "port"), 10, 16)
		if err != nil || v == 0 {
			p.problem(number, "port %q is not a number from 1 to 65535", number.Value)
		}
		out.Port = uint16(v)
	case out.Number() != 0 && out.Protocol != "icmp":
		p.problem(n, "%s needs a port", out.Protocol)
	}
	return out
}
