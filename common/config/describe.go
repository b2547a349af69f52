package config

import (
	"fmt"
	"io"
	"reflect"
	"strings"

	"go.yaml.in/yaml/v3"
)

// From is which source a value came from.
type From string

// The sources, weakest first.
const (
	FromDefault     From = "default"
	FromFile        From = "file"
	FromEnvironment From = "environment"
	FromFlag        From = "flag"
)

// Origin is where a value came from.
type Origin struct {
	From From `json:"from"`
	// Where is "file:line:column", "environment variable NAME", "flag --name"; empty for a default.
	Where string `json:"where,omitempty"`
}

// Setting is one key with the value that holds.
type Setting struct {
	Key
	// Value is the value as text; "(set)" for a secret that is not empty.
	Value  string `json:"value"`
	Origin Origin `json:"origin"`
}

// Loaded says what holds and why.
type Loaded struct {
	// Settings are in the order of the struct's fields.
	Settings []Setting `json:"settings"`
}

// Origin gives where the value of key came from.
func (l *Loaded) Origin(key string) Origin {
	for _, s := range l.Settings {
		if s.Name == key {
			return s.Origin
		}
	}
	return Origin{From: FromDefault}
}

func (l *loader) loaded() *Loaded {
	out := &Loaded{}
	for _, f := range l.table.fields {
		s := Setting{Key: f.Key, Value: format(f.value), Origin: Origin{From: FromDefault}}
		if o, ok := l.origins[f.Name]; ok {
			s.Origin = o
		}
		if f.Secret && s.Value != "" {
			s.Value = "(set)"
		}
		if f.Secret {
			s.Default = ""
		}
		out.Settings = append(out.Settings, s)
	}
	return out
}

// Describe writes every key of dst, a pointer to a struct that holds the
// defaults, as a YAML file with the documentation as comments. Loading that
// file gives the defaults again.
func Describe(w io.Writer, dst any, envPrefix string) error {
	v := reflect.ValueOf(dst)
	if v.Kind() != reflect.Pointer || v.IsNil() || v.Elem().Kind() != reflect.Struct {
		return fmt.Errorf("config: Describe needs a pointer to a struct, not %T", dst)
	}
	t, err := newTable(v.Elem(), envPrefix)
	if err != nil {
		return err
	}
	var b strings.Builder
	for i, name := range t.order {
		if i > 0 {
			b.WriteByte('\n')
		}
		_, last, _ := cutLast(name)
		indent := strings.Repeat("  ", strings.Count(name, "."))
		f, ok := t.byName[name]
		if !ok {
			if help := t.sections[name]; help != "" {
				fmt.Fprintf(&b, "%s# %s.\n", indent, help)
			}
			fmt.Fprintf(&b, "%s%s:\n", indent, last)
			continue
		}
		f.describe(&b, indent)
		text, err := f.yaml()
		if err != nil {
			return fmt.Errorf("config: %s: %w", name, err)
		}
		fmt.Fprintf(&b, "%s%s: %s\n", indent, last, text)
	}
	_, err = io.WriteString(w, b.String())
	return err
}

func (f *field) describe(b *strings.Builder, indent string) {
	fmt.Fprintf(b, "%s# %s.\n%s# A %s", indent, f.Help, indent, f.Type)
	if len(f.Enum) > 0 {
		fmt.Fprintf(b, ": %s", strings.Join(f.Enum, ", "))
	}
	if f.Required {
		b.WriteString("; must be set")
	}
	fmt.Fprintf(b, ". Flag --%s", f.Flag)
	if f.Env != "" {
		fmt.Fprintf(b, ", environment %s", f.Env)
	}
	b.WriteString(".\n")
}

// yaml gives the default as YAML in flow style.
func (f *field) yaml() (string, error) {
	var node yaml.Node
	t := f.value.Type()
	switch {
	case f.Secret:
		return `""`, nil
	case isList(t):
		node = yaml.Node{Kind: yaml.SequenceNode, Style: yaml.FlowStyle}
		for i := range f.value.Len() {
			node.Content = append(node.Content, scalar(f.value.Index(i)))
		}
	case isMap(t):
		if err := node.Encode(f.value.Interface()); err != nil {
			return "", err
		}
		node.Style = yaml.FlowStyle
	default:
		node = *scalar(f.value)
	}
	b, err := yaml.Marshal(&node)
	return strings.TrimSpace(string(b)), err
}

// scalar quotes texts, so that none is mistaken for another type.
func scalar(v reflect.Value) *yaml.Node {
	n := &yaml.Node{Kind: yaml.ScalarNode, Value: format(v)}
	if v.Kind() == reflect.String || n.Value == "" {
		n.Style = yaml.DoubleQuotedStyle
	}
	return n
}
