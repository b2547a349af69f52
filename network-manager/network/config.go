package network

import (
	"hash/fnv"
	"log/slog"
	"net/netip"
	"regexp"
	"time"

	"tero.internal/common/eventbus"
	"tero.internal/common/fault"
)

// Config says where a manager keeps its state and how it names things in the
// kernel. Two managers in one network namespace need different tables and
// prefixes.
type Config struct {
	// StateDir is on disk: networks, segments, leases.
	StateDir string
	// RunDir is on a tmpfs that a reboot empties: the journal of endpoints.
	RunDir string
	// Pool is the prefix of the network "default"; 10.210.0.0/16 when not set.
	Pool netip.Prefix
	// Table is the nftables table, in family inet; "quantum" when empty.
	Table string
	// InterfacePrefix begins the node's interface names, at most 5 characters;
	// "qv" when empty.
	InterfacePrefix string
	// MTU of the interfaces; 1500 when 0.
	MTU int
	// Grace is how long an address rests after use; a minute when 0.
	Grace time.Duration
	// Bus gets the facts: flow.denied, endpoint.attached, segment.applied, ...
	Bus *eventbus.Bus
	// Log gets what an operator should know; discarded when nil.
	Log *slog.Logger
}

var prefixPattern = regexp.MustCompile(`^[a-z][a-z0-9]{0,4}$`)

func (c Config) complete() (Config, error) {
	if c.StateDir == "" || c.RunDir == "" {
		return c, fault.New(fault.Invalid, "the network manager needs a state folder and a run folder")
	}
	if !c.Pool.IsValid() {
		c.Pool = netip.MustParsePrefix("10.210.0.0/16")
	}
	if c.Table == "" {
		c.Table = "quantum"
	}
	if c.InterfacePrefix == "" {
		c.InterfacePrefix = "qv"
	}
	if !prefixPattern.MatchString(c.InterfacePrefix) {
		return c, fault.New(fault.Invalid, "interface prefix %q is not 1 to 5 of a-z, 0-9, beginning with a letter", c.InterfacePrefix)
	}
	if c.MTU == 0 {
		c.MTU = 1500
	}
	if c.MTU < 576 || c.MTU > 65535 {
		return c, fault.New(fault.Invalid, "MTU %d is not from 576 to 65535", c.MTU)
	}
	if c.Grace == 0 {
		c.Grace = time.Minute
	}
	if c.Bus == nil {
		c.Bus = &eventbus.Bus{}
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	return c, nil
}

// group is the IFLA_GROUP of the interfaces: even, so that the doomed one beside
// it is nobody else's, and away from the small numbers that people choose.
func (c Config) group() uint32 {
	h := fnv.New32a()
	_, _ = h.Write([]byte(c.InterfacePrefix))
	return (h.Sum32()&0x3ffffffe | 0x10000)
}

// logGroup is the nflog group. 0 is the kernel's default, 1 that of ulogd.
func (c Config) logGroup() uint16 {
	h := fnv.New32a()
	_, _ = h.Write([]byte(c.Table))
	return uint16(h.Sum32()%0xf000) + 0x100
}
