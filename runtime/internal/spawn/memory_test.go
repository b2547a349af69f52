package spawn

import (
	"os"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestParseMaps(t *testing.T) {
	const maps = `00400000-00501000 r-xp 00000000 00:01 7 /memfd:tero-init (deleted)
00600000-00620000 rw-p 00200000 00:01 7 /memfd:tero-init (deleted)
00620000-00640000 rw-p 00000000 00:00 0
c000000000-c000400000 rw-p 00000000 00:00 0
c000400000-c004000000 ---p 00000000 00:00 0
7f0000000000-7f0001000000 rw-s 00000000 00:01 9 /dev/zero (deleted)
7ffc00000000-7ffc00021000 rw-p 00000000 00:00 0 [stack]
7ffc00030000-7ffc00032000 r-xp 00000000 00:00 0 [vdso]
rubbish
8-4 rw-p 0 0 0
`
	want := []span{{0x600000, 0x640000}, {0xc000000000, 0xc004000000}, {0x7ffc00000000, 0x7ffc00021000}}
	if diff := cmp.Diff(want, parseMaps([]byte(maps)), cmp.AllowUnexported(span{})); diff != "" {
		t.Error(diff)
	}
	b, err := os.ReadFile("/proc/self/maps")
	if err != nil {
		t.Fatal(err)
	}
	if n := len(parseMaps(b)); n == 0 {
		t.Errorf("%d pieces of this process's own memory", n)
	}
}
