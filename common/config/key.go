package config

import (
	"fmt"
	"reflect"
	"slices"
	"strings"
	"unicode"
)

// Key is one setting, as documentation and flags need it.
type Key struct {
	// Name is the dotted path in the file ("network.pool").
	Name string `json:"name"`
	// Env is the whole name of the environment variable ("TERO_NETWORK_POOL"); empty without a prefix.
	Env string `json:"env,omitempty"`
	// Flag is the name of the flag, without dashes in front ("network-pool").
	Flag string `json:"flag"`
	// Help is one line without a full stop.
	Help string `json:"help"`
	// Type is for people: "text", "true or false", "whole number", "duration",
	// "size in bytes", "address", "prefix", "list of ...".
	Type string `json:"type"`
	// Default is the default as text; lists are separated by commas.
	Default string `json:"default"`
	// Enum lists the values that are allowed; any when empty.
	Enum []string `json:"enum,omitempty"`
	// Required is true for a setting that must not be left empty.
	Required bool `json:"required,omitempty"`
	// Secret is true for a value that must not be shown.
	Secret bool `json:"secret,omitempty"`
}

// field is a Key with the place it is stored in.
type field struct {
	Key
	value reflect.Value
}

// set parses text and stores it; nothing is stored on an error.
func (f *field) set(text string) error {
	if len(f.Enum) > 0 && !slices.Contains(f.Enum, text) {
		return fmt.Errorf("%s is not one of %s%s", f.quote(text), strings.Join(f.Enum, ", "), didYouMean(text, f.Enum))
	}
	v, err := parse(f.value.Type(), text)
	if err != nil {
		return f.hide(err)
	}
	f.value.Set(v)
	return nil
}

func (f *field) setList(texts []string) error {
	v, err := parseList(f.value.Type(), texts)
	if err != nil {
		return f.hide(err)
	}
	f.value.Set(v)
	return nil
}

// hide keeps the value of a secret out of an error.
func (f *field) hide(err error) error {
	if f.Secret {
		return fmt.Errorf("the value is not a %s", f.Type)
	}
	return err
}

func (f *field) quote(text string) string {
	if f.Secret {
		return "the value"
	}
	return fmt.Sprintf("%q", text)
}

// table finds the fields of one struct by each of their names.
type table struct {
	fields   []*field
	byName   map[string]*field
	byEnv    map[string]*field
	sections map[string]string // dotted path of a nested struct -> help
	order    []string          // names of sections and fields, as declared
}

func newTable(root reflect.Value, prefix string) (*table, error) {
	t := &table{byName: map[string]*field{}, byEnv: map[string]*field{}, sections: map[string]string{}}
	if err := t.walk(root, "", prefix); err != nil {
		return nil, err
	}
	return t, nil
}

// walk adds the fields of a struct. Its errors are mistakes of a programmer.
func (t *table) walk(v reflect.Value, path, prefix string) error {
	for i := range v.NumField() {
		sf := v.Type().Field(i)
		name, _, _ := strings.Cut(sf.Tag.Get("yaml"), ",")
		if !sf.IsExported() || name == "-" {
			continue
		}
		if name == "" {
			return fmt.Errorf("config: field %s of %s has no yaml tag", sf.Name, v.Type())
		}
		full := join(path, name)
		t.order = append(t.order, full)
		if sf.Type.Kind() == reflect.Struct && !isScalar(sf.Type) {
			t.sections[full] = sf.Tag.Get("help")
			if err := t.walk(v.Field(i), full, prefix); err != nil {
				return err
			}
			continue
		}
		if err := t.add(sf, v.Field(i), full, prefix); err != nil {
			return err
		}
	}
	return nil
}

func (t *table) add(sf reflect.StructField, v reflect.Value, full, prefix string) error {
	kind, err := typeName(sf.Type)
	if err != nil {
		return fmt.Errorf("config: %s: %w", full, err)
	}
	f := &field{Key: Key{
		Name: full, Flag: flagName(full), Help: sf.Tag.Get("help"), Type: kind, Default: format(v),
		Required: sf.Tag.Get("required") == "true", Secret: sf.Tag.Get("secret") == "true",
	}, value: v}
	if e := sf.Tag.Get("enum"); e != "" {
		f.Enum = strings.Split(e, ",")
	}
	if f.Help == "" {
		return fmt.Errorf("config: %s has no help tag", full)
	}
	if prefix != "" {
		f.Env = prefix + envName(full)
		if own := sf.Tag.Get("env"); own != "" {
			f.Env = prefix + own
		}
		if other, taken := t.byEnv[f.Env]; taken {
			return fmt.Errorf("config: %s and %s both have the variable %s", other.Name, full, f.Env)
		}
		t.byEnv[f.Env] = f
	}
	if _, taken := t.byName[full]; taken {
		return fmt.Errorf("config: two fields are called %s", full)
	}
	t.byName[full] = f
	t.fields = append(t.fields, f)
	return nil
}

func (t *table) names() []string {
	var out []string
	for _, f := range t.fields {
		out = append(out, f.Name)
	}
	return out
}

// Keys lists the settings of dst, a pointer to a struct that holds the
// defaults, in the order of its fields.
func Keys(dst any, envPrefix string) ([]Key, error) {
	v := reflect.ValueOf(dst)
	if v.Kind() != reflect.Pointer || v.IsNil() || v.Elem().Kind() != reflect.Struct {
		return nil, fmt.Errorf("config: Keys needs a pointer to a struct, not %T", dst)
	}
	t, err := newTable(v.Elem(), envPrefix)
	if err != nil {
		return nil, err
	}
	out := make([]Key, 0, len(t.fields))
	for _, f := range t.fields {
		out = append(out, f.Key)
	}
	return out, nil
}

func join(path, name string) string {
	if path == "" {
		return name
	}
	return path + "." + name
}

// envName turns "network.defaultPool" into "NETWORK_DEFAULT_POOL".
func envName(full string) string { return strings.ToUpper(split(full, '_')) }

// flagName turns "network.defaultPool" into "network-default-pool".
func flagName(full string) string { return strings.ToLower(split(full, '-')) }

// split puts sep between the words of a camel-case, dotted name; a run of
// capitals is one word ("dnsTTL" is "dns", "TTL").
func split(full string, sep rune) string {
	var out []rune
	runes := []rune(full)
	for i, r := range runes {
		switch {
		case r == '.' || r == '_' || r == '-':
			out = append(out, sep)
			continue
		case unicode.IsUpper(r) && i > 0 && (unicode.IsLower(runes[i-1]) || unicode.IsDigit(runes[i-1])):
			out = append(out, sep)
		case unicode.IsUpper(r) && i > 0 && unicode.IsUpper(runes[i-1]) && i+1 < len(runes) && unicode.IsLower(runes[i+1]):
			out = append(out, sep)
		}
		out = append(out, r)
	}
	return string(out)
}
