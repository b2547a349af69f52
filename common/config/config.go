// Package config fills one documented struct from, in order of precedence,
// flags, environment variables, a YAML file, and the values the struct came
// with, which are the defaults. It is strict: what it does not know is an
// error that says where it stands and what was probably meant, because a
// setting that is silently ignored is worse than a daemon that does not start.
//
// The struct says everything by tags:
//
//	type Config struct {
//		StateDir string        `yaml:"stateDir" help:"folder for everything that must survive a restart" required:"true"`
//		LogLevel string        `yaml:"logLevel" help:"least severity that is logged" enum:"debug,info,warn,error"`
//		Network  struct {
//			Pool netip.Prefix `yaml:"pool" help:"addresses for containers"`
//		} `yaml:"network" help:"the container network"`
//	}
//
// With the prefix "TERO_", network.pool is TERO_NETWORK_POOL in the
// environment and network-pool as a flag. The tag env:"NAME" gives a name of
// its own after the prefix; secret:"true" keeps a value out of Describe and
// out of what Loaded shows.
package config

import (
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"

	"tero.internal/common/fault"
)

// Source says where the settings come from. The zero value gives the defaults.
type Source struct {
	// File is the path of a YAML file; none is read when empty.
	File string
	// Optional makes a missing File no error: set it for the default path,
	// not for a path that somebody gave.
	Optional bool
	// EnvPrefix begins the name of each variable ("TERO_"); the environment
	// is not read when it is empty.
	EnvPrefix string
	// Environ is KEY=value entries, as os.Environ gives them.
	Environ []string
	// EnvKnown lists variables that have the prefix, belong to somebody else
	// and so are no error ("TERO_BENCH_DIR"). A final * stands for any rest.
	EnvKnown []string
	// Flags holds the flags that were given: key ("network.pool") to value,
	// in which a list is separated by commas.
	Flags map[string]string
	// Help becomes the hint of an error ("terod config lists every key").
	Help string
}

// Validator is a struct that checks itself after loading. An error that is
// built by Wrong is reported with the place that the value came from.
type Validator interface {
	Validate() error
}

// KeyError is what is wrong with the value of one key.
type KeyError struct {
	Key string
	Err error
}

// Wrong says in Validate what is wrong with the value of key.
func Wrong(key, format string, args ...any) error {
	return &KeyError{Key: key, Err: fmt.Errorf(format, args...)}
}

// Error gives the key and what is wrong.
func (e *KeyError) Error() string { return e.Key + ": " + e.Err.Error() }

// Unwrap gives what is wrong.
func (e *KeyError) Unwrap() error { return e.Err }

// Load fills dst, a pointer to a struct, from src. On an error dst is as it
// was; the error is a fault.Invalid (fault.NotFound for a missing file) with
// one line for each problem found. Lists and maps replace what was there.
func Load(dst any, src Source) (*Loaded, error) {
	target := reflect.ValueOf(dst)
	if target.Kind() != reflect.Pointer || target.IsNil() || target.Elem().Kind() != reflect.Struct {
		return nil, fmt.Errorf("config: Load needs a pointer to a struct, not %T", dst)
	}
	fresh := reflect.New(target.Elem().Type())
	fresh.Elem().Set(target.Elem())
	t, err := newTable(fresh.Elem(), src.EnvPrefix)
	if err != nil {
		return nil, err
	}
	l := &loader{table: t, origins: map[string]Origin{}, failed: map[string]bool{}}
	if err := l.file(src); err != nil {
		return nil, err
	}
	l.environment(src)
	l.flags(src)
	l.required()
	if v, ok := reflect.TypeAssert[Validator](fresh); ok && len(l.problems) == 0 {
		l.invalid(v.Validate())
	}
	if len(l.problems) > 0 {
		return nil, fault.New(fault.Invalid, "%w", errors.Join(l.problems...)).WithHint("%s", src.Help)
	}
	loaded := l.loaded()
	target.Elem().Set(fresh.Elem())
	return loaded, nil
}

// loader gathers problems, so that one run tells them all.
type loader struct {
	table    *table
	origins  map[string]Origin
	failed   map[string]bool // keys with a problem that is told already
	problems []error
}

func (l *loader) problem(where, format string, args ...any) {
	l.problems = append(l.problems, fmt.Errorf("%s: %w", where, fmt.Errorf(format, args...)))
}

// assign parses text into the field and notes where it came from.
func (l *loader) assign(f *field, text string, from Origin) {
	if err := f.set(text); err != nil {
		l.failed[f.Name] = true
		l.problem(from.Where, "%s: %w", f.Name, err)
		return
	}
	l.origins[f.Name] = from
}

// environment reads the variables with the prefix, in sorted order so that
// messages are the same each time.
func (l *loader) environment(src Source) {
	if src.EnvPrefix == "" {
		return
	}
	vars := map[string]string{}
	for _, e := range src.Environ {
		if name, value, ok := strings.Cut(e, "="); ok && strings.HasPrefix(name, src.EnvPrefix) {
			vars[name] = value
		}
	}
	for _, name := range slices.Sorted(maps.Keys(vars)) {
		where := "environment variable " + name
		f, ok := l.table.byEnv[name]
		switch {
		case ok:
			l.assign(f, vars[name], Origin{From: FromEnvironment, Where: where})
		case known(name, src.EnvKnown):
		default:
			l.problem(where, "no setting has this name%s", didYouMean(name, slices.Sorted(maps.Keys(l.table.byEnv))))
		}
	}
}

func known(name string, list []string) bool {
	return slices.ContainsFunc(list, func(k string) bool {
		stem, wild := strings.CutSuffix(k, "*")
		return name == k || wild && strings.HasPrefix(name, stem)
	})
}

func (l *loader) flags(src Source) {
	for _, name := range slices.Sorted(maps.Keys(src.Flags)) {
		f, ok := l.table.byName[name]
		if !ok {
			l.problem("flag --"+flagName(name), "no setting is called %q%s", name, didYouMean(name, l.table.names()))
			continue
		}
		l.assign(f, src.Flags[name], Origin{From: FromFlag, Where: "flag --" + f.Flag})
	}
}

func (l *loader) required() {
	for _, f := range l.table.fields {
		if f.Required && f.value.IsZero() && !l.failed[f.Name] {
			l.problem(f.Name, "must be set: by flag --%s, environment variable %s or in the file", f.Flag, f.Env)
		}
	}
}

// invalid adds what Validate found.
func (l *loader) invalid(err error) {
	if err == nil {
		return
	}
	if many, ok := err.(interface{ Unwrap() []error }); ok {
		for _, e := range many.Unwrap() {
			l.invalid(e)
		}
		return
	}
	if k, ok := errors.AsType[*KeyError](err); ok {
		if from, ok := l.origins[k.Key]; ok {
			l.problem(from.Where, "%w", err)
			return
		}
	}
	l.problems = append(l.problems, err)
}
