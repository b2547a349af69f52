package cni_test

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"tero.internal/network-manager/internal/nettest"
)

// BenchmarkPlugin measures ADD and DEL as a runtime sees them, the start of the
// plugin included.
func BenchmarkPlugin(b *testing.B) {
	_, bin := start(b)
	verb := func(verb, id, netns string) time.Duration {
		cmd := exec.CommandContext(b.Context(), filepath.Join(bin, "quantum-cni"))
		cmd.Env = []string{
			"QUANTUM_CNI_SOCKET=" + os.Getenv("QUANTUM_CNI_SOCKET"), "CNI_COMMAND=" + verb, "CNI_CONTAINERID=" + id,
			"CNI_NETNS=" + netns, "CNI_IFNAME=eth0", "CNI_PATH=" + bin,
		}
		cmd.Stdin = strings.NewReader(`{"cniVersion":"1.0.0","name":"tero","type":"quantum-cni"}`)
		var out bytes.Buffer
		cmd.Stdout = &out
		begin := time.Now()
		if err := cmd.Run(); err != nil {
			b.Fatalf("%s: %v %s", verb, err, out.String())
		}
		return time.Since(begin)
	}
	var add, del []time.Duration
	for i := 0; b.Loop(); i++ {
		b.StopTimer()
		ns := nettest.New(b)
		b.StartTimer()
		id := fmt.Sprintf("c%d", i)
		add = append(add, verb("ADD", id, ns.Path()))
		del = append(del, verb("DEL", id, ns.Path()))
		b.StopTimer()
		ns.End()
		b.StartTimer()
	}
	slices.Sort(add)
	slices.Sort(del)
	b.ReportMetric(float64(add[len(add)/2].Microseconds()), "ADD-p50-µs")
	b.ReportMetric(float64(del[len(del)/2].Microseconds()), "DEL-p50-µs")
}
