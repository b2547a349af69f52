// Package nflog reads the packets that the firewall tells about
// (nfnetlink_log, uapi/linux/netfilter/nfnetlink_log.h).
package nflog

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// Packet is what the log says of one packet.
type Packet struct {
	// Prefix is the log rule's.
	Prefix string
	// In is the index of the interface that it came in by.
	In uint32
	// Source and Destination are not valid when there was no whole IP header.
	Source, Destination netip.Addr
	Protocol            uint8
	// SourcePort and DestinationPort are 0 for protocols without ports, and
	// for fragments after the first.
	SourcePort, DestinationPort uint16
}

// Reader receives from one group.
type Reader struct{ conn *netlink.Conn }

const (
	subsystem   = unix.NFNL_SUBSYS_ULOG
	msgPacket   = subsystem << 8
	msgConfig   = subsystem<<8 | 1
	cfgCommand  = 1
	cfgMode     = 2
	cfgTimeout  = 4
	bind        = 1
	copyPacket  = 2
	copyBytes   = 96
	attrPrefix  = 10
	attrPayload = 9
	attrIn      = 4
)

// Open binds a group of this network namespace. One reader can have a group.
func Open(group uint16) (*Reader, error) {
	c, err := netlink.Dial(unix.NETLINK_NETFILTER, nil)
	if err != nil {
		return nil, fmt.Errorf("nflog socket: %w", err)
	}
	_ = c.SetReadBuffer(4 << 20) // more room for bursts; the default works too
	for _, a := range []netlink.Attribute{
		{Type: cfgCommand, Data: []byte{bind}},
		{Type: cfgMode, Data: []byte{0, 0, 0, copyBytes, copyPacket, 0}},
		{Type: cfgTimeout, Data: binary.BigEndian.AppendUint32(nil, 1)}, // tell within 10 ms
	} {
		if err := configure(c, group, a); err != nil {
			_ = c.Close()
			return nil, fmt.Errorf("nflog group %d: %w", group, err)
		}
	}
	return &Reader{conn: c}, nil
}

func configure(c *netlink.Conn, group uint16, a netlink.Attribute) error {
	attributes, err := netlink.MarshalAttributes([]netlink.Attribute{a})
	if err != nil {
		return err
	}
	header := binary.BigEndian.AppendUint16([]byte{unix.AF_UNSPEC, unix.NFNETLINK_V0}, group)
	if err := c.SetReadDeadline(time.Now().Add(5 * time.Second)); err != nil {
		return err
	}
	if _, err := c.Send(netlink.Message{
		Header: netlink.Header{Type: msgConfig, Flags: netlink.Request | netlink.Acknowledge},
		Data:   append(header, attributes...),
	}); err != nil {
		return err
	}
	if _, err := c.Receive(); err != nil {
		return err
	}
	return c.SetReadDeadline(time.Time{})
}

// Close ends Next.
func (r *Reader) Close() error { return r.conn.Close() }

// Next waits for packets. Lost is true when the kernel had more than the
// buffer holds. An error ends the reader.
func (r *Reader) Next() (packets []Packet, lost bool, err error) {
	messages, err := r.conn.Receive()
	if errors.Is(err, unix.ENOBUFS) {
		return nil, true, nil
	}
	if err != nil {
		return nil, false, fmt.Errorf("nflog: %w", err)
	}
	for _, m := range messages {
		if m.Header.Type != msgPacket {
			continue
		}
		if p, err := Parse(m.Data); err == nil {
			packets = append(packets, p)
		}
	}
	return packets, false, nil
}

// Parse reads the body of a packet message.
func Parse(b []byte) (Packet, error) {
	if len(b) < 4 {
		return Packet{}, errors.New("nflog message without header")
	}
	d, err := netlink.NewAttributeDecoder(b[4:])
	if err != nil {
		return Packet{}, fmt.Errorf("nflog message: %w", err)
	}
	d.ByteOrder = binary.BigEndian
	var p Packet
	for d.Next() {
		switch d.Type() {
		case attrPrefix:
			p.Prefix = strings.TrimRight(string(d.Bytes()), "\x00")
		case attrIn:
			p.In = d.Uint32()
		case attrPayload:
			p.parse(d.Bytes())
		}
	}
	if err := d.Err(); err != nil {
		return Packet{}, fmt.Errorf("nflog message: %w", err)
	}
	return p, nil
}

// parse reads an IPv4 (RFC 791) or IPv6 (RFC 8200) header and the ports behind it.
func (p *Packet) parse(b []byte) {
	if len(b) == 0 {
		return
	}
	var rest []byte
	switch b[0] >> 4 {
	case 4:
		length := int(b[0]&0xf) * 4
		if length < 20 || len(b) < length {
			return
		}
		p.Source, p.Destination = netip.AddrFrom4([4]byte(b[12:16])), netip.AddrFrom4([4]byte(b[16:20]))
		p.Protocol = b[9]
		if binary.BigEndian.Uint16(b[6:])&0x1fff != 0 { // a later fragment has no ports
			return
		}
		rest = b[length:]
	case 6:
		if len(b) < 40 {
			return
		}
		p.Source, p.Destination = netip.AddrFrom16([16]byte(b[8:24])), netip.AddrFrom16([16]byte(b[24:40]))
		p.Protocol = b[6]
		rest = b[40:]
	default:
		return
	}
	switch p.Protocol {
	case unix.IPPROTO_TCP, unix.IPPROTO_UDP, unix.IPPROTO_SCTP:
		if len(rest) >= 4 {
			p.SourcePort, p.DestinationPort = binary.BigEndian.Uint16(rest), binary.BigEndian.Uint16(rest[2:])
		}
	}
}
