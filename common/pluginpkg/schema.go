package pluginpkg

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"regexp"
	"slices"
	"sort"
)

// schema is the part of JSON Schema (draft 2020-12) that settings may use. Any
// other keyword is an error: what is written must be what is checked.
type schema struct {
	Type                 string             `json:"type"`
	Title                string             `json:"title"`
	Description          string             `json:"description"`
	Default              json.RawMessage    `json:"default"`
	Properties           map[string]*schema `json:"properties"`
	Required             []string           `json:"required"`
	AdditionalProperties *bool              `json:"additionalProperties"`
	Items                *schema            `json:"items"`
	MinItems             *int               `json:"minItems"`
	MaxItems             *int               `json:"maxItems"`
	Enum                 []string           `json:"enum"`
	Pattern              string             `json:"pattern"`
	Minimum              *float64           `json:"minimum"`
	Maximum              *float64           `json:"maximum"`

	pattern *regexp.Regexp
}

// parseSchema reads a settings schema; an absent or empty one permits any object.
func parseSchema(b []byte) (*schema, error) {
	s := &schema{Type: "object"}
	if len(b) == 0 {
		return s, nil
	}
	if err := decode(b, s); err != nil {
		return nil, err
	}
	if s.Type != "object" {
		return nil, fmt.Errorf("type %q; settings are an object", s.Type)
	}
	return s, s.prepare("settings")
}

func (s *schema) prepare(at string) (err error) {
	if !slices.Contains([]string{"object", "array", "string", "integer", "number", "boolean"}, s.Type) {
		return fmt.Errorf("%s: type %q is not object, array, string, integer, number or boolean", at, s.Type)
	}
	if s.pattern, err = regexp.Compile(s.Pattern); err != nil {
		return fmt.Errorf("%s: pattern: %w", at, err)
	}
	if s.Items != nil {
		if err := s.Items.prepare(at + "[]"); err != nil {
			return err
		}
	}
	for k, p := range s.Properties {
		if p == nil {
			return fmt.Errorf("%s.%s: no schema", at, k)
		}
		if err := p.prepare(at + "." + k); err != nil {
			return err
		}
	}
	return nil
}

// check tells whether v, as decode gives it, satisfies s; at names v in the error.
func (s *schema) check(at string, v any) error {
	var err error
	switch v := v.(type) {
	case map[string]any:
		err = s.checkObject(at, v)
	case []any:
		err = s.checkArray(at, v)
	case string:
		err = s.checkString(v)
	case float64:
		err = s.checkNumber(v)
	case bool:
		err = s.want("boolean")
	default:
		err = errors.New("is null")
	}
	var named *settingsError
	if err == nil || errors.As(err, &named) {
		return err
	}
	return &settingsError{at: at, err: err}
}

// settingsError says where in the settings something is wrong.
type settingsError struct {
	at  string
	err error
}

func (e *settingsError) Error() string { return e.at + " " + e.err.Error() }
func (e *settingsError) Unwrap() error { return e.err }

func (s *schema) want(types ...string) error {
	if slices.Contains(types, s.Type) {
		return nil
	}
	return fmt.Errorf("is not of type %s", s.Type)
}

func (s *schema) checkObject(at string, v map[string]any) error {
	if err := s.want("object"); err != nil {
		return err
	}
	for _, k := range s.Required {
		if _, ok := v[k]; !ok {
			return fmt.Errorf("lacks %q", k)
		}
	}
	names := make([]string, 0, len(v))
	for k := range v {
		names = append(names, k)
	}
	sort.Strings(names)
	for _, k := range names {
		p := s.Properties[k]
		if p == nil {
			if s.AdditionalProperties != nil && !*s.AdditionalProperties {
				return fmt.Errorf("has the unknown member %q", k)
			}
			continue
		}
		if err := p.check(at+"."+k, v[k]); err != nil {
			return err
		}
	}
	return nil
}

func (s *schema) checkArray(at string, v []any) error {
	if err := s.want("array"); err != nil {
		return err
	}
	if s.MinItems != nil && len(v) < *s.MinItems {
		return fmt.Errorf("has %d items, fewer than %d", len(v), *s.MinItems)
	}
	if s.MaxItems != nil && len(v) > *s.MaxItems {
		return fmt.Errorf("has %d items, more than %d", len(v), *s.MaxItems)
	}
	if s.Items == nil {
		return nil
	}
	for i, e := range v {
		if err := s.Items.check(fmt.Sprintf("%s[%d]", at, i), e); err != nil {
			return err
		}
	}
	return nil
}

func (s *schema) checkString(v string) error {
	if err := s.want("string"); err != nil {
		return err
	}
	if len(s.Enum) > 0 && !slices.Contains(s.Enum, v) {
		return fmt.Errorf("is %q, not one of %q", v, s.Enum)
	}
	if !s.pattern.MatchString(v) {
		return fmt.Errorf("is %q, which does not match %s", v, s.Pattern)
	}
	return nil
}

func (s *schema) checkNumber(v float64) error {
	if err := s.want("number", "integer"); err != nil {
		return err
	}
	switch {
	case s.Type == "integer" && v != math.Trunc(v):
		return fmt.Errorf("is %v, not an integer", v)
	case s.Minimum != nil && v < *s.Minimum:
		return fmt.Errorf("is %v, less than %v", v, *s.Minimum)
	case s.Maximum != nil && v > *s.Maximum:
		return fmt.Errorf("is %v, more than %v", v, *s.Maximum)
	}
	return nil
}
