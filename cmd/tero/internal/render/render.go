// Package render prints what commands found out: as a table for people, or as
// JSON, YAML, names or a template for programs.
package render

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"text/template"

	"go.yaml.in/yaml/v3"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"tero.internal/common/fault"
)

// Formats lists what -o takes besides the default, a table.
var Formats = []string{"json", "yaml", "wide", "name"}

// Style says how to print.
type Style struct {
	// Output is "", "table", or one of Formats.
	Output string
	// Template is a Go template; it wins over Output. Its fields are those of -o json.
	Template string
	// Quiet prints names alone, like -o name.
	Quiet bool
}

// Validate says whether the style is one that Print knows.
func (s Style) Validate() error {
	switch s.Output {
	case "", "table", "json", "yaml", "wide", "name":
	default:
		return fault.New(fault.Invalid, "output format %q is not one of table, %s", s.Output, strings.Join(Formats, ", "))
	}
	if s.Template != "" {
		if _, err := parse(s.Template); err != nil {
			return err
		}
	}
	return nil
}

// Row is one thing in the forms that people read.
type Row struct {
	// Name is what further commands take.
	Name string
	// Cells belong to the view's Columns, Wide to its Wide ones.
	Cells, Wide []string
}

// View is what a command found, in every form.
type View struct {
	// Items are protocol messages, or anything encoding/json takes; one for each row.
	Items []any
	// Single prints the one item as an object, not as a list of one.
	Single bool
	// Stream says that more views follow: JSON takes one line each (JSON Lines),
	// YAML one document each.
	Stream bool
	// Columns head the table, Wide what -o wide adds.
	Columns, Wide []string
	Rows          []Row
	// Text replaces the table, for what is no table.
	Text string
}

// Add appends one thing with its row.
func (v *View) Add(item any, row Row) {
	v.Items = append(v.Items, item)
	v.Rows = append(v.Rows, row)
}

// Print writes the view to w.
func Print(w io.Writer, s Style, v View) error {
	if s.Template != "" {
		return v.template(w, s.Template)
	}
	if s.Quiet || s.Output == "name" {
		return v.names(w)
	}
	switch s.Output {
	case "json":
		b, err := v.json()
		if err != nil {
			return err
		}
		_, err = w.Write(append(b, '\n'))
		return err
	case "yaml":
		return v.yaml(w)
	}
	if v.Text != "" {
		_, err := io.WriteString(w, v.Text)
		return err
	}
	return v.table(w, s.Output == "wide")
}

func (v View) names(w io.Writer) error {
	for _, r := range v.Rows {
		if _, err := fmt.Fprintln(w, r.Name); err != nil {
			return err
		}
	}
	return nil
}

func (v View) table(w io.Writer, wide bool) error {
	t := tabwriter.NewWriter(w, 2, 8, 3, ' ', 0)
	line := func(cells, more []string) {
		if wide {
			cells = append(append([]string{}, cells...), more...)
		}
		for i, c := range cells {
			if i > 0 {
				_, _ = t.Write([]byte{'\t'})
			}
			_, _ = io.WriteString(t, Clean(c)) // Flush reports the error
		}
		_, _ = t.Write([]byte{'\n'})
	}
	line(v.Columns, v.Wide)
	for _, r := range v.Rows {
		line(r.Cells, r.Wide)
	}
	return t.Flush()
}

// json gives the items indented, with keys in the order of their definition.
func (v View) json() ([]byte, error) {
	list := make([]json.RawMessage, 0, len(v.Items))
	for _, i := range v.Items {
		b, err := Marshal(i)
		if err != nil {
			return nil, err
		}
		list = append(list, b)
	}
	var all any = list
	if v.Single && len(list) == 1 {
		all = list[0]
	}
	b, err := json.Marshal(all)
	if err != nil {
		return nil, fmt.Errorf("encode JSON: %w", err)
	}
	// protojson varies its spaces on purpose; json.Marshal made them the same again.
	if v.Stream {
		return b, nil
	}
	var out bytes.Buffer
	if err := json.Indent(&out, b, "", "  "); err != nil {
		return nil, fmt.Errorf("indent JSON: %w", err)
	}
	return out.Bytes(), nil
}

// Marshal gives one item as JSON; fields that are not set show too.
func Marshal(item any) ([]byte, error) {
	if m, ok := item.(proto.Message); ok {
		b, err := protojson.MarshalOptions{EmitDefaultValues: true}.Marshal(m)
		if err != nil {
			return nil, fmt.Errorf("encode JSON: %w", err)
		}
		return b, nil
	}
	b, err := json.Marshal(item)
	if err != nil {
		return nil, fmt.Errorf("encode JSON: %w", err)
	}
	return b, nil
}

func (v View) yaml(w io.Writer) error {
	b, err := v.json()
	if err != nil {
		return err
	}
	var n yaml.Node
	if err := yaml.Unmarshal(b, &n); err != nil { // JSON is YAML
		return fmt.Errorf("encode YAML: %w", err)
	}
	block(&n)
	if v.Stream {
		if _, err := io.WriteString(w, "---\n"); err != nil {
			return err
		}
	}
	enc := yaml.NewEncoder(w)
	enc.SetIndent(2)
	if err := enc.Encode(&n); err != nil {
		return fmt.Errorf("encode YAML: %w", err)
	}
	return enc.Close()
}

// block takes JSON's flow style and needless quotes away.
func block(n *yaml.Node) {
	n.Style &^= yaml.FlowStyle | yaml.DoubleQuotedStyle
	for _, c := range n.Content {
		block(c)
	}
}

func (v View) template(w io.Writer, text string) error {
	t, err := parse(text)
	if err != nil {
		return err
	}
	for _, i := range v.Items {
		b, err := Marshal(i)
		if err != nil {
			return err
		}
		d := json.NewDecoder(bytes.NewReader(b))
		d.UseNumber()
		var fields any
		if err := d.Decode(&fields); err != nil {
			return fmt.Errorf("decode JSON: %w", err)
		}
		if err := t.Execute(w, fields); err != nil {
			return templateFault(err)
		}
		if _, err := fmt.Fprintln(w); err != nil {
			return err
		}
	}
	return nil
}

func parse(text string) (*template.Template, error) {
	t, err := template.New("--format").Option("missingkey=error").Funcs(template.FuncMap{
		"json": func(v any) (string, error) { b, err := json.Marshal(v); return string(b), err },
		"join": func(sep string, v []any) string {
			s := make([]string, len(v))
			for i, e := range v {
				s[i] = fmt.Sprint(e)
			}
			return strings.Join(s, sep)
		},
	}).Parse(text)
	if err != nil {
		return nil, templateFault(err)
	}
	return t, nil
}

func templateFault(err error) error {
	return fault.New(fault.Invalid, "--format: %s", strings.TrimPrefix(err.Error(), "template: ")).
		WithHint("fields are those of -o json, such as {{.name}}")
}
