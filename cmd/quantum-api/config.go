package main

import (
	"flag"
	"fmt"
	"io"
	"net"
	"net/netip"
	"path/filepath"
	"strings"
	"time"

	"tero.internal/common/buildinfo"
	"tero.internal/common/config"
	"tero.internal/common/fault"
)

const (
	envPrefix   = "QUANTUM_"
	defaultFile = "/etc/quantum/quantum-api.yaml"
)

// settings are how quantum-api is set up. Flags win over QUANTUM_* variables,
// those over the file, and that over the defaults.
type settings struct {
	StateDir  string `yaml:"stateDir" help:"folder for what must survive a reboot: networks, segments, leases"`
	RunDir    string `yaml:"runDir" help:"folder for sockets and what ends with the machine's run"`
	Socket    string `yaml:"socket" help:"path of the API's unix socket; RUN_DIR/api.sock when empty"`
	CNISocket string `yaml:"cniSocket" help:"path of the socket for quantum-cni; RUN_DIR/cni.sock when empty" env:"CNI_SOCKET"`
	Address   string `yaml:"address" help:"host:port of the API over mutual TLS; no port is open when empty"`

	TLS struct {
		Certificate string   `yaml:"certificate" help:"PEM file with the API's certificate and its chain"`
		Key         string   `yaml:"key" help:"PEM file with the certificate's private key"`
		ClientCA    string   `yaml:"clientCA" help:"PEM file with the authorities of callers' certificates"`
		Callers     []string `yaml:"callers" help:"SPIFFE IDs that may call over mutual TLS"`
	} `yaml:"tls" help:"mutual TLS for address"`

	Pool            netip.Prefix  `yaml:"pool" help:"IPv4 addresses of the network \"default\""`
	Table           string        `yaml:"table" help:"name of the nftables table, in family inet"`
	InterfacePrefix string        `yaml:"interfacePrefix" help:"how the names of the host's ends of container links begin (1 to 5 letters)"`
	MTU             int           `yaml:"mtu" help:"largest packet on the containers' interfaces"`
	Grace           time.Duration `yaml:"grace" help:"how long an address rests after use"`
	LogLevel        string        `yaml:"logLevel" help:"least severity that is logged" enum:"debug,info,warn,error"`
}

func defaults() settings {
	return settings{
		StateDir: "/var/lib/quantum", RunDir: "/run/quantum", Pool: netip.MustParsePrefix("10.210.0.0/16"),
		Table: "quantum", InterfacePrefix: "qv", MTU: 1500, Grace: time.Minute, LogLevel: "info",
	}
}

// Validate checks the values and fills those that follow from others. What the
// manager checks itself is left to it.
func (s *settings) Validate() error {
	if s.Socket == "" {
		s.Socket = filepath.Join(s.RunDir, "api.sock")
	}
	if s.CNISocket == "" {
		s.CNISocket = filepath.Join(s.RunDir, "cni.sock")
	}
	if s.Address == "" {
		return nil
	}
	if _, _, err := net.SplitHostPort(s.Address); err != nil {
		return config.Wrong("address", "%q is not host:port", s.Address)
	}
	for key, v := range map[string]string{"tls.certificate": s.TLS.Certificate, "tls.key": s.TLS.Key, "tls.clientCA": s.TLS.ClientCA} {
		if v == "" {
			return config.Wrong(key, "must be set for address: there is no API without mutual TLS")
		}
	}
	if len(s.TLS.Callers) == 0 {
		return config.Wrong("tls.callers", "must be set for address: nobody could call otherwise")
	}
	return nil
}

// configure reads flags, environment and file. Done is true when the flags
// asked for something that has been printed.
func configure(args, environ []string, stdout, stderr io.Writer) (s settings, done bool, err error) {
	s = defaults()
	keys, err := config.Keys(&s, envPrefix)
	if err != nil {
		return s, false, err
	}
	flags := flag.NewFlagSet("quantum-api", flag.ContinueOnError)
	flags.SetOutput(stderr)
	given := map[string]string{}
	file := flags.String("config", environment(environ, "QUANTUM_CONFIG"), "configuration `file`; "+defaultFile+" when it is there")
	version := flags.Bool("version", false, "print the version and end")
	describe := flags.Bool("describe-config", false, "print every key with its default, its flag and its variable, and end")
	for _, k := range keys {
		flags.Var(config.NewFlagValue(k, given), k.Flag, k.Help)
	}
	if err := flags.Parse(args); err != nil {
		return s, false, fault.New(fault.Invalid, "command line: %w", err).WithHint("\"quantum-api -h\" lists the flags")
	}
	switch {
	case flags.NArg() > 0:
		return s, false, fault.New(fault.Invalid, "command line: %q is not a flag", flags.Arg(0)).WithHint("\"quantum-api -h\" lists the flags")
	case *version:
		_, err := fmt.Fprintln(stdout, "quantum-api", buildinfo.Version())
		return s, true, err
	case *describe:
		return s, true, config.Describe(stdout, &s, envPrefix)
	}
	source := config.Source{
		File: *file, EnvPrefix: envPrefix, Environ: environ, EnvKnown: []string{"QUANTUM_CONFIG"}, Flags: given,
		Help: "\"quantum-api -describe-config\" lists every key",
	}
	if source.File == "" {
		source.File, source.Optional = defaultFile, true
	}
	_, err = config.Load(&s, source)
	return s, false, err
}

func environment(environ []string, name string) string {
	for _, e := range environ {
		if v, ok := strings.CutPrefix(e, name+"="); ok {
			return v
		}
	}
	return ""
}
