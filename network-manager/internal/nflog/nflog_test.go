package nflog

import (
	"encoding/binary"
	"net/netip"
	"testing"

	"github.com/mdlayher/netlink"

	"tero.internal/network-manager/internal/nettest"
)

func TestMain(m *testing.M) { nettest.Main(m) }

// message makes the body of a packet message.
func message(t testing.TB, prefix string, payload []byte) []byte {
	t.Helper()
	b, err := netlink.MarshalAttributes([]netlink.Attribute{
		{Type: attrPrefix, Data: append([]byte(prefix), 0)},
		{Type: attrIn, Data: binary.BigEndian.AppendUint32(nil, 7)},
		{Type: attrPayload, Data: payload},
	})
	if err != nil {
		t.Fatal(err)
	}
	return append([]byte{2, 0, 0, 5}, b...)
}

var tcp = []byte{0x45, 0, 0, 40, 0, 0, 0, 0, 64, 6, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2, 0x30, 0x39, 0x1f, 0x90}

func TestParse(t *testing.T) {
	a, b := netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("10.0.0.2")
	fragment := append([]byte(nil), tcp...)
	fragment[7] = 1
	options := append(append([]byte{0x46}, tcp[1:20]...), append([]byte{1, 1, 1, 1}, tcp[20:]...)...)
	six := append([]byte{0x60, 0, 0, 0, 0, 8, 17, 64}, make([]byte, 32)...)
	six = append(six, 0, 68, 0, 67)
	for name, c := range map[string]struct {
		payload []byte
		want    Packet
	}{
		"tcp":      {tcp, Packet{Prefix: "denied", In: 7, Source: a, Destination: b, Protocol: 6, SourcePort: 12345, DestinationPort: 8080}},
		"options":  {options, Packet{Prefix: "denied", In: 7, Source: a, Destination: b, Protocol: 6, SourcePort: 12345, DestinationPort: 8080}},
		"fragment": {fragment, Packet{Prefix: "denied", In: 7, Source: a, Destination: b, Protocol: 6}},
		"cut off":  {tcp[:22], Packet{Prefix: "denied", In: 7, Source: a, Destination: b, Protocol: 6}},
		"no IP":    {tcp[:19], Packet{Prefix: "denied", In: 7}},
		"ipv6":     {six, Packet{Prefix: "denied", In: 7, Source: netip.IPv6Unspecified(), Destination: netip.IPv6Unspecified(), Protocol: 17, SourcePort: 68, DestinationPort: 67}},
	} {
		if got, err := Parse(message(t, "denied", c.payload)); err != nil || got != c.want {
			t.Errorf("%s: %+v %v, want %+v", name, got, err, c.want)
		}
	}
	if _, err := Parse([]byte{1}); err == nil {
		t.Error("a message without header was parsed")
	}
}

func FuzzParse(f *testing.F) {
	f.Add(message(f, "denied", tcp))
	f.Fuzz(func(_ *testing.T, b []byte) { _, _ = Parse(b) })
}

func TestCloseEndsNext(t *testing.T) {
	r, err := Open(99)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { _, _, err := r.Next(); done <- err }()
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err == nil {
		t.Error("Next gave no error")
	}
}
