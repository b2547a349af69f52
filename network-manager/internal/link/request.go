package link

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// attribute gives an rtnetlink attribute that holds a number.
func attribute(typ uint16, v uint32) []byte {
	b := binary.NativeEndian.AppendUint16(nil, 8)
	b = binary.NativeEndian.AppendUint16(b, typ)
	return binary.NativeEndian.AppendUint32(b, v)
}

// routeRequest sends one request that the netlink library has no words for.
// ENODEV, for nothing to act on, is no error.
func routeRequest(typ netlink.HeaderType, data []byte) error {
	c, err := netlink.Dial(unix.NETLINK_ROUTE, nil)
	if err != nil {
		return fmt.Errorf("route socket: %w", err)
	}
	defer c.Close()
	_, err = c.Execute(netlink.Message{
		Header: netlink.Header{Type: typ, Flags: netlink.Request | netlink.Acknowledge}, Data: data,
	})
	if err != nil && !errors.Is(err, unix.ENODEV) {
		return fmt.Errorf("route request %d: %w", typ, err)
	}
	return nil
}
