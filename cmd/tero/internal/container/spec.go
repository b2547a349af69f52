package container

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/spf13/pflag"

	runtimev1 "tero.internal/api/runtime/v1"
	"tero.internal/cmd/tero/internal/grant"
	"tero.internal/cmd/tero/internal/life"
	"tero.internal/cmd/tero/internal/session"
	"tero.internal/common/config"
	"tero.internal/common/fault"
)

// specFlags are the flags of run that describe the container.
type specFlags struct {
	spec       runtimev1.ContainerSpec
	entrypoint string
	labels     []string
	logOpts    []string
	cpus       string
	memory     string
	security   []string
	grants     grant.Flags
	life       life.Flags
}

func (o *specFlags) add(f *pflag.FlagSet) {
	f.StringVar(&o.spec.Name, "name", "", "name, a DNS label (made up when empty)")
	f.StringVar(&o.entrypoint, "entrypoint", "", "program to run instead of the image's entrypoint")
	f.StringArrayVarP(&o.spec.Env, "env", "e", nil, "KEY=value, or KEY for this environment's value")
	f.StringArrayVarP(&o.labels, "label", "l", nil, "KEY=value; segments and policies select by labels")
	f.StringVarP(&o.spec.WorkingDir, "workdir", "w", "", "working directory (the image's)")
	f.StringVarP(&o.spec.User, "user", "u", "", "uid[:gid] or name[:group] (the image's)")
	f.StringVar(&o.spec.Hostname, "hostname", "", "host name (the container's name)")
	f.BoolVarP(&o.spec.Terminal, "tty", "t", false, "give the container a terminal")
	f.BoolVarP(&o.spec.OpenStdin, "interactive", "i", false, "pass standard input on")
	f.BoolVar(&o.spec.AutoRemove, "rm", false, "remove the container when it has exited")
	f.StringVar(&o.cpus, "cpus", "", "most cores, such as 0.5")
	f.StringVarP(&o.memory, "memory", "m", "", "most memory, such as 64MiB")
	f.Int64Var(&o.spec.Pids, "pids-limit", 0, "most processes and threads (1024)")
	f.StringVar(&o.spec.Network, "network", "", "network to join, or none (default)")
	f.StringVar(&o.spec.StopSignal, "stop-signal", "", "signal that stop sends (the image's, else SIGTERM)")
	f.StringVar(&o.spec.MinLevel, "min-level", "", "least assurance level that the node must have: L0 to L3")
	f.StringArrayVar(&o.logOpts, "log-opt", nil, "max-size=SIZE of a log file (16MiB), or max-file=N files that are kept (3)")
	f.StringArrayVar(&o.spec.CapAdd, "cap-add", nil, "capability to keep; loosens the sandbox")
	f.StringArrayVar(&o.security, "security-opt", nil, securityHelp)
	f.StringVar(&o.spec.Isolation, "isolation", "", "isolation class (the node's: native)")
	f.BoolVar(&o.spec.WritableRootfs, "writable", false, "let the container write to its file system; loosens the sandbox")
	o.grants.Add(f)
	o.life.Add(f)
}

// build gives the spec that the flags and arguments describe.
func (o *specFlags) build(args []string, getenv func(string) string) (*runtimev1.ContainerSpec, error) {
	spec := &o.spec
	spec.Image, spec.Args = args[0], args[1:]
	if o.entrypoint != "" {
		spec.Entrypoint = []string{o.entrypoint}
	}
	var err error
	if spec.Env, err = environment(spec.GetEnv(), getenv); err != nil {
		return nil, err
	}
	if spec.Labels, err = session.Pairs("--label", o.labels); err != nil {
		return nil, err
	}
	if err := secure(spec, o.security); err != nil {
		return nil, err
	}
	if o.cpus != "" {
		if spec.MilliCpu, err = life.MilliCPU(o.cpus); err != nil {
			return nil, err
		}
	}
	if o.memory != "" {
		size, err := config.ParseSize(o.memory)
		if err != nil {
			return nil, fault.New(fault.Invalid, "--memory %q: %w", o.memory, err)
		}
		spec.MemoryBytes = int64(size)
	}
	if err := logLimits(spec, o.logOpts); err != nil {
		return nil, err
	}
	if err := o.grants.Apply(spec); err != nil {
		return nil, err
	}
	for i, c := range spec.GetCapAdd() {
		c = strings.ToUpper(c)
		if !strings.HasPrefix(c, "CAP_") {
			c = "CAP_" + c
		}
		spec.CapAdd[i] = c
	}
	if err := o.life.Build(spec); err != nil {
		return nil, err
	}
	if sig := strings.ToUpper(spec.GetStopSignal()); sig != "" {
		spec.StopSignal = signalName(sig)
	}
	return spec, nil
}

// logLimits reads --log-opt, as Docker's json-file driver takes it.
func logLimits(spec *runtimev1.ContainerSpec, options []string) error {
	for _, o := range options {
		key, value, _ := strings.Cut(o, "=")
		switch key {
		case "max-size":
			size, err := config.ParseSize(value)
			if err != nil || size <= 0 {
				return fault.New(fault.Invalid, "--log-opt %s: %q is not a size such as 10MiB", key, value)
			}
			spec.LogMaxBytes = int64(size)
		case "max-file":
			n, err := strconv.ParseInt(value, 10, 32)
			if err != nil || n < 1 {
				return fault.New(fault.Invalid, "--log-opt %s: %q is not a number of files", key, value)
			}
			spec.LogMaxFiles = int32(n)
		default:
			return fault.New(fault.Invalid, "--log-opt %q is not known", o).WithHint("there are max-size=SIZE and max-file=N")
		}
	}
	return nil
}

// environment fills in entries that name a variable only.
func environment(entries []string, getenv func(string) string) ([]string, error) {
	out := make([]string, 0, len(entries))
	for _, e := range entries {
		key, _, given := strings.Cut(e, "=")
		if key == "" {
			return nil, fault.New(fault.Invalid, "--env %q is neither KEY=value nor KEY", e)
		}
		if !given {
			e = key + "=" + getenv(key)
		}
		out = append(out, e)
	}
	return out, nil
}

// signalName gives what people call a signal ("term", "15", "SIGTERM") the
// form that the API takes.
func signalName(s string) string {
	s = strings.ToUpper(s)
	if _, err := strconv.Atoi(s); err == nil || s == "" || strings.HasPrefix(s, "SIG") {
		return s
	}
	return fmt.Sprintf("SIG%s", s)
}
