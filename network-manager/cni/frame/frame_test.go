package frame_test

import (
	"strings"
	"testing"

	"tero.internal/network-manager/cni/frame"
)

func TestParse(t *testing.T) {
	r, err := frame.Parse([]byte("ADD\x00c1\x00/ns\x00eth0\x00A=b\x00/bin\x00\x00{}"))
	if err != nil || r.Command != "ADD" || r.ContainerID != "c1" || r.NetNS != "/ns" || r.Interface != "eth0" || r.Args != "A=b" || string(r.Stdin) != "{}" {
		t.Errorf("%+v %v", r, err)
	}
	for _, bad := range []string{"", "ADD", "a\x00b\x00c\x00d\x00e\x00f\x00g", strings.Repeat("x", 70000) + "\x00\x00\x00\x00\x00\x00\x00"} {
		if _, err := frame.Parse([]byte(bad)); err == nil {
			t.Errorf("%.20q was parsed", bad)
		}
	}
}

func TestLength(t *testing.T) {
	var b [frame.LengthBytes]byte
	for _, n := range []int{0, 1, 255, 70000, frame.MaxRequest} {
		frame.PutLength(b[:], n)
		if got, err := frame.Length(b); err != nil || got != n {
			t.Errorf("%d: %d %v", n, got, err)
		}
	}
	frame.PutLength(b[:], frame.MaxRequest+1)
	if _, err := frame.Length(b); err == nil {
		t.Error("a length over the limit was taken")
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte("ADD\x00c1\x00/ns\x00eth0\x00A=b\x00/bin\x00\x00{}"))
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := frame.Parse(b)
		if err != nil {
			return
		}
		values := []string{r.Command, r.ContainerID, r.NetNS, r.Interface, r.Args, r.Path, r.NetNSOverride}
		if got := strings.Join(values, "\x00") + "\x00" + string(r.Stdin); got != string(b) {
			t.Errorf("%q became %q", b, got)
		}
	})
}
