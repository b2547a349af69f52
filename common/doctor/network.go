package doctor

import (
	"context"
	"os"
	"runtime"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// networkChecks try everything in a network namespace of their own, which goes
// with the thread that made it.
func networkChecks(ctx context.Context) []Check {
	done := make(chan []Check, 1)
	go func() { done <- inThrowAwayNetwork(ctx) }()
	return <-done
}

func inThrowAwayNetwork(context.Context) []Check {
	namespace := check("network", "throw-away namespace", "one for each container; and the checks below are made in one")
	failed := func(err error) []Check {
		return []Check{namespace.missing("run it with sudo", "%s", reason(err))}
	}
	runtime.LockOSThread()
	home, err := unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		runtime.UnlockOSThread()
		return failed(err)
	}
	defer func() { _ = unix.Close(home) }()
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		runtime.UnlockOSThread()
		return failed(err)
	}
	defer func() {
		// A thread that cannot come home stays locked, and ends with this goroutine.
		if unix.Setns(home, unix.CLONE_NEWNET) == nil {
			runtime.UnlockOSThread()
		}
	}()
	return []Check{
		namespace.ok("yes"),
		check("network", "nftables", "default deny, segments and address translation").
			try(makeRule(false), "a rule was made", "load the module: modprobe nf_tables; or use a kernel with CONFIG_NF_TABLES"),
		check("network", "nflog", "flow logs that name what was refused").
			try(makeRule(true), "a rule that logs was made", "load the modules: modprobe nfnetlink_log nft_log"),
		check("network", "veth", "the cable between a container and the host").
			try(addLink(&netlink.Veth{LinkAttrs: attrs("tero0"), PeerName: "tero1"}), "a pair was made", "load the module: modprobe veth"),
		check("network", "bridge", "networks that other engines' containers join").
			try(addLink(&netlink.Bridge{LinkAttrs: attrs("tero2")}), "one was made", "load the module: modprobe bridge"),
		wireguardCheck(),
	}
}

func attrs(name string) netlink.LinkAttrs {
	a := netlink.NewLinkAttrs()
	a.Name = name
	return a
}

// addLink makes a link in the namespace of this thread.
func addLink(link netlink.Link) error { return netlink.LinkAdd(link) }

// makeRule makes a table with a chain and one rule in the namespace of this thread.
func makeRule(log bool) error {
	conn, err := nftables.New()
	if err != nil {
		return err
	}
	table := conn.AddTable(&nftables.Table{Name: "tero-doctor", Family: nftables.TableFamilyINet})
	policy := nftables.ChainPolicyDrop
	chain := conn.AddChain(&nftables.Chain{
		Name: "probe", Table: table, Type: nftables.ChainTypeFilter,
		Hooknum: nftables.ChainHookForward, Priority: nftables.ChainPriorityFilter, Policy: &policy,
	})
	exprs := []expr.Any{&expr.Counter{}}
	if log {
		exprs = append(exprs, &expr.Log{Key: 1 << unix.NFTA_LOG_GROUP, Group: 1})
	}
	conn.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: exprs})
	return conn.Flush()
}

// wireguardCheck looks for the kernel's WireGuard, and for what a userspace one needs.
func wireguardCheck() Check {
	c := check("network", "WireGuard", "encrypted links between nodes")
	if err := addLink(&netlink.Wireguard{LinkAttrs: attrs("tero3")}); err == nil {
		return c.ok("in the kernel")
	}
	const hint = "load the module for more speed: modprobe wireguard"
	f, err := os.OpenFile("/dev/net/tun", os.O_RDWR, 0)
	if err != nil {
		return c.missing(hint+"; or give the node /dev/net/tun", "neither in the kernel nor a tun device for a userspace one")
	}
	_ = f.Close()
	return c.warn(hint, "not in the kernel; a userspace one can use /dev/net/tun")
}
