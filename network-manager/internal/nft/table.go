// Package nft keeps the one nftables table that enforces what containers may
// do. The verdict on each packet is one lookup in a set, whatever the number
// of rules, in both directions, so that taking an element away stops flows
// that are open:
//
//	prerouting  the interface's own MAC and address?    no: spoofed, dropped
//	forward     original: mark(source) . daddr . proto . dport in @allow4?
//	            reply:    mark(destination) . saddr . proto . sport in @allow4?
//	input       from a container to the node: DNS on the gateway, else dropped
//
// Interfaces are matched by their group, which they are born with, so that one
// that no element names yet can send nothing.
package nft

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/userdata"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"tero.internal/common/fault"
)

// Table flags of nf_tables.h that x/sys does not name: only the socket that
// owns a table may change it (nft flush ruleset leaves it alone), and it stays
// when that socket is closed (Linux 6.9).
const (
	flagOwner   = 0x2
	flagPersist = 0x4
)

// patience bounds the wait for the kernel's answer to a transaction.
const patience = 10 * time.Second

// Config names the table and what it matches.
type Config struct {
	// Name of the table, in family inet.
	Name string
	// Group is the IFLA_GROUP of the containers' interfaces; Group+1 is that
	// of interfaces which are about to be removed.
	Group uint32
	// LogGroup is the nflog group that packets are told to.
	LogGroup uint16
}

// Table is the table. Its methods may be called concurrently.
type Table struct {
	config Config
	table  *nftables.Table

	spoof, ids, allow, echo, gateways *nftables.Set

	mu    sync.Mutex // guards conn and owned
	conn  *nftables.Conn
	nl    *netlink.Conn
	owned bool
}

// Open makes the table, or adopts the one that an earlier process left, and
// owns it where the kernel can. It enforces nothing new until Replace.
func Open(c Config) (*Table, error) {
	t := &Table{config: c, table: &nftables.Table{Name: c.Name, Family: nftables.TableFamilyINet}}
	t.declare()
	if err := t.connect(); err != nil {
		return nil, err
	}
	return t, nil
}

// declare names the sets. The types are nft's own, so that nft can list them.
func (t *Table) declare() {
	concat := nftables.MustConcatSetType
	t.spoof = &nftables.Set{
		Table: t.table, Name: "spoof4", Concatenation: true,
		KeyType: concat(nftables.TypeIFIndex, nftables.TypeEtherAddr, nftables.TypeIPAddr),
	}
	t.ids = &nftables.Set{
		Table: t.table, Name: "id4", IsMap: true, KeyType: nftables.TypeIPAddr, DataType: nftables.TypeMark,
	}
	t.allow = &nftables.Set{
		Table: t.table, Name: "allow4", Concatenation: true,
		KeyType: concat(nftables.TypeMark, nftables.TypeIPAddr, nftables.TypeInetProto, nftables.TypeInetService),
	}
	t.echo = &nftables.Set{
		Table: t.table, Name: "echo4", Concatenation: true,
		KeyType: concat(nftables.TypeMark, nftables.TypeIPAddr),
	}
	t.gateways = &nftables.Set{Table: t.table, Name: "gateways4", KeyType: nftables.TypeIPAddr}
}

// connect opens the socket and owns the table by it.
func (t *Table) connect() error {
	err := t.dial(flagOwner | flagPersist)
	if t.owned = err == nil; !t.owned && (errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.EINVAL)) {
		err = t.dial(0) // a kernel before 6.9, or a table that one made
	}
	switch {
	case err == nil:
		return nil
	case errors.Is(err, unix.EPERM) && os.Geteuid() != 0:
		return fault.New(fault.Denied, "nftables table inet %s: %w", t.config.Name, err).WithHint("run as root")
	case errors.Is(err, unix.EPERM):
		return fault.New(fault.Exists, "nftables table inet %s is owned by another process: %w", t.config.Name, err).
			WithHint("end the other node on this machine, or give this one a table of its own")
	}
	return fmt.Errorf("nftables table inet %s: %w", t.config.Name, err)
}

// dial makes the table on a new socket. Each try needs its own: a kernel that
// refuses the table has a second answer under way, about the set in it.
func (t *Table) dial(flags uint32) error {
	conn, err := nftables.New(nftables.AsLasting(), nftables.WithSockOptions(func(c *netlink.Conn) error {
		t.nl = c
		// A transaction answers each of its messages; the default buffers
		// overflow at some hundred, and the kernel says ENOBUFS though it committed.
		return errors.Join(c.SetReadBuffer(16<<20), c.SetWriteBuffer(16<<20))
	}))
	if err != nil {
		return fmt.Errorf("netfilter socket: %w", err)
	}
	t.conn = conn
	if err := t.own(flags); err != nil {
		return errors.Join(err, conn.CloseLasting())
	}
	return nil
}

// own creates or adopts the table with flags, and the identity map in it. The
// library always sends flags 0, which the kernel refuses for an owned table, and
// cannot say in which byte order a map's values are, without which nft lists
// them wrongly; so these messages are made here.
func (t *Table) own(flags uint32) error {
	table, err := netlink.MarshalAttributes([]netlink.Attribute{
		{Type: unix.NFTA_TABLE_NAME, Data: cstring(t.config.Name)},
		{Type: unix.NFTA_TABLE_FLAGS, Data: big(flags)},
	})
	if err != nil {
		return err
	}
	order := userdata.AppendUint32(nil, userdata.NFTNL_UDATA_SET_KEYBYTEORDER, byteOrderBig)
	order = userdata.AppendUint32(order, userdata.NFTNL_UDATA_SET_DATABYTEORDER, byteOrderHost)
	ids, err := netlink.MarshalAttributes([]netlink.Attribute{
		{Type: unix.NFTA_SET_TABLE, Data: cstring(t.config.Name)},
		{Type: unix.NFTA_SET_NAME, Data: cstring(t.ids.Name)},
		{Type: unix.NFTA_SET_FLAGS, Data: big(unix.NFT_SET_MAP)},
		{Type: unix.NFTA_SET_KEY_TYPE, Data: big(t.ids.KeyType.GetNFTMagic())},
		{Type: unix.NFTA_SET_KEY_LEN, Data: big(t.ids.KeyType.Bytes)},
		{Type: unix.NFTA_SET_DATA_TYPE, Data: big(t.ids.DataType.GetNFTMagic())},
		{Type: unix.NFTA_SET_DATA_LEN, Data: big(t.ids.DataType.Bytes)},
		{Type: unix.NFTA_SET_ID, Data: big(1)},
		{Type: unix.NFTA_SET_USERDATA, Data: order},
	})
	if err != nil {
		return err
	}
	if err := t.nl.SetReadDeadline(time.Now().Add(patience)); err != nil {
		return err
	}
	if _, err := t.nl.SendMessages([]netlink.Message{
		message(unix.NFNL_MSG_BATCH_BEGIN, netlink.Request, 0, unix.NFNL_SUBSYS_NFTABLES, nil),
		message(unix.NFNL_SUBSYS_NFTABLES<<8|unix.NFT_MSG_NEWTABLE, netlink.Request|netlink.Acknowledge|netlink.Create, unix.NFPROTO_INET, 0, table),
		message(unix.NFNL_SUBSYS_NFTABLES<<8|unix.NFT_MSG_NEWSET, netlink.Request|netlink.Acknowledge|netlink.Create, unix.NFPROTO_INET, 0, ids),
		message(unix.NFNL_MSG_BATCH_END, netlink.Request, 0, unix.NFNL_SUBSYS_NFTABLES, nil),
	}); err != nil {
		return err
	}
	if _, err = t.nl.Receive(); err != nil { // the table's answer, or the only one
		return err
	}
	_, err = t.nl.Receive()
	return err
}

// The byte orders of libnftnl's user data (nftables, include/datatype.h).
const (
	byteOrderHost = 1
	byteOrderBig  = 2
)

// message makes a message of nfnetlink.h: a header of family, version and resource.
func message(typ netlink.HeaderType, flags netlink.HeaderFlags, family byte, resource uint16, attributes []byte) netlink.Message {
	data := binary.BigEndian.AppendUint16([]byte{family, unix.NFNETLINK_V0}, resource)
	return netlink.Message{Header: netlink.Header{Type: typ, Flags: flags}, Data: append(data, attributes...)}
}

func big(v uint32) []byte     { return binary.BigEndian.AppendUint32(nil, v) }
func cstring(s string) []byte { return append([]byte(s), 0) }

// Owned tells whether only this process can change the table.
func (t *Table) Owned() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.owned
}

// Replace makes the table hold the rules and exactly the elements of c, in one
// transaction: packets meet the whole old table or the whole new one.
func (t *Table) Replace(c Change) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if err := t.nl.SetReadDeadline(time.Now().Add(patience)); err != nil {
		return fmt.Errorf("netfilter socket: %w", err)
	}
	if err := t.clear(); err != nil {
		return err
	}
	t.conn.FlushSet(t.ids) // made by own
	for _, s := range []*nftables.Set{t.spoof, t.allow, t.echo, t.gateways} {
		s.ID = 0 // a new number for a new set
		if err := t.conn.AddSet(s, nil); err != nil {
			return t.fail("replace", err)
		}
	}
	if err := t.put(c); err != nil {
		return t.fail("replace", err)
	}
	t.addChains()
	return t.commit("replace")
}

// clear removes what the table holds now, as part of the transaction.
func (t *Table) clear() error {
	chains, err := t.conn.ListChainsOfTableFamily(nftables.TableFamilyINet)
	if err != nil {
		return fmt.Errorf("list nftables chains: %w", err)
	}
	sets, err := t.conn.GetSets(t.table)
	if err != nil {
		return fmt.Errorf("list nftables sets: %w", err)
	}
	t.conn.FlushTable(t.table)
	for _, c := range chains {
		if c.Table.Name == t.config.Name {
			t.conn.DelChain(c)
		}
	}
	for _, s := range sets {
		if !s.Anonymous && s.Name != t.ids.Name {
			s.Table = t.table
			t.conn.DelSet(s)
		}
	}
	return nil
}

func (t *Table) addChains() {
	for _, c := range t.chains() {
		nc := &nftables.Chain{Name: c.name, Table: t.table}
		if c.hook != nil {
			policy := nftables.ChainPolicyAccept // packets of others are not ours to judge
			nc.Hooknum, nc.Priority, nc.Type, nc.Policy = c.hook, c.priority, nftables.ChainTypeFilter, &policy
		}
		t.conn.AddChain(nc)
		for _, r := range c.rules {
			t.conn.AddRule(&nftables.Rule{Table: t.table, Chain: nc, Exprs: r})
		}
	}
}

// Apply changes elements, all or none.
func (t *Table) Apply(c Change) error {
	if c.Empty() {
		return nil
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if err := t.put(c); err != nil {
		return t.fail("apply", err)
	}
	return t.commit("apply")
}

// commit sends the transaction. The caller holds mu.
func (t *Table) commit(what string) error {
	if err := t.nl.SetReadDeadline(time.Now().Add(patience)); err != nil {
		return fmt.Errorf("netfilter socket: %w", err)
	}
	if err := t.conn.Flush(); err != nil {
		return t.fail(what, err)
	}
	return nil
}

// fail drops a transaction that did not come through. Answers to it may still
// be under way; a fresh socket has none, and adopts the table that the old one
// leaves. The caller holds mu.
func (t *Table) fail(what string, err error) error {
	err = fmt.Errorf("nftables table inet %s: %s: %w", t.config.Name, what, err)
	_ = t.conn.CloseLasting()
	if again := t.connect(); again != nil {
		return errors.Join(err, again)
	}
	return err
}

// Delete removes the table: nothing is enforced any more.
func (t *Table) Delete() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.conn.DelTable(t.table)
	return t.commit("delete")
}

// Close lets go of the table, which stays in force.
func (t *Table) Close() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if err := t.conn.CloseLasting(); err != nil {
		return fmt.Errorf("netfilter socket: %w", err)
	}
	return nil
}
