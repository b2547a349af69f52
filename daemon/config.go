package daemon

import (
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"tero.internal/common/config"
	"tero.internal/common/spiffeid"
)

// EnvPrefix begins the environment variables that configure a node.
const EnvPrefix = "TERO_"

// DefaultFile is read when it is there and no other file is named.
const DefaultFile = "/etc/tero/terod.yaml"

// Config is how a node is set up. Flags win over TERO_* variables, those over
// the file, and that over the defaults, which are safe and work as they are.
type Config struct {
	NodeName    string `yaml:"nodeName" help:"name of this node in its SPIFFE ID (a DNS label)"`
	TrustDomain string `yaml:"trustDomain" help:"SPIFFE trust domain of the node and its workloads"`

	StateDir string `yaml:"stateDir" help:"folder for what must survive a reboot: images, records, keys, the launch log"`
	RunDir   string `yaml:"runDir" help:"folder for sockets and what ends with the machine's run"`
	Socket   string `yaml:"socket" help:"path of the API's unix socket; RUN_DIR/tero.sock when empty"`
	Address  string `yaml:"address" help:"host:port of the API over mutual TLS; no port is open when empty"`

	TrustDir  string `yaml:"trustDir" help:"folder with images/*.pub and plugins/*.pub, the keys that may sign; STATE_DIR/trust when empty"`
	PolicyDir string `yaml:"policyDir" help:"folder with *.cedar policies; STATE_DIR/policy when empty"`

	TPM string `yaml:"tpm" help:"TPM for the launch log: a character device (/dev/tpmrm0) or the unix socket of a software TPM; a software key (L0) when empty"`

	CgroupParent string `yaml:"cgroupParent" help:"cgroup, below the one terod was started in, that holds the containers' cgroups"`
	Pool         int    `yaml:"pool" help:"how many sandboxes are prepared ahead of launches; 0 for none"`
	InitPath     string `yaml:"initPath" help:"path of tero-init; the one beside terod when empty"`

	Network NetworkConfig `yaml:"network" help:"the container network"`

	LogLevel  string `yaml:"logLevel" help:"least severity that is logged" enum:"debug,info,warn,error"`
	LogFormat string `yaml:"logFormat" help:"form of the log on standard error" enum:"text,json"`
}

// NetworkConfig sets up the Network Manager.
type NetworkConfig struct {
	Pool            netip.Prefix `yaml:"pool" help:"IPv4 addresses of the network \"default\""`
	Table           string       `yaml:"table" help:"name of the node's own nftables table (family inet)"`
	InterfacePrefix string       `yaml:"interfacePrefix" help:"how the names of the host's ends of container links begin (1 to 4 letters)"`
}

// defaultPool is enough for bursts that people and schedulers make, and costs
// about as much memory as one small process of other runtimes.
const defaultPool = 8

// maxPool is what a node can sensibly keep: each prepared sandbox has a range of
// ids, cgroups and namespaces.
const maxPool = 1024

// DefaultConfig gives the defaults.
func DefaultConfig() Config {
	return Config{
		NodeName:     defaultNodeName(),
		TrustDomain:  "tero.local",
		StateDir:     "/var/lib/tero",
		RunDir:       "/run/tero",
		CgroupParent: "tero",
		Pool:         defaultPool,
		Network: NetworkConfig{
			Pool:            netip.MustParsePrefix("10.210.0.0/16"),
			Table:           "quantum",
			InterfacePrefix: "qv",
		},
		LogLevel:  "info",
		LogFormat: "text",
	}
}

var notDNSLabel = regexp.MustCompile(`[^a-z0-9-]+`)

// defaultNodeName is the first label of the host's name, as a DNS label.
func defaultNodeName() string {
	name, err := os.Hostname()
	if err != nil {
		return "node"
	}
	name, _, _ = strings.Cut(strings.ToLower(name), ".")
	name = strings.Trim(notDNSLabel.ReplaceAllString(name, "-"), "-")
	if name == "" {
		return "node"
	}
	return name[:min(len(name), 63)]
}

var (
	dnsLabel        = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$`)
	cgroupName      = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$`)
	nftName         = regexp.MustCompile(`^[a-zA-Z][a-zA-Z0-9_-]{0,30}$`)
	interfacePrefix = regexp.MustCompile(`^[a-z]{1,4}$`)
)

// Validate checks the values and fills those that follow from others.
func (c *Config) Validate() error {
	if !dnsLabel.MatchString(c.NodeName) {
		return config.Wrong("nodeName", "%q is not a DNS label", c.NodeName)
	}
	if _, err := spiffeid.ParseTrustDomain(c.TrustDomain); err != nil {
		return config.Wrong("trustDomain", "%w", err)
	}
	for _, d := range []struct {
		key  string
		path *string
	}{{"stateDir", &c.StateDir}, {"runDir", &c.RunDir}} {
		if !filepath.IsAbs(*d.path) {
			return config.Wrong(d.key, "%q is not an absolute path", *d.path)
		}
		*d.path = filepath.Clean(*d.path)
	}
	if c.Address != "" {
		if _, _, err := net.SplitHostPort(c.Address); err != nil {
			return config.Wrong("address", "%q is not host:port", c.Address)
		}
	}
	if !cgroupName.MatchString(c.CgroupParent) {
		return config.Wrong("cgroupParent", "%q is not a plain folder name", c.CgroupParent)
	}
	if c.Pool < 0 || c.Pool > maxPool {
		return config.Wrong("pool", "%d is not 0 to %d", c.Pool, maxPool)
	}
	if p := c.Network.Pool; !p.Addr().Is4() || p.Bits() > 29 || p != p.Masked() {
		return config.Wrong("network.pool", "%s is not an IPv4 network of /29 or larger, written by its first address", p)
	}
	if !nftName.MatchString(c.Network.Table) {
		return config.Wrong("network.table", "%q is not a name for a table", c.Network.Table)
	}
	if !interfacePrefix.MatchString(c.Network.InterfacePrefix) {
		return config.Wrong("network.interfacePrefix", "%q is not 1 to 4 of a-z", c.Network.InterfacePrefix)
	}
	c.derive()
	return nil
}

// derive fills the paths that follow from others.
func (c *Config) derive() {
	for _, d := range []struct {
		path  *string
		value string
	}{
		{&c.Socket, filepath.Join(c.RunDir, "tero.sock")},
		{&c.TrustDir, filepath.Join(c.StateDir, "trust")},
		{&c.PolicyDir, filepath.Join(c.StateDir, "policy")},
	} {
		if *d.path == "" {
			*d.path = d.value
		}
	}
	if c.InitPath == "" {
		if exe, err := os.Executable(); err == nil {
			c.InitPath = filepath.Join(filepath.Dir(exe), "tero-init")
		}
	}
}
