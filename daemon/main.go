package daemon

import (
	"context"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"tero.internal/common/buildinfo"
	"tero.internal/common/config"
	"tero.internal/common/fault"
)

// clientVariables are TERO_* variables that the CLI reads and a node does not.
var clientVariables = []string{"TERO_CONFIG", "TERO_NODE", "TERO_OUTPUT", "TERO_TLS_*"}

// Main is the whole of terod: it reads the configuration from flags, environ,
// file and defaults, runs the node until ctx ends or somebody asks it to end.
func Main(ctx context.Context, args, environ []string, stdout, stderr io.Writer) error {
	c := DefaultConfig()
	keys, err := config.Keys(&c, EnvPrefix)
	if err != nil {
		return err
	}
	flags := flag.NewFlagSet("terod", flag.ContinueOnError)
	flags.SetOutput(stderr)
	given := map[string]string{}
	file := flags.String("config", lookup(environ, "TERO_CONFIG"), "configuration `file`; "+DefaultFile+" when it is there")
	version := flags.Bool("version", false, "print the version and end")
	describe := flags.Bool("describe-config", false, "print every key with its default, its flag and its variable, and end")
	for _, k := range keys {
		flags.Var(config.NewFlagValue(k, given), k.Flag, k.Help)
	}
	if err := flags.Parse(args); err != nil {
		return fault.New(fault.Invalid, "command line: %w", err).WithHint("\"terod -h\" lists the flags")
	}
	switch {
	case flags.NArg() > 0:
		return fault.New(fault.Invalid, "command line: %q is not a flag", flags.Arg(0)).WithHint("\"terod -h\" lists the flags")
	case *version:
		_, err := fmt.Fprintln(stdout, "terod", buildinfo.Version())
		return err
	case *describe:
		return config.Describe(stdout, &c, EnvPrefix)
	}
	source := config.Source{
		File: *file, EnvPrefix: EnvPrefix, Environ: environ, EnvKnown: clientVariables, Flags: given,
		Help: "\"terod -describe-config\" lists every key",
	}
	if source.File == "" {
		source.File, source.Optional = DefaultFile, true
	}
	if _, err := config.Load(&c, source); err != nil {
		return err
	}
	return Run(ctx, c, newLogger(c, stderr))
}

func lookup(environ []string, name string) string {
	for _, e := range environ {
		if v, ok := strings.CutPrefix(e, name+"="); ok {
			return v
		}
	}
	return ""
}

func newLogger(c Config, w io.Writer) *slog.Logger {
	var level slog.Level
	if err := level.UnmarshalText([]byte(c.LogLevel)); err != nil {
		level = slog.LevelInfo
	}
	o := &slog.HandlerOptions{Level: level}
	if c.LogFormat == "json" {
		return slog.New(slog.NewJSONHandler(w, o))
	}
	return slog.New(slog.NewTextHandler(w, o))
}

// lockState makes the state directory this process's own until the file is
// closed, which the kernel does for a process that is killed.
func lockState(dir string) (*os.File, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fault.New(fault.Invalid, "state directory: %w", err)
	}
	path := filepath.Join(dir, "lock")
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR|syscall.O_CLOEXEC, 0o600) //nolint:gosec // the node's own folder
	if err != nil {
		return nil, fault.New(fault.Invalid, "state directory: %w", err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		_ = f.Close()
		return nil, fault.New(fault.Exists, "another terod uses the state directory %s", dir).
			WithHint("end it with \"tero down\", or give this one a --state-dir and --run-dir of its own")
	}
	return f, nil
}
