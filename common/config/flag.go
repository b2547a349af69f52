package config

import "strings"

// FlagValue lets a key be given on the command line. It satisfies flag.Value
// of the standard library and Value of github.com/spf13/pflag, and keeps the
// text for Source.Flags only when the flag was given.
type FlagValue struct {
	key  Key
	into map[string]string
}

// NewFlagValue stores what is given for key into the map that becomes
// Source.Flags.
func NewFlagValue(key Key, into map[string]string) *FlagValue {
	return &FlagValue{key: key, into: into}
}

// Set stores text; a list grows each time the flag is repeated.
func (v *FlagValue) Set(text string) error {
	if before, given := v.into[v.key.Name]; given && (strings.HasPrefix(v.key.Type, "list of ") || strings.HasPrefix(v.key.Type, "map of ")) {
		text = before + "," + text
	}
	v.into[v.key.Name] = text
	return nil
}

// String gives what was given, or the default.
func (v *FlagValue) String() string {
	if v == nil || v.into == nil {
		return ""
	}
	if text, given := v.into[v.key.Name]; given {
		return text
	}
	if v.key.Secret {
		return ""
	}
	return v.key.Default
}

// Type is for pflag's help text.
func (v *FlagValue) Type() string {
	switch v.key.Type {
	case "true or false":
		return "bool"
	case "text":
		return "text"
	}
	return strings.ReplaceAll(v.key.Type, " ", "-")
}

// IsBoolFlag lets the standard library accept the flag without a value.
func (v *FlagValue) IsBoolFlag() bool { return v.key.Type == "true or false" }
