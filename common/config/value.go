package config

import (
	"encoding"
	"fmt"
	"maps"
	"net/netip"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"
)

// isScalar tells whether a value of type t is written as one text.
func isScalar(t reflect.Type) bool {
	if t == reflect.TypeFor[time.Duration]() || reflect.PointerTo(t).Implements(reflect.TypeFor[encoding.TextUnmarshaler]()) {
		return true
	}
	switch t.Kind() { //nolint:exhaustive // the rest are not scalars
	case reflect.String, reflect.Bool,
		reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64,
		reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		return true
	}
	return false
}

func isList(t reflect.Type) bool {
	return !isScalar(t) && t.Kind() == reflect.Slice && isScalar(t.Elem())
}

func isMap(t reflect.Type) bool {
	return !isScalar(t) && t.Kind() == reflect.Map && t.Key().Kind() == reflect.String && t.Elem().Kind() == reflect.String
}

// typeName says what people may write for a value of type t.
func typeName(t reflect.Type) (string, error) {
	switch {
	case t == reflect.TypeFor[time.Duration]():
		return "duration", nil
	case t == reflect.TypeFor[Size]():
		return "size in bytes", nil
	case t == reflect.TypeFor[netip.Addr]():
		return "address", nil
	case t == reflect.TypeFor[netip.Prefix]():
		return "prefix", nil
	case t == reflect.TypeFor[netip.AddrPort]():
		return "address and port", nil
	case isList(t):
		of, err := typeName(t.Elem())
		return "list of " + of, err
	case isMap(t):
		return "map of text to text", nil
	case !isScalar(t):
		return "", fmt.Errorf("type %s is not supported", t)
	}
	switch t.Kind() { //nolint:exhaustive // the rest are texts
	case reflect.Bool:
		return "true or false", nil
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		return "whole number", nil
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		return "whole number, not negative", nil
	}
	return "text", nil
}

// parse reads a value of type t. Lists and maps are separated by commas.
func parse(t reflect.Type, text string) (reflect.Value, error) {
	switch {
	case isList(t):
		if text == "" {
			return parseList(t, nil)
		}
		return parseList(t, strings.Split(text, ","))
	case isMap(t):
		return parseMap(t, text)
	}
	v := reflect.New(t).Elem()
	if t == reflect.TypeFor[time.Duration]() {
		d, err := time.ParseDuration(text)
		if err != nil {
			return v, fmt.Errorf("%q is not a duration such as 500ms, 10s or 1h30m", text)
		}
		v.SetInt(int64(d))
		return v, nil
	}
	if u, ok := reflect.TypeAssert[encoding.TextUnmarshaler](v.Addr()); ok {
		return v, unmarshal(u, t, text)
	}
	switch t.Kind() { //nolint:exhaustive // isScalar let no other kind pass
	case reflect.String:
		v.SetString(text)
	case reflect.Bool:
		if text != "true" && text != "false" {
			return v, fmt.Errorf("%q is neither true nor false", text)
		}
		v.SetBool(text == "true")
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		n, err := strconv.ParseInt(text, 10, t.Bits())
		if err != nil {
			return v, fmt.Errorf("%q is not a whole number of %d bits", text, t.Bits())
		}
		v.SetInt(n)
	default:
		n, err := strconv.ParseUint(text, 10, t.Bits())
		if err != nil {
			return v, fmt.Errorf("%q is not a whole number from 0 of %d bits", text, t.Bits())
		}
		v.SetUint(n)
	}
	return v, nil
}

// unmarshal puts our words before those of the type.
func unmarshal(u encoding.TextUnmarshaler, t reflect.Type, text string) error {
	err := u.UnmarshalText([]byte(text))
	if err == nil {
		return nil
	}
	switch t {
	case reflect.TypeFor[netip.Prefix]():
		return fmt.Errorf("%q is not a prefix such as 10.88.0.0/16", text)
	case reflect.TypeFor[netip.Addr]():
		return fmt.Errorf("%q is not an address such as 10.88.0.1", text)
	case reflect.TypeFor[netip.AddrPort]():
		return fmt.Errorf("%q is not an address and port such as 127.0.0.1:7443", text)
	}
	return err
}

func parseList(t reflect.Type, texts []string) (reflect.Value, error) {
	v := reflect.MakeSlice(t, 0, len(texts))
	for _, s := range texts {
		e, err := parse(t.Elem(), strings.TrimSpace(s))
		if err != nil {
			return v, err
		}
		v = reflect.Append(v, e)
	}
	return v, nil
}

func parseMap(t reflect.Type, text string) (reflect.Value, error) {
	v := reflect.MakeMap(t)
	if text == "" {
		return v, nil
	}
	for pair := range strings.SplitSeq(text, ",") {
		key, value, ok := strings.Cut(pair, "=")
		if key = strings.TrimSpace(key); !ok || key == "" {
			return v, fmt.Errorf("%q is not key=value", pair)
		}
		k := reflect.ValueOf(key).Convert(t.Key())
		if v.MapIndex(k).IsValid() {
			return v, fmt.Errorf("key %q is given twice", key)
		}
		v.SetMapIndex(k, reflect.ValueOf(strings.TrimSpace(value)).Convert(t.Elem()))
	}
	return v, nil
}

// format is the inverse of parse.
func format(v reflect.Value) string {
	switch {
	case isList(v.Type()):
		var parts []string
		for i := range v.Len() {
			parts = append(parts, format(v.Index(i)))
		}
		return strings.Join(parts, ",")
	case isMap(v.Type()):
		pairs := map[string]string{}
		for it := v.MapRange(); it.Next(); {
			pairs[it.Key().String()] = it.Value().String()
		}
		var parts []string
		for _, k := range slices.Sorted(maps.Keys(pairs)) {
			parts = append(parts, k+"="+pairs[k])
		}
		return strings.Join(parts, ",")
	}
	if m, ok := reflect.TypeAssert[encoding.TextMarshaler](v); ok {
		b, err := m.MarshalText()
		if err == nil {
			return string(b)
		}
	}
	return fmt.Sprint(v.Interface())
}
